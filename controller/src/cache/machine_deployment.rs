//! A MachineDeployment as stored: decoded as far as it can be, so that one bad object stops no other.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::ObjectMeta;
use machinist_shared::api::names::{self, label};
use machinist_shared::api::{MachineDeploymentStatus, rollout};
use serde::Deserialize;
use serde_json::Value;

use super::machine_set::StoredMachineSet;
use super::named::named;
use super::owner;
use super::raw::Raw;
use super::selection::{Selection, labels_of};
use super::spec::{self, Decoded, Fields, Template};

/// A MachineDeployment as stored; what is absent is absent here, too: its controller knows the defaults.
#[derive(Clone, Deserialize)]
#[serde(from = "Raw")]
pub struct StoredMachineDeployment {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// How many Machines.
    pub replicas: Option<i32>,
    /// Which MachineSets are its own.
    pub selector: Selection,
    /// The selector as it is written.
    pub raw_selector: Value,
    /// The Machine to make.
    pub template: Template,
    /// How Machines are replaced when the template changes.
    pub strategy: Option<String>,
    /// Machines that may be made beyond `replicas` during a rollout.
    pub max_surge: Option<IntOrString>,
    /// Machines that may be missing during a rollout.
    pub max_unavailable: Option<IntOrString>,
    /// Seconds that a Node must be Ready before its Machine counts as available.
    pub min_ready_seconds: Option<i32>,
    /// How many old MachineSets to keep.
    pub revision_history_limit: Option<i32>,
    /// While true no rollout step is taken.
    pub paused: bool,
    /// Seconds without progress after which a rollout counts as failed.
    pub progress_deadline_seconds: Option<i32>,
    /// What was written last; what cannot be decoded counts as absent.
    pub status: MachineDeploymentStatus,
    /// How much of the status could be decoded.
    pub status_decoded: Decoded,
    /// `status.conditions` as stored.
    pub conditions: Value,
    /// What of the spec cannot be decoded.
    pub undecodable: Option<String>,
}

/// Without the template and its credential.
impl std::fmt::Debug for StoredMachineDeployment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredMachineDeployment")
            .field("namespace", &self.metadata.namespace)
            .field("name", &self.metadata.name)
            .field("replicas", &self.replicas)
            .field("paused", &self.paused)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl From<Raw> for StoredMachineDeployment {
    fn from(raw: Raw) -> Self {
        let mut fields = Fields::of(&raw.spec);
        let conditions = raw.status.get("conditions").cloned().unwrap_or_default();
        let (status, status_decoded) = spec::status(raw.status);
        Self {
            metadata: owner::reduced(raw.metadata),
            replicas: fields.read("/replicas"),
            selector: Selection::of(&raw.spec),
            raw_selector: raw.spec.get("selector").cloned().unwrap_or_default(),
            template: Template::of(&raw.spec),
            strategy: fields.read("/strategy/type"),
            max_surge: fields.read("/strategy/rollingUpdate/maxSurge"),
            max_unavailable: fields.read("/strategy/rollingUpdate/maxUnavailable"),
            min_ready_seconds: fields.read("/minReadySeconds"),
            revision_history_limit: fields.read("/revisionHistoryLimit"),
            paused: fields.read("/paused").unwrap_or_default(),
            progress_deadline_seconds: fields.read("/progressDeadlineSeconds"),
            status,
            status_decoded,
            conditions,
            undecodable: fields.mistakes(),
        }
    }
}

named!(StoredMachineDeployment, metadata);

impl StoredMachineDeployment {
    /// How many of its Machines may be missing by its own rules.
    pub fn max_unavailable(&self) -> i32 {
        rollout::max_unavailable(self.max_unavailable.as_ref(), self.replicas.unwrap_or(1))
    }

    /// How many Machines may be too many by its own rules.
    pub fn max_surge(&self) -> i32 {
        rollout::max_surge(self.max_surge.as_ref(), self.replicas.unwrap_or(1))
    }

    /// Whether it controls the set and selects it.
    pub fn has(&self, set: &StoredMachineSet) -> bool {
        let controller = owner::controller(&set.metadata);
        controller.is_some_and(|owner| owner.uid == self.uid()) && self.selects(set)
    }

    /// Whether it selects the set, or did until its own selector changed: the set keeps the labels of its template, and the
    /// selector selects neither. Then its Machines are replaced like those of any older template. A set whose own labels were
    /// changed is released.
    pub fn selects(&self, set: &StoredMachineSet) -> bool {
        let labels = set.metadata.labels.as_ref();
        if self.selector.matches(labels) {
            return true;
        }
        let is_ours = owner::controller(&set.metadata).is_some_and(|owner| owner.uid == self.uid());
        let name = labels.and_then(|labels| labels.get(label::DEPLOYMENT_NAME));
        let was_member = name.is_some_and(|name| name == self.name());
        let made_with = labels_of(&set.template);
        let keeps_labels = made_with
            .iter()
            .all(|(key, value)| labels.is_some_and(|labels| labels.get(key) == Some(value)));
        is_ours
            && was_member
            && keeps_labels
            && !made_with.is_empty()
            && !self.selector.matches(Some(&made_with))
    }
}

machinist_infra::projected!(
    StoredMachineDeployment,
    NamespaceResourceScope,
    "MachineDeployment",
    names::GROUP,
    names::VERSION,
    "machinedeployments"
);
machinist_infra::serialize_metadata!(StoredMachineDeployment);

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    fn labeled(pool: &str) -> Value {
        json!({"metadata": {"labels": {"pool": pool}}})
    }

    /// The deployment `d` that selects the pool `new`.
    #[rstest]
    #[case::one_of_its_pool("uid-d", json!({"pool": "new"}), labeled("new"), true)]
    #[case::one_made_before_its_selector_changed(
        "uid-d", json!({"pool": "old", "machineDeployment": "d"}), labeled("old"), true)]
    #[case::one_whose_own_labels_were_changed(
        "uid-d", json!({"pool": "x", "machineDeployment": "d"}), labeled("new"), false)]
    #[case::one_whose_labels_and_whose_selector_were_changed(
        "uid-d", json!({"pool": "x", "machineDeployment": "d"}), labeled("old"), false)]
    #[case::one_that_never_was_its_own("uid-d", json!({"pool": "old"}), labeled("old"), false)]
    #[case::one_that_another_controls(
        "uid-e", json!({"pool": "old", "machineDeployment": "d"}), labeled("old"), false)]
    #[case::one_without_labels_in_its_template(
        "uid-d", json!({"pool": "old", "machineDeployment": "d"}), json!({}), false)]
    fn a_changed_selector_releases_no_set(
        #[case] controller: &str,
        #[case] labels: Value,
        #[case] template: Value,
        #[case] selected: bool,
    ) {
        let deployment: StoredMachineDeployment = serde_json::from_value(json!({
            "metadata": {"name": "d", "uid": "uid-d"},
            "spec": {"selector": {"matchLabels": {"pool": "new"}}, "template": labeled("new")},
        }))
        .unwrap();
        let mut labels = labels;
        if let Some(name) = labels.as_object_mut().unwrap().remove("machineDeployment") {
            labels[label::DEPLOYMENT_NAME] = name;
        }
        let set: StoredMachineSet = serde_json::from_value(json!({
            "metadata": {"name": "s", "labels": labels, "ownerReferences": [{"apiVersion": names::API_VERSION,
                "kind": "MachineDeployment", "name": "d", "uid": controller, "controller": true}]},
            "spec": {"template": template},
        }))
        .unwrap();
        assert_eq!(deployment.selects(&set), selected);
    }

    #[test]
    fn a_number_that_is_too_large_hides_nothing_else_of_the_status() {
        let deployment: StoredMachineDeployment = serde_json::from_value(json!({
            "metadata": {"name": "a"},
            "status": {"replicas": 3, "availableReplicas": 2_147_483_648_i64, "conditions": [{"type": "Available"}]},
        }))
        .unwrap();
        assert_eq!(deployment.status_decoded, Decoded::InPart);
        assert_eq!(deployment.status.replicas, Some(3));
        assert_eq!(deployment.status.available_replicas, None);
        assert_eq!(deployment.status.conditions.map(|all| all.len()), Some(1));
    }

    #[test]
    fn what_is_written_is_read_and_what_is_not_is_absent() {
        let deployment: StoredMachineDeployment = serde_json::from_value(json!({
            "metadata": {"name": "a"},
            "spec": {"replicas": 3, "paused": null, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}}},
            "status": {"replicas": 2, "conditions": [{"type": "Available"}]},
        }))
        .unwrap();
        assert_eq!(deployment.undecodable, None);
        assert_eq!((deployment.replicas, deployment.paused), (Some(3), false));
        assert_eq!(deployment.max_surge, Some(IntOrString::String("25%".into())));
        assert_eq!(deployment.max_unavailable, None);
        assert_eq!(deployment.status.replicas, Some(2));
        assert_eq!(deployment.conditions[0]["type"], "Available");
    }

    #[test]
    fn the_template_is_kept_and_never_shown() {
        let deployment: StoredMachineDeployment = serde_json::from_value(json!({
            "metadata": {"name": "a"}, "spec": {"replicas": [], "template": {"spec": {"secret": "aHVzaA"}}},
        }))
        .unwrap();
        assert_eq!(deployment.template["spec"]["secret"], "aHVzaA");
        assert!(!format!("{deployment:?} {:?}", deployment.template).contains("aHVzaA"));
        assert!(deployment.undecodable.unwrap().starts_with("spec.replicas: "));
    }
}
