//! Volumes that are attached after the drain.

use super::*;

#[test]
fn volumes_are_waited_for_after_the_drain_and_named() {
    let mut o = leaving(&json!({}));
    o.workload.volumes = vec!["pv-1".into()];
    let plan = decide(&o, now());
    assert!(touches_nothing(&plan), "{:?}", verbs(&plan));
    assert_eq!(condition(&plan, "Deleting")["reason"], "WaitingForVolumeDetach");
    assert!(
        condition(&plan, "VolumesDetached")["message"]
            .as_str()
            .unwrap()
            .contains("pv-1")
    );
    let mut o = leaving(&since("VolumesDetached", "False", "VolumesAttached", NOW));
    o.workload.volumes = Vec::new();
    let plan = decide(&o, now());
    assert!(deletes_vm(&plan));
    assert_eq!(condition(&plan, "VolumesDetached")["status"], "True");
}

#[rstest]
#[case::by_cluster_apis_annotation(
    annotated("machine.cluster.x-k8s.io/exclude-wait-for-node-volume-detach", ""),
    true
)]
#[case::after_its_own_time(
    both(annotated(DETACH_TIMEOUT, "1m"), &since("VolumesDetached", "False", "VolumesAttached", "2026-01-01T11:59:00Z")), true)]
#[case::not_before(
    both(annotated(DETACH_TIMEOUT, "1m"), &since("VolumesDetached", "False", "VolumesAttached", "2026-01-01T11:59:01Z")), false)]
#[case::not_without_a_time(
    since("VolumesDetached", "False", "VolumesAttached", "2026-01-01T11:00:00Z"),
    false
)]
fn volumes_are_not_waited_for(#[case] machine: Value, #[case] deletes: bool) {
    let mut o = leaving(&machine);
    o.workload.volumes = vec!["pv-1".into()];
    let plan = decide(&o, now());
    assert_eq!(deletes_vm(&plan), deletes);
    if deletes {
        assert_eq!(
            condition(&plan, "VolumesDetached")["reason"],
            "VolumeDetachSkipped"
        );
    }
}

#[rstest]
#[case::an_annotation_wants_no_drain(annotated("machine.cluster.x-k8s.io/exclude-node-draining", ""), json!({}), false)]
#[case::the_drain_took_too_long(
    both(annotated(DRAIN_TIMEOUT, "1m"), &since("Drained", "False", "Draining", "2026-01-01T11:59:00Z")), json!({}), false)]
#[case::no_annotation_wants_that_either(
    json!({"metadata": {"annotations": {"machine.cluster.x-k8s.io/exclude-node-draining": "",
        "machine.cluster.x-k8s.io/exclude-wait-for-node-volume-detach": ""}}}), json!({}), true)]
#[case::machine_controllers_annotation_skips_both(json!({}), annotated("kubermatic.io/skip-eviction", "x"), true)]
#[case::no_kubelet_would_unmount_them(
    annotated("machine.cluster.x-k8s.io/exclude-node-draining", ""),
    json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown", "lastTransitionTime": "2026-01-01T11:59:00Z"}]}}),
    true)]
fn a_drain_that_is_left_out_leaves_the_volumes_to_be_waited_for(
    #[case] machine: Value,
    #[case] node: Value,
    #[case] deletes: bool,
) {
    let mut o = leaving(&machine);
    o.node = Some(cordoned(&node));
    with_pods(&mut o, vec![pod("a", &json!({}))]);
    o.workload.volumes = vec!["pv-1".into()];
    let plan = decide(&o, now());
    assert_eq!(deletes_vm(&plan), deletes);
    if !deletes {
        assert_eq!(condition(&plan, "Drained")["reason"], "DrainSkipped");
        assert_eq!(condition(&plan, "Deleting")["reason"], "WaitingForVolumeDetach");
        o.workload.volumes.clear();
        assert!(deletes_vm(&decide(&o, now())));
    }
}

#[test]
fn the_pods_of_a_node_that_is_not_drained_are_listed_for_their_volumes() {
    let mut o = leaving(&annotated("machine.cluster.x-k8s.io/exclude-node-draining", ""));
    o.workload.pods = Seen::Unwatched;
    assert!(deletes_vm(&decide(&o, now())), "there are none");
    o.workload.volumes = vec!["pv-1".into()];
    assert!(verbs(&decide(&o, now())).contains(&"watch the Node's pods"));
    let stays = json!({"metadata": {"labels": {"cluster.x-k8s.io/drain": "skip"}},
        "spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}});
    with_pods(&mut o, vec![pod("a", &stays)]);
    let Seen::Pods(pods) = &mut o.workload.pods else {
        panic!("no pods")
    };
    pods.claims.insert("pv-1".into(), Claim::Known("ns/data".into()));
    assert!(deletes_vm(&decide(&o, now())), "it is of a pod that stays");
}

#[test]
fn the_volumes_of_pods_that_stay_are_looked_up_and_then_not_waited_for() {
    let mut o = leaving(&json!({}));
    let stays = json!({"metadata": {"labels": {"cluster.x-k8s.io/drain": "skip"}},
        "spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}});
    with_pods(&mut o, vec![pod("a", &stays)]);
    o.workload.volumes = vec!["pv-1".into(), "pv-2".into()];
    let plan = decide(&o, now());
    assert!(
        plan.steps
            .contains(&Step::LookUpVolumes(vec!["pv-1".into(), "pv-2".into()]))
    );
    let Seen::Pods(pods) = &mut o.workload.pods else {
        panic!("no pods")
    };
    let unread = |seconds| Claim::Unread(now() + Duration::from_secs(seconds));
    pods.claims.insert("pv-1".into(), unread(3));
    pods.claims.insert("pv-2".into(), Claim::None);
    let plan = decide(&o, now());
    assert!(!verbs(&plan).contains(&"look up volumes"), "not at once");
    assert_eq!(plan.again, Some(Duration::from_secs(3)));
    let Seen::Pods(pods) = &mut o.workload.pods else {
        panic!("no pods")
    };
    pods.claims.insert("pv-1".into(), unread(0));
    let again = Step::LookUpVolumes(vec!["pv-1".into()]);
    assert!(decide(&o, now()).steps.contains(&again));
    let Seen::Pods(pods) = &mut o.workload.pods else {
        panic!("no pods")
    };
    pods.claims.insert("pv-1".into(), Claim::Known("ns/data".into()));
    pods.claims.insert("pv-2".into(), Claim::Known("ns/other".into()));
    let plan = decide(&o, now());
    assert!(!deletes_vm(&plan) && !verbs(&plan).contains(&"look up volumes"));
    let message = condition(&plan, "VolumesDetached")["message"].as_str().unwrap();
    assert!(
        message.contains("ns/other") && !message.contains("ns/data"),
        "{message}"
    );
    o.workload.volumes = vec!["pv-1".into()];
    assert!(deletes_vm(&decide(&o, now())));
}
