//! Labels and annotations of the VM: one map of labels for the VM and its template; annotations for the template.

use std::collections::BTreeMap;

use super::RenderInput;
use crate::api::names::{annotation, label};

type Map = BTreeMap<String, String>;

/// Labels that KubeVirt rejects on a template. A Machine may have them, its VM cannot.
pub(crate) const RESERVED_LABELS: [&str; 6] = [
    label::KUBEVIRT_CREATED_BY,
    "kubevirt.io/migrationJobUID",
    "kubevirt.io/nodeName",
    "kubevirt.io/migrationTargetNodeName",
    "kubevirt.io/schedulable",
    "kubevirt.io/install-strategy",
];

/// Labels of the VM and of its template; later ones overwrite earlier ones, so a Machine's labels cannot change the
/// owner of the VM.
pub(super) fn labels(input: &RenderInput<'_>) -> Map {
    let spec = input.spec;
    let mut labels = Map::new();
    let mut set = |key: &str, value: &str| labels.insert(key.to_owned(), value.to_owned());
    let (region, zone) = failure_domain(input);
    for (key, value) in [(label::REGION, region), (label::ZONE, zone)] {
        if let Some(value) = value {
            set(key, value);
        }
    }
    let allowed = |key: &str| !RESERVED_LABELS.contains(&key);
    for (key, value) in input.labels.iter().filter(|(key, _)| allowed(key)) {
        set(key, value);
    }
    set(label::KUBEVIRT_VM, input.name);
    if let Some(deployment) = input.machine_deployment {
        set(label::MACHINE_DEPLOYMENT, deployment);
    }
    set(label::CLUSTER_NAME, &spec.cluster_name);
    set(label::ROLE, label::ROLE_WORKER);
    set(label::PROJECT_ID, &spec.project_id);
    set(label::CLUSTER_ID, &spec.cluster_name);
    set(label::MACHINE_UID, input.uid);
    set(label::CLUSTER_UID, input.cluster_uid);
    labels
}

/// Region and zone: the spec's own, else the StorageClass's.
pub(super) fn failure_domain<'a>(input: &RenderInput<'a>) -> (Option<&'a str>, Option<&'a str>) {
    let own = |text: &'a str| Some(text).filter(|text| !text.is_empty());
    let region = own(&input.spec.region).or(input.facts.region.as_deref());
    let zone = own(&input.spec.zone).or(input.facts.zone.as_deref());
    (region, zone)
}

/// Annotations of the template, and those of the primary DataVolume.
pub(super) fn annotations(input: &RenderInput<'_>) -> (Map, Map) {
    let mut annotations = Map::new();
    let mut set = |key: &str, value: &str| annotations.insert(key.to_owned(), value.to_owned());
    if let Some(ignition) = input.ignition {
        set(annotation::IGNITION, ignition);
        // Without it, KubeVirt from 1.6.4 on loses Ignition's argument when it adds hotplug ports.
        set("kubevirt.io/placePCIDevicesOnRootComplex", "true");
    }
    set("kubevirt.io/allow-pod-bridge-network-live-migration", "true");
    set("ovn.kubernetes.io/allow_live_migration", "true");
    if !input.spec.subnet.is_empty() {
        set(annotation::OVN_LOGICAL_SWITCH, &input.spec.subnet);
    }
    let mut disk = Map::new();
    for (key, value) in input.annotations {
        if key.starts_with(annotation::CDI_PREFIX) {
            disk.insert(key.clone(), value.clone());
        } else if key != annotation::LAST_APPLIED {
            set(key, value);
        }
    }
    (annotations, disk)
}
