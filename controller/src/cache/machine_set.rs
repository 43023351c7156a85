//! A MachineSet as stored: decoded as far as it can be, so that one bad object stops no other.

use std::collections::BTreeMap;

use kube::core::ObjectMeta;
use machinist_shared::api::MachineSetStatus;
use machinist_shared::api::config_var::ConfigVarString;
use machinist_shared::api::field::{FieldPath, Report};
use machinist_shared::api::names::{self, annotation};
use machinist_shared::provider_spec::ProviderConfig;
use serde::Deserialize;
use serde_json::Value;

use super::machine::StoredMachine;
use super::named::named;
use super::owner;
use super::raw::Raw;
use super::selection::Selection;
use super::spec::{Fields, Template};
use crate::autoscaler;

/// A MachineSet as stored.
#[derive(Clone, Deserialize)]
#[serde(from = "Raw")]
pub struct StoredMachineSet {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// How many Machines; required.
    pub replicas: Option<i32>,
    /// Seconds that a Node must be Ready before its Machine counts as available.
    pub min_ready_seconds: i32,
    /// Which Machines go first; empty is `Random`.
    pub delete_policy: String,
    /// Which Machines are its own.
    pub selector: Selection,
    /// The Machine to make.
    pub template: Template,
    /// `auth.kubeconfig` of the template, whatever else is wrong with that.
    pub kubeconfig: ConfigVarString,
    /// What was written last; what cannot be decoded counts as absent.
    pub status: MachineSetStatus,
    /// What of the spec cannot be decoded.
    pub undecodable: Option<String>,
}

/// Without the template and its credential.
impl std::fmt::Debug for StoredMachineSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredMachineSet")
            .field("namespace", &self.metadata.namespace)
            .field("name", &self.metadata.name)
            .field("replicas", &self.replicas)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl From<Raw> for StoredMachineSet {
    fn from(raw: Raw) -> Self {
        let mut fields = Fields::of(&raw.spec);
        let value = raw.spec.pointer("/template/spec/providerSpec/value");
        let config = ProviderConfig::decode(value, &FieldPath::new("spec"), &mut Report::new());
        let status = serde_json::from_value::<Option<MachineSetStatus>>(raw.status);
        Self {
            metadata: owner::reduced(raw.metadata),
            replicas: fields.read("/replicas"),
            min_ready_seconds: fields.read("/minReadySeconds").unwrap_or_default(),
            delete_policy: fields.read("/deletePolicy").unwrap_or_default(),
            selector: Selection::of(&raw.spec),
            template: Template::of(&raw.spec),
            kubeconfig: config
                .cloud_provider_spec
                .map(|cloud| cloud.credential().clone())
                .unwrap_or_default(),
            status: status.ok().flatten().unwrap_or_default(),
            undecodable: fields.mistakes(),
        }
    }
}

named!(StoredMachineSet, metadata);

impl StoredMachineSet {
    /// Whether the cluster-autoscaler may take it for a node group. Of a set with a MachineDeployment, that tells.
    pub fn is_node_group(&self) -> bool {
        self.machine_deployment().is_none()
            && !self.is_deleting()
            && autoscaler::may_be_one(|key| self.annotation(key))
    }

    /// As much of it as tells its capacity.
    pub fn as_node_group(&self) -> Value {
        let none = BTreeMap::new();
        autoscaler::object(
            self.metadata.annotations.as_ref().unwrap_or(&none),
            &self.template,
        )
    }

    /// The revision that its MachineDeployment has given it; 0 if there is none that is a number.
    pub fn revision(&self) -> i64 {
        let text = self.annotation(annotation::REVISION);
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// Whether it controls the Machine and selects it.
    pub fn has(&self, machine: &StoredMachine) -> bool {
        machine.controller_uid() == Some(self.uid())
            && self.selector.matches(machine.metadata.labels.as_ref())
    }

    /// The annotation that makes its controller create, delete and adopt nothing.
    pub fn paused_by(&self) -> Option<&'static str> {
        let initializers = self
            .annotation(annotation::INITIALIZERS)
            .is_some_and(|text| !text.is_empty());
        if self.annotation(annotation::PAUSED).is_some() {
            Some(annotation::PAUSED)
        } else {
            initializers.then_some(annotation::INITIALIZERS)
        }
    }

    /// Whether what is only on the Nodes is changed without making other Machines.
    pub fn changes_in_place(&self) -> bool {
        self.annotation(annotation::IN_PLACE) == Some("true")
    }

    /// UID of the MachineDeployment that controls it.
    pub fn machine_deployment_uid(&self) -> Option<&str> {
        self.deployment().map(|owner| owner.uid.as_str())
    }

    /// Name of the MachineDeployment that controls it.
    pub fn machine_deployment(&self) -> Option<&str> {
        self.deployment().map(|owner| owner.name.as_str())
    }

    fn deployment(&self) -> Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference> {
        let mut owners = self.metadata.owner_references.iter().flatten();
        owners.find(|owner| owner.kind == "MachineDeployment")
    }
}

machinist_infra::projected!(
    StoredMachineSet,
    NamespaceResourceScope,
    "MachineSet",
    names::GROUP,
    names::VERSION,
    "machinesets"
);
machinist_infra::serialize_metadata!(StoredMachineSet);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_credential_in_a_template_is_read_and_never_shown() {
        let kubeconfig =
            json!({"cloudProviderSpec": {"auth": {"kubeconfig": "aHVzaA=="}}, "cloudProvider": "kubevirt"});
        let set: StoredMachineSet = serde_json::from_value(json!({
            "metadata": {"name": "a",
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "aHVzaA=="},
                "ownerReferences": [
                    {"kind": "MachineDeployment", "name": "d", "uid": "u", "apiVersion": "cluster.k8s.io/v1alpha1"}]},
            "spec": {"template": {"spec": {"providerSpec": {"value": kubeconfig}}}},
        }))
        .unwrap();
        assert_eq!(set.kubeconfig.value.as_deref(), Some("aHVzaA=="));
        assert_eq!(set.machine_deployment_uid(), Some("u"));
        assert!(!format!("{set:?} {:?} {:?}", set.template, set.metadata).contains("aHVzaA"));
    }

    #[test]
    fn a_set_that_is_written_wrongly_is_kept_with_all_reasons_and_what_can_be_read() {
        let set: StoredMachineSet = serde_json::from_value(json!({
            "metadata": {"name": "a"},
            "spec": {"replicas": "3", "minReadySeconds": 5, "deletePolicy": 7},
            "status": {"replicas": {}},
        }))
        .unwrap();
        let why = set.undecodable.unwrap();
        assert!(
            why.contains("spec.replicas") && why.contains("spec.deletePolicy"),
            "{why}"
        );
        assert_eq!((set.replicas, set.min_ready_seconds), (None, 5));
        assert_eq!(set.status, MachineSetStatus::default());
    }

    #[test]
    fn a_spec_that_is_no_object_is_undecodable() {
        let set: StoredMachineSet =
            serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": [1]})).unwrap();
        assert_eq!(set.undecodable.as_deref(), Some("spec: is no object"));
    }
}
