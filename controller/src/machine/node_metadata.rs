//! What a Machine's spec asks for its Node, and what it asked for before: labels, annotations and taints.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Taint;
use machinist_shared::api::MachineSpec;
use machinist_shared::api::names::{annotation, label};
use serde::{Deserialize, Serialize};

use crate::cache::Node;

/// Labels or annotations.
type Texts = BTreeMap<String, String>;

/// What a Machine's spec asks for its Node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeMetadata {
    /// Labels.
    pub labels: Texts,
    /// Annotations.
    pub annotations: Texts,
    /// Taints.
    pub taints: Vec<Taint>,
}

impl NodeMetadata {
    /// What this spec asks for.
    pub fn of(spec: &MachineSpec) -> Self {
        let metadata = spec.metadata.clone().unwrap_or_default();
        Self {
            labels: metadata.labels.unwrap_or_default(),
            annotations: metadata.annotations.unwrap_or_default(),
            taints: spec.taints.clone().unwrap_or_default(),
        }
    }

    /// What a Machine that asks for this shall ask for by a template that asks for `template`. What belongs to its virtual
    /// machine stays: where that is, and what its guest was reported once.
    #[must_use]
    pub fn by(&self, template: &Self) -> Self {
        let of_the_guest = |key: &str| annotation::KUBELET_PREFIXES.iter().any(|of| key.starts_with(of));
        let keeps_label = |key: &str| [label::REGION, label::ZONE].contains(&key);
        let keeps_annotation = |key: &str| key == annotation::CLUSTER_NAMESPACE || of_the_guest(key);
        let mut labels = mixed(&self.labels, &template.labels, keeps_label);
        // Admission gives it to Machines, and not to templates.
        if let Some(os) = self.labels.get(label::OPERATING_SYSTEM) {
            labels
                .entry(label::OPERATING_SYSTEM.to_owned())
                .or_insert_with(|| os.clone());
        }
        Self {
            labels,
            annotations: mixed(&self.annotations, &template.annotations, keeps_annotation),
            taints: template.taints.clone(),
        }
    }
}

/// What is `ours` of the keys that are kept, and the template's of all others.
fn mixed(ours: &Texts, template: &Texts, keeps: impl Fn(&str) -> bool) -> Texts {
    let kept = ours.iter().filter(|(key, _)| keeps(key));
    let taken = template.iter().filter(|(key, _)| !keeps(key));
    let all = kept.chain(taken);
    all.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// What the Node may have of a Machine that does not ask for it any more. Whatever says something else is another client's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retired {
    /// Values by label.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, BTreeSet<String>>,
    /// Values by annotation.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, BTreeSet<String>>,
    /// Taints.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    taints: BTreeSet<RetiredTaint>,
}

/// A taint, by what tells it from others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct RetiredTaint {
    key: String,
    #[serde(default)]
    value: String,
    effect: String,
}

impl RetiredTaint {
    fn of(taint: &Taint) -> Self {
        Self {
            key: taint.key.clone(),
            value: taint.value.clone().unwrap_or_default(),
            effect: taint.effect.clone(),
        }
    }
}

impl Retired {
    /// What is retired when a Machine asks for `new` after `old`, besides what was retired before.
    #[must_use]
    pub fn after(before: Option<&Self>, old: &NodeMetadata, new: &NodeMetadata) -> Self {
        let mut retired = before.cloned().unwrap_or_default();
        for (all, old, new) in [
            (&mut retired.labels, &old.labels, &new.labels),
            (&mut retired.annotations, &old.annotations, &new.annotations),
        ] {
            for (key, value) in old {
                all.entry(key.clone()).or_default().insert(value.clone());
            }
            all.retain(|key, values| {
                new.get(key)
                    .is_none_or(|value| !values.remove(value) || !values.is_empty())
            });
        }
        retired.taints.extend(old.taints.iter().map(RetiredTaint::of));
        retired
            .taints
            .retain(|taint| !new.taints.iter().any(|new| RetiredTaint::of(new) == *taint));
        retired
    }

    /// Labels of the Node that are to go.
    pub(super) fn labels<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = &'a str> {
        held(&self.labels, node.metadata.labels.as_ref()).filter(|key| *key != label::OWNED_BY)
    }

    /// Annotations of the Node that are to go.
    pub(super) fn annotations<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = &'a str> {
        held(&self.annotations, node.metadata.annotations.as_ref()).filter(|key| *key != annotation::MACHINE)
    }

    /// Whether a taint of the Node is to go. Those of Kubernetes itself say how the Node is.
    pub(super) fn has(&self, taint: &Taint) -> bool {
        let of_kubernetes = ["node.kubernetes.io/", "node.cloudprovider.kubernetes.io/"];
        !of_kubernetes.iter().any(|of| taint.key.starts_with(of))
            && self.taints.contains(&RetiredTaint::of(taint))
    }
}

/// Keys whose value on the Node is one that was given to it.
fn held<'a>(
    given: &'a BTreeMap<String, BTreeSet<String>>,
    node_metadata: Option<&'a Texts>,
) -> impl Iterator<Item = &'a str> {
    let node_metadata = node_metadata.into_iter().flatten();
    node_metadata
        .filter(|(key, value)| given.get(*key).is_some_and(|values| values.contains(*value)))
        .map(|(key, _)| key.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node_metadata(labels: &Value, taints: &Value) -> NodeMetadata {
        let spec = json!({"metadata": {"labels": labels}, "taints": taints});
        NodeMetadata::of(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn what_belongs_to_the_virtual_machine_stays() {
        let spec = |labels: Value, annotations: Value| {
            let spec = json!({"metadata": {"name": "m", "labels": labels, "annotations": annotations}});
            NodeMetadata::of(&serde_json::from_value(spec).unwrap())
        };
        let kubelet = "v1.kubelet-config.machine-controller.kubermatic.io/MaxPods";
        let machine = spec(
            json!({"a": "1", "gone": "x", label::ZONE: "z", label::OPERATING_SYSTEM: "ubuntu"}),
            json!({annotation::CLUSTER_NAMESPACE: "vms", kubelet: "50", "gone": "x"}),
        );
        let template = spec(
            json!({"a": "2", label::ZONE: "y"}),
            json!({"b": "1", kubelet: "60"}),
        );
        let wanted = spec(
            json!({"a": "2", label::ZONE: "z", label::OPERATING_SYSTEM: "ubuntu"}),
            json!({annotation::CLUSTER_NAMESPACE: "vms", kubelet: "50", "b": "1"}),
        );
        assert_eq!(machine.by(&template), wanted);
        assert_eq!(wanted.by(&template), wanted);
    }

    #[test]
    fn what_was_asked_for_once_is_retired_until_it_is_asked_for_again() {
        let taint = |value: &str| json!([{"key": "k", "value": value, "effect": "NoSchedule"}]);
        let one = node_metadata(&json!({"a": "1", "b": "1"}), &taint("1"));
        let two = node_metadata(&json!({"a": "2", "b": "1"}), &taint("2"));
        let three = node_metadata(&json!({"b": "1"}), &json!([]));
        let retired = Retired::after(None, &one, &two);
        assert_eq!(
            json!(retired),
            json!({"labels": {"a": ["1"]}, "taints": [{"key": "k", "value": "1", "effect": "NoSchedule"}]})
        );
        // The Node may have heard of the first or of the second.
        let retired = Retired::after(Some(&retired), &two, &three);
        assert_eq!(json!(retired)["labels"], json!({"a": ["1", "2"]}));
        assert_eq!(json!(retired)["taints"].as_array().unwrap().len(), 2);
        let back = Retired::after(Some(&retired), &three, &one);
        assert_eq!(
            json!(back),
            json!({"labels": {"a": ["2"]}, "taints": [{"key": "k", "value": "2", "effect": "NoSchedule"}]})
        );
    }
}
