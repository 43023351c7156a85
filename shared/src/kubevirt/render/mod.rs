//! The VirtualMachine that a Machine asks for, as JSON.
//!
//! It is created once and never updated. KubeVirt adds fields at admission, so it is never compared as a whole.

mod disks;
mod labels;
mod scheduling;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

use super::facts::Facts;
use super::kinds::CLUSTER_INSTANCETYPE;
use super::resolved::ResolvedSpec;
use super::spec::Matcher;

pub use disks::disk_names;
pub(crate) use disks::{PRIMARY_DISK, secondary_disk};
pub(crate) use labels::RESERVED_LABELS;

/// The input for rendering a VirtualMachine.
#[derive(Debug, Clone, Copy)]
pub struct RenderInput<'a> {
    /// Name of the Machine, and so of the VM.
    pub name: &'a str,
    /// UID of the Machine.
    pub uid: &'a str,
    /// Labels of the Machine.
    pub labels: &'a std::collections::BTreeMap<String, String>,
    /// Annotations of the Machine.
    pub annotations: &'a std::collections::BTreeMap<String, String>,
    /// Name of the MachineDeployment above the Machine.
    pub machine_deployment: Option<&'a str>,
    /// UID of the user cluster.
    pub cluster_uid: &'a str,
    /// Namespace of the VM.
    pub namespace: &'a str,
    /// The resolved spec.
    pub spec: &'a ResolvedSpec,
    /// The facts about the infra cluster.
    pub facts: &'a Facts,
    /// Name of the Secret with the user data.
    pub user_data_secret: &'a str,
    /// User data to pass by Ignition, for flatcar.
    pub ignition: Option<&'a str>,
}

/// Renders the VirtualMachine.
pub fn render(input: &RenderInput<'_>) -> Value {
    let spec = input.spec;
    let labels = labels::labels(input);
    let (annotations, disk_annotations) = labels::annotations(input);
    let mut template = json!({
        "evictionStrategy": if spec.eviction_strategy.is_empty() { "External" } else { &spec.eviction_strategy },
        "terminationGracePeriodSeconds": 30,
        "networks": [{"name": "default", "pod": {}}],
        "domain": {
            "devices": {
                "interfaces": [{"name": "default", "bridge": {}}],
                "networkInterfaceMultiqueue": spec.network_multi_queue,
                "disks": disks::disks(input),
            },
            "resources": resources(spec),
        },
        "volumes": disks::volumes(input),
        "affinity": scheduling::affinity(spec),
        "topologySpreadConstraints": scheduling::topology_spread(spec, input.machine_deployment),
    });
    if spec.instancetype.is_none() && spec.vcpu_cores != 0 {
        template["domain"]["cpu"] = json!({"cores": spec.vcpu_cores});
    }
    if !spec.dns_policy.is_empty() {
        template["dnsPolicy"] = json!(spec.dns_policy);
    }
    if let Some(config) = &spec.dns_config {
        template["dnsConfig"] = json!(config);
    }
    let mut vm_spec = json!({
        "runStrategy": if spec.subnet.is_empty() { "Once" } else { "Always" },
        "template": {"metadata": {"labels": labels, "annotations": annotations}, "spec": template},
        "dataVolumeTemplates": disks::data_volume_templates(input, &disk_annotations),
    });
    if let Some(instancetype) = &spec.instancetype {
        let asked = Some(instancetype.kind.as_str()).filter(|kind| !kind.is_empty());
        let found = input.facts.instancetype_kind.as_deref().or(asked);
        vm_spec["instancetype"] = matcher(instancetype, Some(found.unwrap_or(CLUSTER_INSTANCETYPE)));
    }
    if let Some(preference) = &spec.preference {
        vm_spec["preference"] = matcher(preference, None);
    }
    json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": input.name, "namespace": input.namespace, "labels": labels},
        "spec": vm_spec,
    })
}

/// Requests and limits are equal; an instancetype has its own.
fn resources(spec: &ResolvedSpec) -> Value {
    if spec.instancetype.is_some() {
        return json!({});
    }
    let mut amounts = Map::new();
    if spec.vcpu_cores == 0 {
        amounts.insert("cpu".to_owned(), json!(spec.cpus));
    }
    amounts.insert("memory".to_owned(), json!(spec.memory));
    json!({"requests": amounts, "limits": amounts})
}

/// As written. An instancetype's name gets the discovered kind, and a name excludes inference.
fn matcher(matcher: &Matcher, found_kind: Option<&str>) -> Value {
    let named = !matcher.name.is_empty();
    let kind = found_kind.filter(|_| named).unwrap_or(&matcher.kind);
    let infers = !named || found_kind.is_none();
    let fields = [
        ("name", matcher.name.as_str(), true),
        ("kind", kind, true),
        ("revisionName", &matcher.revision_name, true),
        ("inferFromVolume", &matcher.infer_from_volume, infers),
        (
            "inferFromVolumeFailurePolicy",
            &matcher.infer_from_volume_failure_policy,
            infers,
        ),
    ];
    fields
        .into_iter()
        .filter(|(_, text, written)| *written && !text.is_empty())
        .map(|(key, text, _)| (key.to_owned(), json!(text)))
        .collect()
}
