//! Changes that need no other virtual machine: what is only on the Nodes, and some annotations, taken from the set's template into
//! the Machines that are there (ADR 011).

use std::sync::Arc;

use machinist_shared::admission::template;
use machinist_shared::api::MachineSpec;
use machinist_shared::api::names::annotation;
use serde_json::{Map, Value, json};

use super::Work;
use super::scale::AT_ONCE;
use crate::cache::{SpecState, StoredMachine, StoredMachineSet};
use crate::machine::node_metadata::{NodeMetadata, Retired};
use crate::machine_set::plan::Step;
use crate::machine_set::snapshot::types::Member;

/// Changes the Machines that are not as the template asks for their Nodes, if the set may; not those that `planned` deletes.
pub(super) fn change(set: &StoredMachineSet, active: &[&Member], planned: &[Step]) -> Work {
    if !set.changes_in_place() {
        return Work::default();
    }
    let Some(wanted) = Desired::of(&set.template) else {
        return Work::default();
    };
    let goes = |machine: &StoredMachine| {
        planned.iter().any(|step| match step {
            Step::Delete(victims) => victims.iter().any(|victim| victim.uid() == machine.uid()),
            _ => false,
        })
    };
    let machines = active.iter().map(|member| &member.machine);
    let changes = machines
        .filter(|machine| !goes(machine))
        .filter_map(|machine| Some((machine.clone(), wanted.patch(machine)?)));
    let mut changes: Vec<(Arc<StoredMachine>, Value)> = changes.take(AT_ONCE + 1).collect();
    let more = changes.len() > AT_ONCE;
    changes.truncate(AT_ONCE);
    let step = (!changes.is_empty()).then_some(Step::ChangeInPlace(changes));
    Work {
        steps: step.into_iter().collect(),
        more,
        ..Work::default()
    }
}

/// What a template wants.
struct Desired {
    spec: MachineSpec,
    node_metadata: NodeMetadata,
    /// By annotation of the Machine.
    own: Vec<(&'static str, Option<String>)>,
}

impl Desired {
    /// Nothing of one that cannot be decoded: no Machine is made of it either.
    fn of(template: &Value) -> Option<Self> {
        let spec: MachineSpec = serde_json::from_value(template.get("spec")?.clone()).ok()?;
        let annotations = template.pointer("/metadata/annotations");
        let own = |key| {
            let text = annotations.and_then(|annotations| annotations.get(key)?.as_str());
            (key, text.map(str::to_owned))
        };
        Some(Self {
            node_metadata: NodeMetadata::of(&spec),
            own: annotation::CHANGED_IN_PLACE.into_iter().map(own).collect(),
            spec,
        })
    }

    /// What makes the Machine be as the template wants, if anything does and it needs no other virtual machine.
    fn patch(&self, machine: &StoredMachine) -> Option<Value> {
        let SpecState::Decoded(spec) = &machine.spec else {
            return None;
        };
        let (is, mut patch) = (NodeMetadata::of(spec), Map::new());
        let shall = is.by(&self.node_metadata);
        let own = self.own.iter();
        let own: Map<String, Value> = own
            .filter(|(key, wanted)| machine.annotation(key) != wanted.as_deref())
            .map(|(key, wanted)| ((*key).to_owned(), json!(wanted)))
            .collect();
        if (is == shall && own.is_empty()) || !is_alike(spec, &self.spec) {
            return None;
        }
        if !own.is_empty() {
            patch.insert("metadata".to_owned(), json!({ "annotations": own }));
        }
        if is != shall {
            let mut changed = json!({"metadata": {
                "labels": difference(&is.labels, &shall.labels),
                "annotations": difference(&is.annotations, &shall.annotations),
            }});
            if is.taints != shall.taints {
                changed["taints"] = json!(shall.taints);
            }
            patch.insert("spec".to_owned(), changed);
            // Without a record there is no virtual machine, and nothing has asked for a Node yet.
            if let Some(record) = &machine.record {
                let before = record.retired.as_ref();
                let retired = Some(Retired::after(before, &is, &shall));
                let retired = retired.filter(|retired| *retired != Retired::default());
                if before.is_some() || retired.is_some() {
                    let retired = json!({"retired": null_where_gone(json!(before), json!(retired))});
                    patch.insert("status".to_owned(), json!({ "providerStatus": retired }));
                }
            }
        }
        Some(Value::Object(patch))
    }
}

/// Whether the Machine could have been made of the template, what is only on the Node aside.
fn is_alike(machine: &MachineSpec, template: &MachineSpec) -> bool {
    let bare = |spec: &MachineSpec| {
        let mut spec = spec.clone();
        // The Machine's own.
        spec.provider_id = None;
        if let Some(metadata) = &mut spec.metadata {
            metadata.name = None;
        }
        json!({ "spec": spec })
    };
    template::equal_in_place(&bare(machine), &bare(template))
}

/// As a merge patch: what is gone is null.
fn difference(
    is: &std::collections::BTreeMap<String, String>,
    shall: &std::collections::BTreeMap<String, String>,
) -> Value {
    let gone = is.keys().filter(|key| !shall.contains_key(*key));
    let gone = gone.map(|key| (key.clone(), Value::Null));
    let new = shall.iter().filter(|(key, value)| is.get(*key) != Some(value));
    let new = new.map(|(key, value)| (key.clone(), json!(value)));
    Value::Object(gone.chain(new).collect())
}

/// The second as a merge patch of the first.
fn null_where_gone(before: Value, after: Value) -> Value {
    match (before, after) {
        (Value::Object(before), Value::Object(mut after)) => {
            for (key, value) in before {
                let now = after.remove(&key).unwrap_or_default();
                after.insert(key, null_where_gone(value, now));
            }
            Value::Object(after)
        }
        (_, after) => after,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn spec(node: &Value) -> Value {
        let mut spec = json!({
            "versions": {"kubelet": "1.36.3"},
            "providerSpec": {"value": {"cloudProvider": "kubevirt", "operatingSystem": "ubuntu",
                "operatingSystemSpec": {"distUpgradeOnBoot": false}, "cloudProviderSpec": {"clusterName": "c"}}},
        });
        json_patch::merge(&mut spec, node);
        spec
    }

    fn set(opted_in: bool, template: &Value) -> StoredMachineSet {
        let annotations = if opted_in {
            json!({annotation::IN_PLACE: "true"})
        } else {
            json!({})
        };
        serde_json::from_value(json!({
            "metadata": {"name": "s", "namespace": "ns", "annotations": annotations},
            "spec": {"template": template},
        }))
        .unwrap()
    }

    /// As it was made of a template that asked for this on the Node, with its virtual machine.
    fn member(node: &Value) -> Member {
        let mut spec = spec(node);
        spec["providerID"] = json!("kubermatic://kubevirt/u");
        spec["metadata"]["name"] = json!("m");
        spec["metadata"]["labels"]["v1.machine-controller.kubermatic.io/operating-system"] = json!("ubuntu");
        spec["metadata"]["annotations"][annotation::CLUSTER_NAMESPACE] = json!("vms");
        let machine = json!({
            "metadata": {"name": "m", "namespace": "ns", "uid": "u", "resourceVersion": "1"},
            "spec": spec,
            "status": {"providerStatus": {"infrastructure": {"server": "https://a", "namespace": "vms"}, "vmUID": "v"}},
        });
        Member {
            machine: Arc::new(serde_json::from_value(machine).unwrap()),
            node: crate::machine_set::snapshot::types::NodeState::Absent,
        }
    }

    fn patch(set: &StoredMachineSet, member: &Member) -> Option<Value> {
        let mut work = change(set, &[member], &[]);
        match work.steps.pop() {
            Some(Step::ChangeInPlace(mut changes)) => changes.pop().map(|(_, patch)| patch),
            _ => None,
        }
    }

    fn before() -> Value {
        json!({"metadata": {"labels": {"a": "1", "gone": "x"}},
            "taints": [{"key": "k", "value": "1", "effect": "NoSchedule"}]})
    }

    #[test]
    fn a_machine_gets_what_is_only_on_its_node_and_remembers_what_the_node_has_of_it() {
        let after = json!({"metadata": {"labels": {"a": "2"}, "annotations": {"note": "n"}}, "taints": null});
        let template = json!({
            "metadata": {"annotations": {annotation::PROVISIONING_TIMEOUT: "1h", "other": "x"}},
            "spec": spec(&after),
        });
        let found = patch(&set(true, &template), &member(&before())).unwrap();
        let want = json!({
            "metadata": {"annotations": {annotation::PROVISIONING_TIMEOUT: "1h"}},
            "spec": {
                "metadata": {"labels": {"a": "2", "gone": null}, "annotations": {"note": "n"}},
                "taints": [],
            },
            "status": {"providerStatus": {"retired": {
                "labels": {"a": ["1"], "gone": ["x"]},
                "taints": [{"key": "k", "value": "1", "effect": "NoSchedule"}],
            }}},
        });
        assert_eq!(found, want);
    }

    #[rstest]
    #[case::nothing(json!({}), true)]
    #[case::a_label_without_leave(json!({"metadata": {"labels": {"a": "2"}}}), false)]
    #[case::a_label_and_a_version(json!({"metadata": {"labels": {"a": "2"}}, "versions": {"kubelet": "1.35.0"}}), true)]
    fn a_machine_is_left_alone(#[case] change: Value, #[case] opted_in: bool) {
        let mut node = before();
        json_patch::merge(&mut node, &change);
        assert_eq!(
            patch(&set(opted_in, &json!({"spec": spec(&node)})), &member(&before())),
            None
        );
    }

    #[test]
    fn what_was_changed_once_is_not_changed_again() {
        let template = json!({"spec": spec(&json!({"metadata": {"labels": {"a": "2"}}, "taints": []}))});
        let mut raw =
            json!({"metadata": {"name": "m", "uid": "u"}, "spec": member(&before()).machine_spec()});
        json_patch::merge(
            &mut raw,
            &patch(&set(true, &template), &member(&before())).unwrap(),
        );
        let machine = Member {
            machine: Arc::new(serde_json::from_value(raw).unwrap()),
            node: crate::machine_set::snapshot::types::NodeState::Absent,
        };
        assert_eq!(patch(&set(true, &template), &machine), None);
    }

    impl Member {
        fn machine_spec(&self) -> Value {
            match &self.machine.spec {
                SpecState::Decoded(spec) => json!(spec),
                SpecState::Undecodable(why) => panic!("{why}"),
            }
        }
    }
}
