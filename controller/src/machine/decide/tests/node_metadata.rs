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
fn what_another_client_has_changed_and_what_is_ours_or_of_kubernetes_stays() {
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

/// The taints of the patch of the Node, of a Machine that asks for an ordinary one and for two that end with the start.
fn taints_of(record: &Value, present: &Value) -> Vec<String> {
    let mut stored = placed(&json!({"status": {"providerStatus": {"vmUID": "v1"}}}));
    json_patch::merge(&mut stored, &json!({"status": {"providerStatus": record}}));
    let annotations = json!({"machinist.dev/startup-taints": "example.com/warming-up"});
    json_patch::merge(&mut stored, &json!({"metadata": {"annotations": annotations}}));
    let mut observed = observed(machine(&stored), running());
    let taint = |key: &str| json!({"key": key, "effect": "NoExecute"});
    let taints = [
        "dedicated",
        "node.cilium.io/agent-not-ready",
        "example.com/warming-up",
    ]
    .map(taint);
    observed.spec = Spec::Usable(Box::new(Usable {
        cluster_name: "c".into(),
        taints: serde_json::from_value(json!(taints)).unwrap(),
        ..Usable::default()
    }));
    observed.node = Some(node(present));
    let steps = decide(&observed, now()).steps;
    let patch = steps.iter().find_map(|step| match step {
        Step::PatchNode { patch, .. } => Some(patch),
        _ => None,
    });
    let taints = patch.and_then(|patch| patch["spec"]["taints"].as_array());
    let keys = taints
        .into_iter()
        .flatten()
        .map(|taint| taint["key"].as_str().unwrap().to_owned());
    keys.collect()
}

#[rstest]
#[case::never_where_our_user_data_registers_with_them(json!({"tokenID": "abcdef"}), json!({}), false)]
#[case::first_where_other_user_data_may_not(json!({"bootstrapSecret": {"revision": "1", "id": "a"}}), json!({}), true)]
#[case::first_on_a_machine_controllers_vm(json!({}), json!({}), true)]
#[case::not_where_machine_controller_has_been(json!({}),
    json!({"metadata": {"annotations": {"cluster.k8s.io/machine": "kube-system/web-1"}}}), false)]
#[case::not_on_one_that_has_our_label(json!({"bootstrapSecret": {"revision": "1", "id": "a"}}),
    json!({"metadata": {"labels": {"machine-controller/owned-by": "m1"}}}), false)]
#[case::not_on_one_that_was_linked(json!({"bootstrapSecret": {"revision": "1", "id": "a"}, "nodeUID": "node-1"}), json!({}), false)]
#[case::again_on_another_that_has_registered(json!({"bootstrapSecret": {"revision": "1", "id": "a"}, "nodeUID": "node-0"}), json!({}), true)]
fn a_taint_that_ends_with_the_start_is_put_once(
    #[case] record: Value,
    #[case] present: Value,
    #[case] starts: bool,
) {
    let mut expected = vec!["dedicated"];
    if starts {
        expected.extend(["node.cilium.io/agent-not-ready", "example.com/warming-up"]);
    }
    assert_eq!(taints_of(&record, &present), expected);
}

#[test]
fn what_another_controller_takes_away_waits_and_keeps_nothing_else() {
    let mut observed = observed(machine(&recorded()), running());
    let metadata = json!({"labels": {"a": "1", "b": "1"}, "annotations": {"c": "1"}});
    observed.spec = Spec::Usable(Box::new(Usable {
        cluster_name: "c".into(),
        node_metadata: serde_json::from_value(metadata).unwrap(),
        taints: serde_json::from_value(json!([{"key": "k", "effect": "NoSchedule"}])).unwrap(),
        ..Usable::default()
    }));
    observed.node = Some(node(&json!({})));
    let [label, taint] = [
        Item::Label("a".to_owned()),
        Item::Taint("k".to_owned(), "NoSchedule".to_owned()),
    ];
    observed.waits = Waits::from([(label, Duration::from_secs(8)), (taint, Duration::from_secs(4))]);
    let plan = decide(&observed, now());
    let Some(Step::PatchNode { patch, puts, .. }) = plan.steps.first() else {
        panic!("{:?}", verbs(&plan))
    };
    assert_eq!(
        patch["metadata"]["labels"],
        json!({"b": "1", "machine-controller/owned-by": "m1"})
    );
    assert_eq!(patch["spec"].get("taints"), None);
    let put: Vec<String> = puts.iter().map(ToString::to_string).collect();
    let expected = [
        "label b",
        "label machine-controller/owned-by",
        "annotation c",
        "annotation cluster.k8s.io/machine",
    ];
    assert_eq!(put, expected);
    assert_eq!(plan.again, Some(Duration::from_secs(4)));
    // What is there waits for nothing.
    observed.node = Some(node(&json!({
        "metadata": {
            "labels": {"a": "1", "b": "1", "machine-controller/owned-by": "m1"},
            "annotations": {"c": "1", "cluster.k8s.io/machine": "kube-system/web-1"},
        },
        "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]},
    })));
    let plan = decide(&observed, now());
    assert!(
        !plan
            .steps
            .iter()
            .any(|step| matches!(step, Step::PatchNode { .. }))
    );
    assert!(plan.again.is_none_or(|again| again > Duration::from_secs(8)));
}
