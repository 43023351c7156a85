//! KubeVirt's and CDI's objects, projected to the fields that we use.
//!
//! We never write them from these types: a VirtualMachine is created from rendered JSON and otherwise only patched.

use kube::core::ObjectMeta;
use machinist_shared::kubevirt::observed::{DataVolumeStatus, VmStatus, VmiStatus};
use machinist_shared::names::label;
use serde::{Deserialize, Deserializer};

fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Metadata without what is not read of any: thousands are held.
fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let mut metadata = ObjectMeta::deserialize(deserializer)?;
    metadata.managed_fields = None;
    metadata.annotations = None;
    metadata.finalizers = None;
    Ok(metadata)
}

/// The same of a disk, with our own labels only.
fn disk<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let mut metadata = metadata(deserializer)?;
    if let Some(labels) = &mut metadata.labels {
        labels.retain(|key, _| [label::MACHINE_UID, label::CLUSTER_UID].contains(&key.as_str()));
    }
    metadata.labels = metadata.labels.filter(|labels| !labels.is_empty());
    Ok(metadata)
}

/// The same without labels: a VMI has those of its VM.
fn unlabelled<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let mut metadata = metadata(deserializer)?;
    metadata.labels = None;
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

/// What we read of a VirtualMachine's spec.
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
    #[serde(deserialize_with = "nullable")]
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
    #[serde(deserialize_with = "unlabelled")]
    pub metadata: ObjectMeta,
    /// Spec.
    #[serde(default, deserialize_with = "nullable")]
    pub spec: VmiSpec,
    /// Status.
    #[serde(default, deserialize_with = "nullable")]
    pub status: VmiStatus,
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

/// What we read of a VirtualMachineInstance's spec.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VmiSpec {
    /// What shall happen when its host is drained.
    #[serde(deserialize_with = "nullable")]
    pub eviction_strategy: String,
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

/// A PersistentVolumeClaim, of which we read the metadata only.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Claim {
    /// Metadata.
    #[serde(deserialize_with = "disk")]
    pub metadata: ObjectMeta,
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
