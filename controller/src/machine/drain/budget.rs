//! A PodDisruptionBudget, projected to what tells whether the API server would let a pod go: asking it in vain, for each
//! pod and every few seconds, would be a request for nothing.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{ObjectMeta, Selector, SelectorExt as _};
use serde::Deserialize;

use super::pod::Pod;
use crate::cache::Raw;

/// A PodDisruptionBudget.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(from = "Raw")]
pub struct Budget {
    /// Metadata, without what no drain asks for.
    pub metadata: ObjectMeta,
    /// Which pods it is about: none, without a selector.
    selector: Option<Selector>,
    /// How many pods may go now; `None` while the disruption controller has not counted.
    pub allowed: Option<i64>,
    /// How many healthy pods there must be.
    needs: i64,
    /// How many healthy pods there are.
    has: i64,
}

impl From<Raw> for Budget {
    fn from(raw: Raw) -> Self {
        let selector = raw.spec.get("selector").filter(|selector| !selector.is_null());
        let selector = selector
            .and_then(|selector| serde_json::from_value::<LabelSelector>(selector.clone()).ok())
            .and_then(|selector| Selector::try_from(selector).ok());
        let count = |key: &str| raw.status[key].as_i64();
        let is_counted = count("observedGeneration") >= raw.metadata.generation;
        Self {
            selector,
            allowed: count("disruptionsAllowed").filter(|_| is_counted),
            needs: count("desiredHealthy").unwrap_or_default(),
            has: count("currentHealthy").unwrap_or_default(),
            metadata: ObjectMeta {
                name: raw.metadata.name,
                namespace: raw.metadata.namespace,
                uid: raw.metadata.uid,
                resource_version: raw.metadata.resource_version,
                ..ObjectMeta::default()
            },
        }
    }
}

impl Budget {
    /// Whether it is about that pod.
    pub fn covers(&self, pod: &Pod) -> bool {
        let none = std::collections::BTreeMap::new();
        let labels = pod.metadata.labels.as_ref().unwrap_or(&none);
        self.metadata.namespace == pod.metadata.namespace
            && self
                .selector
                .as_ref()
                .is_some_and(|selector| selector.matches(labels))
    }

    /// Whether the API server would refuse to evict a pod that is Ready and that only this budget is about.
    pub fn is_spent(&self) -> bool {
        self.allowed.is_some_and(|allowed| allowed <= 0)
    }

    /// Its version.
    pub fn version(&self) -> &str {
        self.metadata.resource_version.as_deref().unwrap_or_default()
    }

    /// Why it lets no pod go, in the API server's words.
    pub fn refusal(&self) -> String {
        format!(
            "The disruption budget {} needs {} healthy pods and has {} currently",
            self.metadata.name.as_deref().unwrap_or_default(),
            self.needs,
            self.has
        )
    }
}

machinist_infra::projected!(
    Budget,
    NamespaceResourceScope,
    "PodDisruptionBudget",
    "policy",
    "v1",
    "poddisruptionbudgets"
);

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn budget(extra: &Value) -> Budget {
        let mut budget = json!({
            "metadata": {"name": "web", "namespace": "ns", "generation": 2},
            "spec": {"selector": {"matchLabels": {"app": "web"}}},
            "status": {"observedGeneration": 2, "disruptionsAllowed": 0, "desiredHealthy": 3, "currentHealthy": 3},
        });
        json_patch::merge(&mut budget, extra);
        serde_json::from_value(budget).unwrap()
    }

    #[rstest]
    #[case::by_labels(json!({}), true)]
    #[case::by_expressions(
        json!({"spec": {"selector": {"matchLabels": null, "matchExpressions": [{"key": "app", "operator": "Exists"}]}}}), true)]
    #[case::an_empty_selector_selects_all(json!({"spec": {"selector": {"matchLabels": null}}}), true)]
    #[case::no_selector_selects_none(json!({"spec": {"selector": null}}), false)]
    #[case::other_labels(json!({"spec": {"selector": {"matchLabels": {"app": "db"}}}}), false)]
    #[case::another_namespace(json!({"metadata": {"namespace": "other"}}), false)]
    fn a_budget_covers_a_pod(#[case] extra: Value, #[case] covers: bool) {
        let pod = json!({"metadata": {"name": "a", "namespace": "ns", "labels": {"app": "web"}}});
        assert_eq!(
            budget(&extra).covers(&serde_json::from_value(pod).unwrap()),
            covers
        );
    }

    #[rstest]
    #[case::none_may_go(json!({}), true)]
    #[case::one_may_go(json!({"status": {"disruptionsAllowed": 1}}), false)]
    #[case::not_counted_since_it_was_changed(json!({"metadata": {"generation": 3}}), false)]
    #[case::not_counted_at_all(json!({"status": null}), false)]
    fn a_budget_is_spent(#[case] extra: Value, #[case] spent: bool) {
        assert_eq!(budget(&extra).is_spent(), spent);
    }
}
