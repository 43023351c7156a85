//! A resolved spec: references read, environment applied, provider defaults added.

mod usable;

use k8s_openapi::api::core::v1::PodDNSConfig;

use super::kinds;
use super::spec::{ACCESS_MODES, CloudProviderSpec, Matcher, SecondaryDisk, VirtualMachine};
use crate::api::config_var::ConfigVar;
use crate::provider::{Env, Lookup, Secret, Unresolved, cluster_name};
use crate::provider::{is_known_missing, value};

/// A resolved spec.
#[derive(Clone, Default, PartialEq)]
pub struct ResolvedSpec {
    /// Value of the cluster-name labels.
    pub cluster_name: String,
    /// Value of the project label.
    pub project_id: String,
    /// Instancetype.
    pub instancetype: Option<Matcher>,
    /// Preference.
    pub preference: Option<Matcher>,
    /// vCPUs as cores, or 0.
    pub vcpu_cores: i64,
    /// CPUs, a quantity or empty.
    pub cpus: String,
    /// Memory, a quantity or empty.
    pub memory: String,
    /// The disk with the operating system.
    pub primary_disk: Disk,
    /// Its image.
    pub image: Image,
    /// Use `spec.pvc` instead of `spec.storage`.
    pub storage_target_pvc: bool,
    /// Further disks.
    pub secondary_disks: Vec<Disk>,
    /// DNS policy, or empty.
    pub dns_policy: String,
    /// DNS configuration.
    pub dns_config: Option<PodDNSConfig>,
    /// Region, or empty.
    pub region: String,
    /// Zone, or empty.
    pub zone: String,
    /// Subnet, or empty.
    pub subnet: String,
    /// Multiple queues per network interface.
    pub network_multi_queue: bool,
    /// Eviction strategy, or empty.
    pub eviction_strategy: String,
    /// Kind of the node affinity, lower case: `hard`, `soft` or empty.
    pub node_affinity: String,
    /// Its label key.
    pub node_affinity_key: String,
    /// Its label values.
    pub node_affinity_values: Vec<String>,
    /// Topology spread.
    pub topology_spread: Vec<Spread>,
    /// `machinist.registries.credentials`, or empty.
    pub registry_credentials: Secret,
    /// `machinist.caBundle`, PEM, or empty.
    pub ca_bundle: Secret,
}

/// A topology spread constraint.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Spread {
    /// Maximum difference in VMs between two domains.
    pub max_skew: i32,
    /// Label that identifies the domains.
    pub topology_key: String,
    /// `DoNotSchedule`, `ScheduleAnyway`, or empty.
    pub when_unsatisfiable: String,
}

/// A disk.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Disk {
    /// Size, a quantity.
    pub size: String,
    /// StorageClass.
    pub storage_class: String,
    /// Access mode, or empty: from the StorageProfile.
    pub access_mode: String,
    /// The spec sets no access mode for it, so its StorageProfile determines the mode (unless the primary disk's
    /// applies) and the matching volume mode.
    pub by_profile: bool,
}

/// The image of the operating system.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// URL, image or claim.
    pub location: String,
    /// `http`, `registry` or `pvc`; other values are inferred from the image.
    pub source: String,
    /// `node`, `pod` or empty.
    pub pull_method: String,
    /// Secret on the infra cluster, or empty.
    pub secret: String,
    /// Headers.
    pub extra_headers: Vec<String>,
    /// Secret on the infra cluster with headers, or empty.
    pub extra_headers_secret: String,
}

hidden!(ResolvedSpec, Spread, Disk, Image);

/// The disks to claim: the primary one and the others.
fn disks(vm: &VirtualMachine, lookup: &Lookup<'_>) -> Result<(Disk, Vec<Disk>), Unresolved> {
    let text = |field, var: &ConfigVar<String>| Ok(value(field, var, lookup)?.unwrap_or_default());
    let disk = &vm.primary_disk;
    let access_mode = match text("primaryDisk.storageAccessType", &disk.access_mode) {
        // machine-controller ignores the field.
        Err(error) if is_known_missing(&error) => String::new(),
        found => found?,
    };
    let primary = Disk {
        size: text("primaryDisk.size", &disk.size)?,
        storage_class: text("primaryDisk.storageClassName", &disk.storage_class)?,
        by_profile: access_mode.is_empty(),
        access_mode,
    };
    let secondary = |disk: &SecondaryDisk| {
        let storage_class = text("secondaryDisks.storageClassName", &disk.storage_class)?;
        let own = text("secondaryDisks.storageAccessType", &disk.access_mode)?;
        let by_profile = own.is_empty();
        // machine-controller uses the primary disk's value for every disk.
        let access_mode = if ACCESS_MODES.contains(&own.as_str()) {
            own
        } else if storage_class == primary.storage_class {
            primary.access_mode.clone()
        } else {
            String::new()
        };
        Ok(Disk {
            size: text("secondaryDisks.size", &disk.size)?,
            storage_class,
            by_profile: by_profile || access_mode.is_empty(),
            access_mode,
        })
    };
    let others = vm.secondary_disks.iter().map(secondary);
    let others = others.collect::<Result<_, _>>()?;
    Ok((primary, others))
}

/// Resolves everything except the kubeconfig. Values that machine-controller cannot use either are errors; KubeVirt
/// validates the rest, so that no spec with an existing VM fails here.
pub fn resolve(spec: &CloudProviderSpec, env: &Env, lookup: &Lookup<'_>) -> Result<ResolvedSpec, Unresolved> {
    let resolved = resolve_unchecked(spec, env, lookup)?;
    resolved.check()?;
    Ok(resolved)
}

/// Resolves whatever a VM can be rendered from, even values that KubeVirt refuses.
pub(super) fn resolve_unchecked(
    spec: &CloudProviderSpec,
    env: &Env,
    lookup: &Lookup<'_>,
) -> Result<ResolvedSpec, Unresolved> {
    let text = |field, var: &ConfigVar<String>| Ok(value(field, var, lookup)?.unwrap_or_default());
    let vm = &spec.virtual_machine;
    let disk = &vm.primary_disk;
    let (primary_disk, secondary_disks) = disks(vm, lookup)?;
    Ok(ResolvedSpec {
        cluster_name: cluster_name(&spec.cluster_name, env, lookup)?,
        project_id: if env.project_id.is_empty() {
            text("projectID", &spec.project_id)?
        } else {
            env.project_id.clone()
        },
        // machine-controller ignores an instancetype's kind; KubeVirt validates a preference's.
        instancetype: vm.instancetype.as_ref().map(|it| Matcher {
            kind: kinds::canonical(&it.kind, kinds::INSTANCETYPES)
                .unwrap_or_default()
                .to_owned(),
            ..it.clone()
        }),
        preference: vm.preference.as_ref().map(|it| Matcher {
            kind: kinds::canonical(&it.kind, kinds::PREFERENCES)
                .unwrap_or(&it.kind)
                .to_owned(),
            ..it.clone()
        }),
        vcpu_cores: vm.vcpu_cores,
        cpus: text("cpus", &vm.cpus)?,
        memory: text("memory", &vm.memory)?,
        image: Image {
            location: text("primaryDisk.osImage", &disk.os_image)?,
            source: text("primaryDisk.source", &disk.source)?,
            pull_method: text("primaryDisk.pullMethod", &disk.pull_method)?,
            secret: text("primaryDisk.dataVolumeSecretRef", &disk.data_volume_secret)?,
            extra_headers: disk.extra_headers.clone(),
            extra_headers_secret: text("primaryDisk.extraHeadersSecretRef", &disk.extra_headers_secret)?,
        },
        storage_target_pvc: text("primaryDisk.storageTarget", &disk.storage_target)? == "pvc",
        secondary_disks,
        primary_disk,
        dns_policy: text("dnsPolicy", &vm.dns_policy)?,
        dns_config: vm.dns_config.clone(),
        region: vm.region.clone(),
        zone: vm.zone.clone(),
        subnet: vm.subnet.clone(),
        network_multi_queue: value("enableNetworkMultiQueue", &vm.network_multi_queue, lookup)?
            .unwrap_or(true),
        eviction_strategy: vm.eviction_strategy.clone(),
        node_affinity: text("nodeAffinityPreset.type", &spec.node_affinity.kind)?.to_lowercase(),
        node_affinity_key: text("nodeAffinityPreset.key", &spec.node_affinity.key)?,
        node_affinity_values: spec
            .node_affinity
            .values
            .iter()
            .map(|var| text("nodeAffinityPreset.values", var))
            .collect::<Result<_, _>>()?,
        topology_spread: spec
            .topology_spread
            .iter()
            .map(|t| {
                Ok(Spread {
                    max_skew: usable::whole_number(
                        "topologySpreadConstraints.maxSkew",
                        &text("topologySpreadConstraints.maxSkew", &t.max_skew)?,
                    )?,
                    topology_key: text("topologySpreadConstraints.topologyKey", &t.topology_key)?,
                    when_unsatisfiable: text(
                        "topologySpreadConstraints.whenUnsatisfiable",
                        &t.when_unsatisfiable,
                    )?,
                })
            })
            .collect::<Result<_, Unresolved>>()?,
        registry_credentials: Secret::new(text(
            "machinist.registries.credentials",
            &spec.machinist.registries.credentials,
        )?),
        ca_bundle: Secret::new(text("machinist.caBundle", &spec.machinist.ca_bundle)?),
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::config_var::LookupError;
    use crate::api::decode::Fields;
    use crate::api::field::{FieldPath, Report};

    /// A usable spec, with a change merged over it. References lead to what is written in their key.
    fn resolved(change: &Value) -> Result<ResolvedSpec, Unresolved> {
        let mut spec = json!({"clusterName": "spec", "virtualMachine": {"template": {
            "cpus": "2", "memory": "4Gi",
            "primaryDisk": {"osImage": "http://x/ubuntu.img", "size": "10Gi", "storageClassName": "standard"},
        }}});
        json_patch::merge(&mut spec, change);
        let (object, mut report) = (json!({"s": spec}), Report::new());
        let mut fields = Fields::of(&object, FieldPath::default(), &mut report).unwrap();
        let spec = super::super::spec::decode(&fields.take("s"), &mut report).unwrap();
        assert!(report.is_ok(), "{:?}", report.errors);
        let env = Env::new(|name| (name == "CLUSTER_ID").then(|| "env".to_owned()));
        resolve(&spec, &env, &|key| match key.key.as_str() {
            "nowhere" => Err(LookupError::NoKey),
            "unknown" => Err(LookupError::Unavailable("no answer".to_owned())),
            text => Ok(text.to_owned()),
        })
    }

    fn behind(text: &str) -> Value {
        json!({"secretKeyRef": {"namespace": "a", "name": "b", "key": text}})
    }

    #[test]
    fn the_environment_wins_over_the_cluster_name() {
        let resolved = resolved(&json!({})).unwrap();
        assert_eq!(
            (resolved.cluster_name.as_str(), resolved.network_multi_queue),
            ("env", true)
        );
    }

    #[test]
    fn a_disk_without_a_usable_access_mode_gets_what_its_class_offers() {
        let primary = |mode: Value| {
            let resolved = resolved(
                &json!({"virtualMachine": {"template": {"primaryDisk": {"storageAccessType": mode}}}}),
            );
            resolved.map(|spec| spec.primary_disk.access_mode)
        };
        assert_eq!(primary(behind("ReadWriteMany")).unwrap(), "ReadWriteMany");
        assert_eq!(primary(behind("nowhere")).unwrap(), "");
        assert!(primary(behind("unknown")).is_err(), "it may be there");
        let secondary = |mode: &str, class: &str, primary: &str| {
            let disks = json!([{"size": "1Gi", "storageClassName": class, "storageAccessType": mode}]);
            let template = json!({"secondaryDisks": disks, "primaryDisk": {"storageAccessType": primary}});
            let resolved = resolved(&json!({"virtualMachine": {"template": template}})).unwrap();
            resolved.secondary_disks[0].access_mode.clone()
        };
        assert_eq!(
            secondary("ReadWriteOnce", "standard", "ReadWriteMany"),
            "ReadWriteOnce"
        );
        assert_eq!(
            secondary("", "standard", "ReadWriteMany"),
            "ReadWriteMany",
            "the primary's"
        );
        assert_eq!(secondary("RWX", "standard", "ReadWriteMany"), "ReadWriteMany");
        assert_eq!(
            secondary("", "fast", "ReadWriteMany"),
            "",
            "another class may not have it"
        );
        assert_eq!(secondary("RWX", "standard", ""), "");
    }

    #[test]
    fn a_value_behind_a_reference_is_used() {
        let resolved = resolved(&json!({
            "projectID": behind("p"),
            "virtualMachine": {"enableNetworkMultiQueue": behind("F"), "template": {"cpus": behind("500m")}},
            "topologySpreadConstraints": [{"maxSkew": behind("2"), "topologyKey": "k", "whenUnsatisfiable": "DoNotSchedule"}],
        }))
        .unwrap();
        let skew = resolved.topology_spread[0].max_skew;
        assert_eq!(
            (
                resolved.project_id.as_str(),
                resolved.cpus.as_str(),
                resolved.network_multi_queue,
                skew
            ),
            ("p", "500m", false, 2)
        );
    }

    #[rstest]
    #[case::memory(json!({"virtualMachine": {"template": {"memory": behind("sesame")}}}), "memory")]
    #[case::cpus(json!({"virtualMachine": {"template": {"cpus": behind("sesame")}}}), "cpus")]
    #[case::size(json!({"virtualMachine": {"template": {"primaryDisk": {"size": behind("sesame")}}}}), "primaryDisk.size")]
    #[case::secondary(json!({"virtualMachine": {"template": {"secondaryDisks": [{"size": behind("sesame")}]}}}), "secondaryDisks.size")]
    #[case::pull_method(json!({"virtualMachine": {"template": {"primaryDisk": {"pullMethod": behind("sesame")}}}}), "primaryDisk.pullMethod")]
    #[case::dns_policy(json!({"virtualMachine": {"dnsPolicy": behind("sesame")}}), "dnsPolicy")]
    #[case::affinity(json!({"affinity": {"nodeAffinityPreset": {"type": behind("sesame")}}}), "nodeAffinityPreset.type")]
    #[case::skew(json!({"topologySpreadConstraints": [{"maxSkew": behind("sesame")}]}), "topologySpreadConstraints.maxSkew")]
    #[case::headers(json!({"virtualMachine": {"template": {"primaryDisk": {"extraHeaders": ["a: b"], "extraHeadersSecretRef": behind("sesame")}}}}), "primaryDisk.extraHeadersSecretRef")]
    fn what_a_reference_holds_must_be_usable_and_is_not_shown(#[case] change: Value, #[case] blamed: &str) {
        let error = resolved(&change).unwrap_err();
        assert!(
            matches!(error, Unresolved::Unusable { field, .. } if field == blamed),
            "{error}"
        );
        assert!(!error.to_string().contains("sesame"), "{error}");
    }

    #[test]
    fn kinds_are_spelled_in_one_way_from_here_on() {
        let resolved = resolved(&json!({"virtualMachine": {
            "instancetype": {"name": "i", "kind": "virtualmachineinstancetypes"},
            "preference": {"name": "p", "kind": "virtualMachineClusterPreference"},
        }}))
        .unwrap();
        assert_eq!(resolved.instancetype.unwrap().kind, kinds::INSTANCETYPE);
        assert_eq!(resolved.preference.unwrap().kind, kinds::CLUSTER_PREFERENCE);
    }

    #[test]
    fn nothing_that_a_reference_held_is_shown_by_debug() {
        let change = json!({"projectID": behind("sesame"), "virtualMachine": {"template": {
            "primaryDisk": {"osImage": behind("sesame"), "extraHeaders": ["x: sesame"]},
            "secondaryDisks": [{"size": "1Gi", "storageClassName": behind("sesame")}],
        }}, "topologySpreadConstraints": [{"maxSkew": "1", "topologyKey": behind("sesame")}]});
        let resolved = resolved(&change).unwrap();
        let facts = super::super::facts::Facts {
            extra_headers: vec!["authorization: sesame".to_owned()],
            ..Default::default()
        };
        let needed = super::super::facts::facts_needed(&resolved);
        let shown = format!(
            "{resolved:?} {:?} {:?} {:?} {:?} {facts:?} {needed:?}",
            resolved.image, resolved.primary_disk, resolved.secondary_disks, resolved.topology_spread
        );
        assert!(!shown.contains("sesame"), "{shown}");
    }

    #[test]
    fn beside_an_instancetype_cpus_and_memory_are_not_read() {
        let change = json!({"virtualMachine": {"instancetype": {"name": "i"}, "template": {"cpus": "x", "memory": "y"}}});
        assert!(resolved(&change).is_ok());
    }
}
