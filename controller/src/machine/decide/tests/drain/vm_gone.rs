//! What keeps a Machine whose VM is gone: its guest, its volumes, its disks, its Node.

use super::*;

#[rstest]
#[case::as_long_as_it_may_still_appear(
    Creation::UnderWay(Duration::from_secs(7)), &["patch the Machine"], Some(Duration::from_secs(7)))]
#[case::until_it_was_looked_for(Creation::Unseen, &["look for a VirtualMachine", "patch the Machine"], None)]
#[case::no_longer(Creation::Settled, &["patch the Machine"], None)]
fn a_vm_that_was_asked_for_without_an_answer_is_waited_for(
    #[case] creation: Creation,
    #[case] steps: &[&str],
    #[case] again: Option<Duration>,
) {
    let deleted = json!({"metadata": {"deletionTimestamp": NOW}});
    let mut o = observed(machine(&both(placed(&json!({})), &deleted)), open());
    o.creation = creation;
    let plan = decide(&o, now());
    assert_eq!(verbs(&plan), steps);
    assert_eq!(plan.again, again);
    let goes = creation == Creation::Settled;
    assert_eq!(patch(&plan)["metadata"]["finalizers"] == json!([]), goes);
}

#[test]
fn a_vm_that_appears_after_its_machine_was_deleted_is_recorded_and_deleted() {
    let deleted = json!({"metadata": {"deletionTimestamp": NOW}});
    let mut o = observed(machine(&both(placed(&json!({})), &deleted)), running());
    o.creation = Creation::UnderWay(Duration::from_secs(7));
    let plan = decide(&o, now());
    assert_eq!(verbs(&plan), ["patch the Machine", "delete the VirtualMachine"]);
    assert_eq!(patch(&plan)["status"]["providerStatus"]["vmUID"], "v1");
}

#[test]
fn the_node_of_a_vm_that_is_gone_is_out_of_service_until_its_volumes_are_detached() {
    let mut o = without_vm(&json!({}));
    o.node = Some(cordoned(
        &json!({"spec": {"taints": [{"key": "dedicated", "effect": "NoSchedule"}]}}),
    ));
    o.workload.volumes = vec!["pv-1".into()];
    let plan = decide(&o, now());
    assert_eq!(verbs(&plan), ["patch the Node", "patch the Machine"]);
    let Step::PatchNode { patch: taint, .. } = &plan.steps[0] else {
        panic!("{:?}", plan.steps)
    };
    assert_eq!(
        taint["metadata"],
        json!({"uid": "node-1", "resourceVersion": "3"})
    );
    assert_eq!(
        taint["spec"]["taints"],
        json!([{"key": "dedicated", "effect": "NoSchedule"},
            {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}])
    );
    assert_eq!(condition(&plan, "Deleting")["reason"], "ReleasingVolumes");
    o.node = Some(cordoned(
        &json!({"spec": {"taints": [{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]}}),
    ));
    assert_eq!(verbs(&decide(&o, now())), ["patch the Machine"], "once");
    o.workload.volumes = Vec::new();
    assert!(verbs(&decide(&o, now())).contains(&"delete the Node"));
}

#[rstest]
#[case::in_time("2026-01-01T11:58:01Z", false)]
#[case::after_two_minutes("2026-01-01T11:58:00Z", true)]
fn volumes_that_no_controller_detaches_do_not_keep_the_node_for_ever(
    #[case] begun: &str,
    #[case] deletes: bool,
) {
    let mut o = without_vm(&since("Deleting", "True", "ReleasingVolumes", begun));
    o.workload.volumes = vec!["pv-1".into()];
    assert_eq!(verbs(&decide(&o, now())).contains(&"delete the Node"), deletes);
}

#[test]
fn a_node_that_cannot_be_marked_out_of_service_is_not_kept_for_ever() {
    let mut o = without_vm(&since("Deleting", "True", "DeleteFailed", "2026-01-01T11:58:00Z"));
    o.workload.volumes = vec!["pv-1".into()];
    assert!(verbs(&decide(&o, now())).contains(&"delete the Node"));
}

#[test]
fn a_vm_that_was_given_up_on_may_still_run_so_its_node_is_not_out_of_service() {
    let mut o = leaving(&annotated("machinist.dev/abandon-vm-uid", "v1"));
    o.workload.volumes = vec!["pv-1".into()];
    let verbs = verbs(&decide(&o, now()));
    assert!(
        verbs.contains(&"delete the Node") && !verbs.contains(&"patch the Node"),
        "{verbs:?}"
    );
}

#[rstest]
#[case::its_own(Some("v1"), true)]
#[case::one_whose_vm_was_deleted_without_it(None, true)]
#[case::another_vms(Some("v2"), false)]
fn a_guest_that_outlives_its_vm_is_waited_for(#[case] of: Option<&str>, #[case] waits: bool) {
    let mut o = without_vm(&json!({}));
    o.infra = Infra::Open(Box::new(Open {
        guest: Some(GuestView {
            started: true,
            instance: of.map(str::to_owned),
            ..GuestView::default()
        }),
        ..open()
    }));
    o.workload.volumes = vec!["pv-1".into()];
    let plan = decide(&o, now());
    assert_eq!(
        !verbs(&plan).contains(&"patch the Node"),
        waits,
        "volumes are not let go while it writes"
    );
    if waits {
        let deleting = condition(&plan, "Deleting");
        assert_eq!(deleting["reason"], "WaitingForVMDeletion");
        assert!(
            deleting["message"]
                .as_str()
                .unwrap()
                .contains("VirtualMachineInstance web-1"),
            "{deleting}"
        );
    }
}

/// Reasons of the Events of a plan.
fn reported(plan: &Plan) -> Vec<&'static str> {
    let events = plan.steps.iter().filter_map(|step| match step {
        Step::Event(event) => Some(event.reason),
        _ => None,
    });
    events.collect()
}

#[rstest]
#[case::a_vm_that_was_given_up_on(leaving(&annotated("machinist.dev/abandon-vm-uid", "v1")), "VMAbandoned")]
#[case::a_foreign_vm(
    Snapshot { infra: Infra::Open(Box::new(Open {
        vm: Some(vm(&json!({"metadata": {"uid": "v9", "labels": {"machinist.dev/machine-uid": "m9"}}}))),
        labeled_machine_exists: true,
        ..running()
    })), ..without_vm(&json!({})) },
    "VMLeftAlone")]
#[case::volumes_that_no_controller_detaches(
    {
        let mut o = without_vm(&since("Deleting", "True", "ReleasingVolumes", "2026-01-01T11:58:00Z"));
        o.workload.volumes = vec!["pv-1".into()];
        o
    },
    "VolumesLeft")]
fn what_is_left_behind_is_reported_once_when_the_machine_goes(#[case] mut o: Snapshot, #[case] reason: &str) {
    o.node = Some(cordoned(
        &json!({"metadata": {"deletionTimestamp": NOW, "finalizers": ["their/finalizer"]}}),
    ));
    assert_eq!(reported(&decide(&o, now())), [""; 0], "the Node is held");
    o.node = None;
    if reason == "VolumesLeft" {
        o.node = Some(cordoned(&json!({})));
    }
    let plan = decide(&o, now());
    assert_eq!(patch(&plan)["metadata"]["finalizers"], json!([]));
    assert_eq!(reported(&plan), [reason]);
}

#[rstest]
#[case::its_own_volume("v1", json!({}), true)]
#[case::that_is_on_its_way_out("v1", json!({"deletionTimestamp": NOW}), true)]
#[case::another_vms("v2", json!({}), false)]
fn the_disks_of_a_vm_that_is_gone_are_waited_for_and_those_of_others_are_not(
    #[case] owner: &str,
    #[case] extra: Value,
    #[case] waits: bool,
) {
    let disk = |kind: &'static str, uid: &str, owner: &str| {
        let mut metadata = json!({"name": "web-1", "uid": uid, "ownerReferences": [
            {"apiVersion": "v", "kind": "k", "name": "web-1", "uid": owner, "controller": true}]});
        json_patch::merge(&mut metadata, &extra);
        Disk {
            kind,
            metadata: serde_json::from_value(metadata).unwrap(),
        }
    };
    let mut o = without_vm(&json!({}));
    o.infra = Infra::Open(Box::new(Open {
        disks: vec![
            disk("DataVolume", "dv", owner),
            disk("PersistentVolumeClaim", "pvc", "dv"),
        ],
        ..open()
    }));
    let plan = decide(&o, now());
    assert_eq!(!verbs(&plan).contains(&"delete the Node"), waits);
    if waits {
        let message = condition(&plan, "Deleting")["message"].as_str().unwrap();
        assert!(
            message.contains("DataVolume web-1, PersistentVolumeClaim web-1"),
            "{message}"
        );
    } else {
        assert_eq!(patch(&plan)["metadata"]["finalizers"], json!([]));
    }
}

#[rstest]
#[case::for_ever(json!({}), false)]
#[case::not_before_its_time(annotated("machinist.dev/node-deletion-timeout", "1m1s"), false)]
#[case::until_its_time(annotated("machinist.dev/node-deletion-timeout", "1m"), true)]
fn a_node_that_is_held_by_somebodys_finalizer_is_waited_for(#[case] extra: Value, #[case] goes: bool) {
    let at_step = since("Deleting", "True", "DeletingNode", "2026-01-01T11:59:00Z");
    let mut o = without_vm(&both(extra, &at_step));
    o.node = Some(cordoned(
        &json!({"metadata": {"deletionTimestamp": NOW, "finalizers": ["their/finalizer"]}}),
    ));
    let plan = decide(&o, now());
    assert!(!verbs(&plan).contains(&"delete the Node"), "once is enough");
    assert_eq!(patch(&plan)["metadata"]["finalizers"] == json!([]), goes);
    let deleting = condition(&plan, "Deleting")["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(goes || deleting.contains("their/finalizer"), "{deleting}");
}

#[rstest]
#[case::for_ever(json!({}), false)]
#[case::not_before_its_time(annotated("machinist.dev/node-deletion-timeout", "1m1s"), false)]
#[case::until_its_time(annotated("machinist.dev/node-deletion-timeout", "1m"), true)]
fn a_node_that_may_not_be_deleted_is_waited_for(#[case] extra: Value, #[case] goes: bool) {
    let failing = since("Deleting", "True", "DeleteFailed", "2026-01-01T11:59:00Z");
    let mut o = without_vm(&both(extra, &failing));
    assert!(
        verbs(&decide(&o, now())).contains(&"delete the Node"),
        "tried first"
    );
    o.failure = Some(Failure {
        scope: FailureScope::NodeDeletion,
        message: "cannot delete the Node: 403 Forbidden".into(),
        until: now() + Duration::from_mins(5),
        is_news: true,
    });
    let plan = decide(&o, now());
    assert!(!verbs(&plan).contains(&"delete the Node"), "not at once again");
    assert_eq!(patch(&plan)["metadata"]["finalizers"] == json!([]), goes);
    if goes {
        assert_eq!(reported(&plan), ["NodeLeft"]);
    } else {
        assert_eq!(condition(&plan, "Deleting")["reason"], "DeleteFailed");
    }
}

#[test]
fn a_machine_that_was_let_go_is_not_written_again() {
    let o = leaving(&both(
        json!({"metadata": {"finalizers": []}}),
        &since("Deleting", "True", "DeletingNode", NOW),
    ));
    assert_eq!(decide(&o, now()).steps, []);
}

#[rstest]
#[case::with_a_vm(leaving(&json!({"metadata": {"finalizers": [
    "kubermatic.io/red-hat-subscription", "machine-delete-finalizer", "machine-node-delete-finalizer"]}})),
    json!(["machine-delete-finalizer", "machine-node-delete-finalizer"]))]
#[case::without_one(observed(
    machine(&json!({"metadata": {"deletionTimestamp": NOW, "finalizers": ["kubermatic.io/red-hat-subscription"]}})), open()),
    json!([]))]
fn a_subscription_finalizer_goes_at_once_and_says_what_to_do_by_hand(
    #[case] o: Snapshot,
    #[case] left: Value,
) {
    let plan = decide(&o, now());
    assert_eq!(patch(&plan)["metadata"]["finalizers"], left);
    let reported = plan.steps.iter().any(|step| {
        matches!(step, Step::Event(event) if event.reason == "SubscriptionLeft" && event.message.contains("web-1"))
    });
    assert!(reported, "{:?}", plan.steps);
}

proptest! {
    /// Whatever pods there are: no VM is deleted over one that must go, and what ends by itself is never evicted.
    #[test]
    fn no_vm_is_deleted_under_a_pod_that_must_go(kinds in proptest::collection::vec((0usize..6, proptest::option::of(-9i64..9)), 0..8)) {
        let mut o = leaving(&json!({}));
        let mut pods = Pods::default();
        let mut must_go = false;
        for (index, (kind, answered)) in kinds.into_iter().enumerate() {
            let extra = [
                json!({}),
                json!({"metadata": {"deletionTimestamp": NOW}}),
                json!({"metadata": {"labels": {"cluster.x-k8s.io/drain": "wait-completed"}}}),
                json!({"metadata": {"labels": {"cluster.x-k8s.io/drain": "skip"}}}),
                json!({"status": {"phase": "Failed"}}),
                json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": ""}}}),
            ];
            must_go |= kind < 3;
            let name = format!("p{index}-{kind}");
            pods.pods.push(pod(&name, &extra[kind]));
            if let Some(seconds) = answered {
                let until = Timestamp::from_second(now().as_second() + seconds).unwrap();
                let refusal = (seconds % 2 == 0).then(|| Refusal::Other("no".into()));
                pods.answers.insert(name, Answer { refusal, until });
            }
        }
        o.workload.pods = Seen::Pods(pods);
        let plan = decide(&o, now());
        prop_assert_eq!(deletes_vm(&plan), !must_go);
        for step in &plan.steps {
            if let Step::EvictPods(targets) = step {
                prop_assert!(targets.iter().all(|target| target.name.ends_with("-0")));
            }
        }
        // Something brings it back, or a pod's end does.
        prop_assert!(!must_go || plan.again.is_some() || !plan.steps.is_empty());
    }
}
