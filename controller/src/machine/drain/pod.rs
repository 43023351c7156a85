//! A pod, projected to the fields that a drain asks for.

use crate::cache::Raw;
use kube::core::ObjectMeta;
use machinist_shared::api::names::{annotation, label};
use serde::Deserialize;
use serde_json::Value;

/// A pod.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(from = "Raw")]
pub struct Pod {
    /// Metadata, without what no drain asks for.
    pub metadata: ObjectMeta,
    /// Names of the claims that it mounts.
    pub claims: Vec<String>,
    /// It has ended, well or not.
    pub finished: bool,
    /// It is Ready: budgets are about such pods.
    pub ready: bool,
}

impl From<Raw> for Pod {
    fn from(raw: Raw) -> Self {
        let metadata = ObjectMeta {
            name: raw.metadata.name,
            namespace: raw.metadata.namespace,
            uid: raw.metadata.uid,
            resource_version: raw.metadata.resource_version,
            deletion_timestamp: raw.metadata.deletion_timestamp,
            labels: raw.metadata.labels,
            annotations: raw.metadata.annotations.map(|mut annotations| {
                annotations.retain(|key, _| key == annotation::MIRROR_POD);
                annotations
            }),
            owner_references: raw.metadata.owner_references,
            ..ObjectMeta::default()
        };
        let volumes = raw.spec["volumes"].as_array().into_iter().flatten();
        let claims = volumes.filter_map(|volume| {
            if let Some(claim) = volume["persistentVolumeClaim"]["claimName"].as_str() {
                return Some(claim.to_owned());
            }
            // The claim of a generic ephemeral volume bears the names of pod and volume.
            volume.get("ephemeral")?;
            Some(format!(
                "{}-{}",
                metadata.name.as_deref()?,
                volume["name"].as_str()?
            ))
        });
        Self {
            claims: claims.collect(),
            ready: is_ready(&raw.status),
            finished: matches!(raw.status["phase"].as_str(), Some("Succeeded" | "Failed")),
            metadata,
        }
    }
}

fn is_ready(status: &Value) -> bool {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
    conditions.into_iter().any(ready)
}

/// What a drain does with a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It stays: it goes with its Node.
    Stays,
    /// It ends by itself, and that is waited for.
    Completes,
    /// It is evicted.
    Goes,
}

impl Pod {
    /// Name.
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// Namespace.
    pub fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// UID.
    pub fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    /// Whether it has been asked to end.
    pub fn is_terminating(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// What a drain does with it; the first that holds decides, in Cluster API's order. What has ended is waited for
    /// nowhere, unlike there.
    pub fn fate(&self) -> Fate {
        let controllers = self.metadata.owner_references.iter().flatten();
        let of_daemon_set = controllers
            .filter(|owner| owner.controller == Some(true))
            .any(|owner| owner.kind == "DaemonSet");
        let mirror = self
            .metadata
            .annotations
            .as_ref()
            .is_some_and(|annotations| annotations.contains_key(annotation::MIRROR_POD));
        if self.finished || of_daemon_set || mirror {
            return Fate::Stays;
        }
        let labels = self.metadata.labels.as_ref();
        let rule = labels
            .and_then(|labels| labels.get(label::DRAIN))
            .map(|rule| rule.to_ascii_lowercase());
        match rule.as_deref() {
            Some("skip") => Fate::Stays,
            Some("wait-completed") => Fate::Completes,
            _ => Fate::Goes,
        }
    }

    /// Whether a drain would do the same with both.
    pub fn is_alike(&self, other: &Self) -> bool {
        self.uid() == other.uid()
            && self.is_terminating() == other.is_terminating()
            && self.ready == other.ready
            && self.metadata.labels == other.metadata.labels
            && self.fate() == other.fate()
    }
}

machinist_infra::projected!(Pod, NamespaceResourceScope, "Pod", "", "v1", "pods");

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    fn pod(extra: &Value) -> Pod {
        let mut pod =
            json!({"metadata": {"name": "a", "namespace": "ns", "uid": "u"}, "status": {"phase": "Running"}});
        json_patch::merge(&mut pod, extra);
        serde_json::from_value(pod).unwrap()
    }

    fn owned_by(kind: &str, controller: bool) -> Value {
        json!([{"apiVersion": "apps/v1", "kind": kind, "name": "o", "uid": "o", "controller": controller}])
    }

    #[rstest]
    #[case::a_bare_one_goes(json!({}), Fate::Goes)]
    #[case::one_with_an_empty_dir_goes(json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}), Fate::Goes)]
    #[case::one_of_a_replica_set_goes(json!({"metadata": {"ownerReferences": owned_by("ReplicaSet", true)}}), Fate::Goes)]
    #[case::one_of_a_daemon_set_stays(json!({"metadata": {"ownerReferences": owned_by("DaemonSet", true)}}), Fate::Stays)]
    #[case::one_that_a_daemon_set_does_not_control_goes(
        json!({"metadata": {"ownerReferences": owned_by("DaemonSet", false)}}), Fate::Goes)]
    #[case::a_mirror_pod_stays(json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "h"}}}), Fate::Stays)]
    #[case::a_completed_one_stays(json!({"status": {"phase": "Succeeded"}}), Fate::Stays)]
    #[case::a_failed_one_stays(json!({"status": {"phase": "Failed"}}), Fate::Stays)]
    #[case::a_pending_one_goes(json!({"status": {"phase": "Pending"}}), Fate::Goes)]
    #[case::skip_stays(json!({"metadata": {"labels": {"cluster.x-k8s.io/drain": "Skip"}}}), Fate::Stays)]
    #[case::wait_completed_is_waited_for(
        json!({"metadata": {"labels": {"cluster.x-k8s.io/drain": "wait-completed"}}}), Fate::Completes)]
    #[case::wait_completed_that_has_completed_stays(
        json!({"metadata": {"labels": {"cluster.x-k8s.io/drain": "wait-completed"}}, "status": {"phase": "Succeeded"}}),
        Fate::Stays)]
    #[case::a_daemon_sets_pod_stays_whatever_its_label_says(
        json!({"metadata": {"labels": {"cluster.x-k8s.io/drain": "wait-completed"}, "ownerReferences": owned_by("DaemonSet", true)}}),
        Fate::Stays)]
    #[case::another_value_is_none(json!({"metadata": {"labels": {"cluster.x-k8s.io/drain": "never"}}}), Fate::Goes)]
    fn a_pod_in_a_drain(#[case] extra: Value, #[case] fate: Fate) {
        assert_eq!(pod(&extra).fate(), fate);
    }

    #[test]
    fn its_claims_are_those_it_names_and_those_of_its_ephemeral_volumes() {
        let volumes = json!([
            {"name": "v", "persistentVolumeClaim": {"claimName": "c"}},
            {"name": "w", "ephemeral": {"volumeClaimTemplate": {}}},
            {"name": "x", "configMap": {"name": "m"}},
        ]);
        assert_eq!(pod(&json!({"spec": {"volumes": volumes}})).claims, ["c", "a-w"]);
    }

    #[test]
    fn a_heartbeat_of_a_pod_is_no_news() {
        let before = pod(&json!({"metadata": {"resourceVersion": "1"}}));
        assert!(before.is_alike(&pod(&json!({"metadata": {"resourceVersion": "2"}}))));
        assert!(!before.is_alike(&pod(
            &json!({"metadata": {"deletionTimestamp": "2026-01-01T12:00:00Z"}})
        )));
        assert!(!before.is_alike(&pod(&json!({"status": {"phase": "Failed"}}))));
        assert!(!before.is_alike(&pod(&json!({"metadata": {"uid": "other"}}))));
    }
}
