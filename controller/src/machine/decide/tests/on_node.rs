//! What a Machine does not ask for any more goes from its Node, once, and nothing else does.

use super::*;

/// The patches of the Node and of the Machine's record, of a Machine that asks for the label `a: new` and no taints, and
/// once asked for others.
fn patches(present: &Value) -> (Option<Value>, Option<Value>) {
    let retired = json!({"status": {"providerStatus": {"nodeUID": "node-1", "retired": {
        "labels": {"a": ["old"], "gone": ["x"], "machine-controller/owned-by": ["m1"]},
        "annotations": {"note": ["x"]},
        "taints": [{"key": "k", "value": "old", "effect": "NoSchedule"},
            {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}],
    }}}});
    let mut stored = recorded();
    json_patch::merge(&mut stored, &retired);
    let mut observed = observed(machine(&stored), running());
    let metadata = json!({"labels": {"a": "new"}});
    observed.spec = Spec::Usable(Box::new(Usable {
        cluster_name: "c".into(),
        node_metadata: serde_json::from_value(metadata).unwrap(),
        ..Usable::default()
    }));
    let mut ours = json!({"metadata": {
        "labels": {"machine-controller/owned-by": "m1"},
        "annotations": {"cluster.k8s.io/machine": "kube-system/web-1"},
    }});
    json_patch::merge(&mut ours, present);
    observed.node = Some(node(&ours));
    let (mut of_node, mut of_machine) = (None, None);
    for step in decide(&observed, now()).steps {
        match step {
            Step::PatchNode { patch, .. } => of_node = Some(patch),
            Step::PatchMachine(patch) => {
                assert!(of_node.is_some() || of_machine.is_none());
                of_machine = Some(patch);
            }
            _ => {}
        }
    }
    (of_node, of_machine)
}

#[test]
fn what_the_machine_asked_for_before_is_replaced_or_taken_away_and_forgotten_afterwards() {
    let (of_node, of_machine) = patches(&json!({
        "metadata": {"labels": {"a": "old", "gone": "x"}, "annotations": {"note": "x"}},
        "spec": {"taints": [{"key": "k", "value": "old", "effect": "NoSchedule"}, {"key": "other", "effect": "NoSchedule"}]},
    }));
    let want = json!({
        "metadata": {"uid": "node-1", "resourceVersion": "3", "labels": {"a": "new", "gone": null}, "annotations": {"note": null}},
        "spec": {"taints": [{"key": "other", "effect": "NoSchedule"}]},
    });
    assert_eq!(of_node, Some(want));
    let record = of_machine.unwrap()["status"]["providerStatus"].clone();
    assert_eq!(record.get("retired"), Some(&Value::Null));
    assert_eq!(record["nodeUID"], "node-1");
}

#[test]
fn what_somebody_else_has_changed_and_what_is_ours_or_of_kubernetes_stays() {
    let (of_node, of_machine) = patches(&json!({
        "metadata": {"labels": {"a": "theirs", "gone": "theirs"}, "annotations": {"note": "theirs"}},
        "spec": {"taints": [{"key": "k", "value": "theirs", "effect": "NoSchedule"},
            {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]},
    }));
    assert_eq!(of_node, None);
    assert_eq!(
        of_machine.unwrap()["status"]["providerStatus"]["retired"],
        Value::Null
    );
}
