//! KubeVirt's and CDI's objects, projected to the used fields.
//!
//! They are never written from these types: a VirtualMachine is created from rendered JSON and otherwise only patched.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use kube::core::ObjectMeta;
use machinist_shared::api::names::label;
use machinist_shared::kubevirt::observed::{DataVolumeStatus, VmStatus, VmiStatus, bounded};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};

fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Metadata without unused fields, because thousands of objects are cached.
fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let mut metadata = ObjectMeta::deserialize(deserializer)?;
    metadata.managed_fields = None;
    metadata.annotations = None;
    metadata.finalizers = None;
    metadata.generate_name = None;
    metadata.self_link = None;
    Ok(metadata)
}

/// A cached object of an infra cluster. Its owner determines how much of it is cached.
pub trait Cached:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()>
    + Clone
    + DeserializeOwned
    + Debug
    + Send
    + Sync
    + 'static
{
    /// UID of its user cluster, from its label.
    fn cluster_uid(&self) -> Option<&str> {
        let labels = self.meta().labels.as_ref()?;
        labels.get(label::CLUSTER_UID).map(String::as_str)
    }

    /// Reduces a foreign object to its identity: name, UID, owners and addresses.
    fn reduce(&mut self);

    /// Whether it is reduced.
    fn is_reduced(&self) -> bool;

    /// Its approximate size in bytes.
    fn bytes(&self) -> usize;
}

/// Approximate sizes in bytes.
mod size {
    use kube::core::ObjectMeta;
    use machinist_shared::kubevirt::observed::{Condition, Interface, Transition};

    /// Overhead of maps and allocations for each string.
    const TEXT: usize = 48;

    pub(super) fn of_texts<'a>(texts: impl IntoIterator<Item = &'a String>) -> usize {
        texts.into_iter().map(|text| text.len() + TEXT).sum()
    }

    pub(super) fn of_metadata(metadata: &ObjectMeta) -> usize {
        let texts = [
            &metadata.name,
            &metadata.namespace,
            &metadata.uid,
            &metadata.resource_version,
        ];
        let labels = metadata.labels.iter().flatten();
        let owners = metadata.owner_references.iter().flatten();
        size_of::<ObjectMeta>()
            + of_texts(texts.into_iter().flatten())
            // Includes the key of the store.
            + of_texts(metadata.name.iter().chain(&metadata.namespace))
            + labels.map(|(key, value)| key.len() + value.len() + 2 * TEXT).sum::<usize>()
            + owners
                .map(|owner| of_texts([&owner.api_version, &owner.kind, &owner.name, &owner.uid]))
                .sum::<usize>()
    }

    pub(super) fn of_conditions(conditions: &[Condition]) -> usize {
        let texts = conditions
            .iter()
            .flat_map(|c| [&c.kind, &c.status, &c.reason, &c.message]);
        size_of_val(conditions) + of_texts(texts)
    }

    pub(super) fn of_interfaces(interfaces: &[Interface]) -> usize {
        let addresses = interfaces
            .iter()
            .flat_map(|i| i.ip_addresses.iter().chain([&i.name, &i.ip_address]));
        // Addresses are indexed.
        size_of_val(interfaces) + 3 * of_texts(addresses)
    }

    pub(super) fn of_transitions(transitions: &[Transition]) -> usize {
        size_of_val(transitions) + of_texts(transitions.iter().map(|transition| &transition.phase))
    }
}

/// Reduces a disk, keeping only the labels that name its owner.
fn disk<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let mut metadata = metadata(deserializer)?;
    keep_ours(&mut metadata);
    Ok(metadata)
}

/// Keeps our own labels, and KubeVirt's with the UID of the VM that a disk was made for.
fn keep_ours(metadata: &mut ObjectMeta) {
    let kept = [label::MACHINE_UID, label::CLUSTER_UID, label::KUBEVIRT_CREATED_BY];
    if let Some(labels) = &mut metadata.labels {
        labels.retain(|key, _| kept.contains(&key.as_str()));
    }
    metadata.labels = metadata.labels.take().filter(|labels| !labels.is_empty());
}

/// Reduces a VMI, which has the labels of its VM, keeping its owner's label.
fn instance<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let mut metadata = metadata(deserializer)?;
    if let Some(labels) = &mut metadata.labels {
        labels.retain(|key, _| key == label::CLUSTER_UID);
    }
    metadata.labels = metadata.labels.filter(|labels| !labels.is_empty());
    Ok(metadata)
}

/// A VirtualMachine.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Vm {
    /// Metadata.
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    /// Spec.
    #[serde(default, deserialize_with = "nullable")]
    pub spec: VmSpec,
    /// Status.
    #[serde(default, deserialize_with = "nullable")]
    pub status: VmStatus,
    #[serde(skip)]
    is_reduced: bool,
}

impl Cached for Vm {
    fn reduce(&mut self) {
        (self.spec, self.status, self.is_reduced) = (VmSpec::default(), VmStatus::default(), true);
        keep_ours(&mut self.metadata);
    }

    fn is_reduced(&self) -> bool {
        self.is_reduced
    }

    fn bytes(&self) -> usize {
        let volumes = &self.spec.template.spec.volumes;
        let secret = |volume: &Volume| {
            volume
                .cloud_init_no_cloud
                .as_ref()?
                .secret_ref
                .as_ref()
                .map(|secret| secret.name.len())
        };
        size_of::<Self>()
            + size::of_metadata(&self.metadata)
            + size::of_conditions(&self.status.conditions)
            + size_of_val(volumes.as_slice())
            + volumes.iter().filter_map(secret).sum::<usize>()
            + size::of_texts([&self.status.printable_status])
            + size::of_texts(
                self.spec
                    .run_strategy
                    .iter()
                    .chain(&self.spec.template.spec.domain.firmware.uuid),
            )
    }
}
crate::projected!(
    Vm,
    NamespaceResourceScope,
    "VirtualMachine",
    "kubevirt.io",
    "v1",
    "virtualmachines"
);
crate::serialize_metadata!(Vm);

/// The used fields of a VirtualMachine's spec.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct VmSpec {
    #[serde(deserialize_with = "nullable")]
    template: Template,
    /// `Once`, `Always` …
    #[serde(rename = "runStrategy")]
    pub run_strategy: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Template {
    #[serde(deserialize_with = "nullable")]
    spec: TemplateSpec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct TemplateSpec {
    #[serde(deserialize_with = "nullable")]
    domain: Domain,
    #[serde(deserialize_with = "bounded")]
    volumes: Vec<Volume>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Domain {
    #[serde(deserialize_with = "nullable")]
    firmware: Firmware,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Firmware {
    uuid: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Volume {
    cloud_init_no_cloud: Option<CloudInit>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct CloudInit {
    secret_ref: Option<SecretRef>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct SecretRef {
    name: String,
}

impl Vm {
    /// UUID of the firmware, which the guest's kubelet reports as its system UUID.
    pub fn firmware_uuid(&self) -> Option<&str> {
        self.spec.template.spec.domain.firmware.uuid.as_deref()
    }

    /// Name of the Secret with the user data.
    pub fn user_data_secret(&self) -> Option<&str> {
        let volumes = self.spec.template.spec.volumes.iter();
        volumes
            .filter_map(|v| v.cloud_init_no_cloud.as_ref()?.secret_ref.as_ref())
            .map(|s| s.name.as_str())
            .next()
    }
}

/// A VirtualMachineInstance.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Vmi {
    /// Metadata.
    #[serde(deserialize_with = "instance")]
    pub metadata: ObjectMeta,
    /// Spec.
    #[serde(default, deserialize_with = "nullable")]
    pub spec: VmiSpec,
    /// Status.
    #[serde(default, deserialize_with = "nullable")]
    pub status: VmiStatus,
    #[serde(skip)]
    is_reduced: bool,
}

impl Cached for Vmi {
    fn reduce(&mut self) {
        let interfaces = std::mem::take(&mut self.status.interfaces);
        self.status = VmiStatus {
            interfaces,
            ..VmiStatus::default()
        };
        (self.spec, self.metadata.labels, self.is_reduced) = (VmiSpec::default(), None, true);
    }

    fn is_reduced(&self) -> bool {
        self.is_reduced
    }

    fn bytes(&self) -> usize {
        let (spec, status) = (&self.spec, &self.status);
        let interfaces = &spec.domain.devices.interfaces;
        size_of::<Self>()
            + size::of_metadata(&self.metadata)
            + size::of_conditions(&status.conditions)
            + size::of_interfaces(&status.interfaces)
            + size::of_transitions(&status.phase_transition_timestamps)
            + size_of_val(interfaces.as_slice())
            + size::of_texts(interfaces.iter().map(|interface| &interface.name))
            + size::of_texts([
                &spec.eviction_strategy,
                &status.phase,
                &status.reason,
                &status.node_name,
                &status.evacuation_node_name,
            ])
    }
}
crate::projected!(
    Vmi,
    NamespaceResourceScope,
    "VirtualMachineInstance",
    "kubevirt.io",
    "v1",
    "virtualmachineinstances"
);
crate::serialize_metadata!(Vmi);

/// The used fields of a VirtualMachineInstance's spec.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VmiSpec {
    /// Its eviction strategy for a drain of its host.
    #[serde(deserialize_with = "nullable")]
    pub eviction_strategy: String,
    #[serde(deserialize_with = "nullable")]
    domain: VmiDomain,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct VmiDomain {
    #[serde(deserialize_with = "nullable")]
    devices: Devices,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Devices {
    #[serde(deserialize_with = "bounded")]
    interfaces: Vec<InterfaceSpec>,
}

/// An interface of the spec, with its binding.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct InterfaceSpec {
    #[serde(deserialize_with = "nullable")]
    name: String,
    masquerade: Option<IgnoredAny>,
}

impl Vmi {
    /// Addresses that the guest does not control: those that KubeVirt knows without the guest agent, and those of the
    /// pod if the interface has the binding `masquerade`.
    pub fn proven_addresses(&self) -> Vec<String> {
        let interfaces = &self.spec.domain.devices.interfaces;
        let behind_pod = |name: &str| {
            let mut masqueraded = interfaces.iter().filter(|spec| spec.masquerade.is_some());
            masqueraded.any(|spec| spec.name == name)
        };
        self.status.addresses_beside_agent(behind_pod)
    }
}

/// A DataVolume.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct DataVolume {
    /// Metadata.
    #[serde(deserialize_with = "disk")]
    pub metadata: ObjectMeta,
    /// Status.
    #[serde(default, deserialize_with = "nullable")]
    pub status: DataVolumeStatus,
    #[serde(skip)]
    is_reduced: bool,
}

impl Cached for DataVolume {
    fn reduce(&mut self) {
        (self.status, self.is_reduced) = (DataVolumeStatus::default(), true);
    }

    fn is_reduced(&self) -> bool {
        self.is_reduced
    }

    fn bytes(&self) -> usize {
        let status = &self.status;
        size_of::<Self>()
            + size::of_metadata(&self.metadata)
            + size::of_conditions(&status.conditions)
            + size::of_texts([&status.phase, &status.progress])
    }
}
crate::projected!(
    DataVolume,
    NamespaceResourceScope,
    "DataVolume",
    "cdi.kubevirt.io",
    "v1beta1",
    "datavolumes"
);
crate::serialize_metadata!(DataVolume);

/// A PersistentVolumeClaim with only its metadata.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Claim {
    /// Metadata.
    #[serde(deserialize_with = "disk")]
    pub metadata: ObjectMeta,
}

impl Cached for Claim {
    fn reduce(&mut self) {}

    fn is_reduced(&self) -> bool {
        false
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + size::of_metadata(&self.metadata)
    }
}
crate::projected!(
    Claim,
    NamespaceResourceScope,
    "PersistentVolumeClaim",
    "",
    "v1",
    "persistentvolumeclaims"
);
crate::serialize_metadata!(Claim);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_is_read_as_kubevirt_writes_it() {
        let vm: Vm = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "a", "labels": {"a": "b"}, "annotations": {"a": "b"}, "managedFields": [{"manager": "x"}]},
            "spec": {"runStrategy": "Once", "template": {"spec": {
                "domain": {"firmware": {"uuid": "u-1", "serial": "s"}},
                "volumes": [{"name": "d", "dataVolume": {"name": "a"}}, {"name": "c", "cloudInitNoCloud": {"secretRef": {"name": "s"}}}],
            }}},
            "status": null,
        }))
        .unwrap();
        assert_eq!(
            (vm.firmware_uuid(), vm.user_data_secret()),
            (Some("u-1"), Some("s"))
        );
        assert!(vm.metadata.managed_fields.is_none() && vm.metadata.annotations.is_none());
        assert!(vm.metadata.labels.is_some());
    }

    #[test]
    fn what_only_the_guest_agent_reports_is_not_proven() {
        let vmi: Vmi = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "a"},
            "spec": {"domain": {"devices": {"interfaces": [
                {"name": "default", "masquerade": {}}, {"name": "bridged", "bridge": {}}, {"name": "known", "bridge": {}}]}}},
            "status": {"interfaces": [
                {"name": "default", "ipAddress": "10.0.0.1", "infoSource": "domain, guest-agent"},
                {"name": "bridged", "ipAddress": "10.0.0.2", "infoSource": "domain, guest-agent"},
                {"name": "known", "ipAddress": "10.0.0.3", "infoSource": "domain"},
                {"name": "by-whom", "ipAddress": "10.0.0.4"}]},
        }))
        .unwrap();
        assert_eq!(
            vmi.status.addresses(),
            ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]
        );
        assert_eq!(vmi.proven_addresses(), ["10.0.0.1", "10.0.0.3"]);
    }

    #[test]
    fn metadata_is_all_that_a_projected_kind_writes() {
        let meta = ObjectMeta {
            name: Some("a".into()),
            ..ObjectMeta::default()
        };
        let vm = Vm {
            metadata: meta,
            ..Vm::default()
        };
        assert_eq!(
            serde_json::to_value(&vm).unwrap(),
            serde_json::json!({"name": "a"})
        );
    }
}
