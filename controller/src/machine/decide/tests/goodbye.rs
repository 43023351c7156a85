//! What comes before the deletion of a VM, and between it and the Node's.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::machine::drain::Pod;
use crate::machine::drain::sort::{Answer, Refusal};
use crate::machine::drain::turns::Turn;
use crate::machine::drain::watch::Claim;

const DRAIN_TIMEOUT: &str = "machinist.dev/node-drain-timeout";
const DETACH_TIMEOUT: &str = "machinist.dev/node-volume-detach-timeout";

/// A Machine whose deletion was asked for a minute ago, with a running VM and a cordoned Node.
fn leaving(extra: &Value) -> Observed {
    let mut machine_ = recorded();
    json_patch::merge(
        &mut machine_,
        &json!({"metadata": {"deletionTimestamp": "2026-01-01T11:59:00Z"}}),
    );
    json_patch::merge(&mut machine_, extra);
    let mut o = observed(machine(&machine_), running());
    o.node = Some(cordoned(&json!({})));
    o
}

fn cordoned(extra: &Value) -> Arc<Node> {
    let mut cordoned = json!({"spec": {"unschedulable": true}});
    json_patch::merge(&mut cordoned, extra);
    node(&cordoned)
}

fn annotated(key: &str, text: &str) -> Value {
    json!({"metadata": {"annotations": {key: text}}})
}

/// Its conditions, each of that status and reason since then.
fn since(kind: &str, status: &str, reason: &str, then: &str) -> Value {
    json!({"status": {"conditions": [
        {"type": kind, "status": status, "reason": reason, "lastTransitionTime": then, "lastHeartbeatTime": then}]}})
}

fn both(mut one: Value, other: &Value) -> Value {
    json_patch::merge(&mut one, other);
    one
}

fn pod(name: &str, extra: &Value) -> Arc<Pod> {
    let mut pod = json!({"metadata": {"name": name, "namespace": "ns", "uid": name}});
    json_patch::merge(&mut pod, extra);
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn with_pods(o: &mut Observed, pods: Vec<Arc<Pod>>) {
    o.guests.pods = Seen::Pods(Pods {
        pods,
        ..Pods::default()
    });
}

fn refused(o: &mut Observed, uid: &str, refusal: Refusal) {
    let Seen::Pods(pods) = &mut o.guests.pods else {
        panic!("no pods")
    };
    let until = now() + Duration::from_secs(5);
    let answer = Answer {
        refusal: Some(refusal),
        until,
    };
    pods.answers.insert(uid.into(), answer);
}

fn deletes_vm(plan: &Plan) -> bool {
    plan.steps
        .iter()
        .any(|step| matches!(step, Step::DeleteVm { .. }))
}

#[rstest]
#[case::just_begun("11:59:59", json!({}), None, false)]
#[case::for_a_while("11:59:58", json!({}), None, true)]
#[case::in_turn("11:59:59", json!({}), Some(Turn { ahead: 0, limit: 1 }), true)]
#[case::with_a_node_to_record("11:59:59", json!({"status": {"providerStatus": {"nodeUID": null}}}), None, true)]
#[case::with_more_to_write("11:59:59", json!({"metadata": {"finalizers":
    ["machine-delete-finalizer", "machine-node-delete-finalizer", "kubermatic.io/red-hat-subscription"]}}), None, true)]
fn of_a_drain_that_has_just_begun_nothing_is_said(
    #[case] deleted: &str,
    #[case] extra: Value,
    #[case] turn: Option<Turn>,
    #[case] is_said: bool,
) {
    let deleted = format!("2026-01-01T{deleted}Z");
    let deleted = json!({"metadata": {"deletionTimestamp": deleted}, "status": {"providerStatus": {"nodeUID": "node-1"}}});
    let mut o = leaving(&both(deleted, &extra));
    o.guests.turn = turn;
    for (pods, node) in [
        (Seen::Unwatched, node(&json!({}))),
        (Seen::Unwatched, cordoned(&json!({}))),
        (Seen::Opening(None), cordoned(&json!({}))),
    ] {
        (o.guests.pods, o.node) = (pods, Some(node));
        let plan = decide(&o, now());
        assert_eq!(
            verbs(&plan).contains(&"patch the Machine"),
            is_said,
            "{:?}",
            verbs(&plan)
        );
        assert!(
            plan.why.is_empty() || plan.why.starts_with("DrainingNode"),
            "{}",
            plan.why
        );
    }
    // What keeps it from going on is said at once.
    o.guests.pods = Seen::Opening(Some("forbidden".into()));
    assert!(verbs(&decide(&o, now())).contains(&"patch the Machine"));
}

#[test]
fn a_node_is_cordoned_on_condition_of_what_was_seen_then_its_pods_are_watched_then_evicted() {
    let mut o = leaving(&json!({}));
    o.node = Some(node(&json!({})));
    o.guests.pods = Seen::Unwatched;
    let plan = decide(&o, now());
    let Step::PatchNode { patch: cordon, .. } = &plan.steps[0] else {
        panic!("{:?}", plan.steps)
    };
    assert_eq!(
        cordon,
        &json!({"metadata": {"uid": "node-1", "resourceVersion": "3"}, "spec": {"unschedulable": true}})
    );
    assert_eq!(condition(&plan, "Deleting")["reason"], "DrainingNode");
    assert_eq!(condition(&plan, "Drained")["status"], "False");
    o.node = Some(cordoned(&json!({})));
    assert_eq!(verbs(&decide(&o, now()))[0], "watch the Node's pods");
    o.guests.pods = Seen::Opening(None);
    assert!(touches_nothing(&decide(&o, now())), "the list is awaited");
    with_pods(&mut o, vec![pod("a", &json!({}))]);
    let plan = decide(&o, now());
    assert!(matches!(&plan.steps[0], Step::EvictPods(targets) if targets[0].uid == "a"));
    assert!(!deletes_vm(&plan));
    with_pods(&mut o, vec![]);
    let plan = decide(&o, now());
    assert_eq!(verbs(&plan), ["patch the Machine", "delete the VirtualMachine"]);
    assert_eq!(condition(&plan, "Drained")["status"], "True");
}

#[test]
fn what_cannot_be_listed_is_told_and_not_taken_for_an_empty_node() {
    let mut o = leaving(&json!({}));
    o.guests.pods = Seen::Opening(Some("403 Forbidden".into()));
    let plan = decide(&o, now());
    assert!(touches_nothing(&plan));
    assert!(
        condition(&plan, "Drained")["message"]
            .as_str()
            .unwrap()
            .contains("403")
    );
}

#[test]
fn a_budget_in_the_way_is_named_with_its_pods_and_told_once() {
    let mut o = leaving(&json!({}));
    with_pods(&mut o, vec![pod("a", &json!({}))]);
    refused(
        &mut o,
        "a",
        Refusal::Budget("The disruption budget web needs 1 healthy pods".into(), None),
    );
    let plan = decide(&o, now());
    assert_eq!(verbs(&plan), ["patch the Machine", "record an Event"]);
    let drained = condition(&plan, "Drained");
    assert_eq!(drained["reason"], "EvictionBlocked");
    let message = drained["message"].as_str().unwrap();
    assert!(
        message.contains("ns/a") && message.contains("budget web"),
        "{message}"
    );
    assert_eq!(plan.again, Some(Duration::from_secs(5)), "asked again by itself");
    let mut written = json!({"metadata": {"deletionTimestamp": "2026-01-01T11:59:00Z"}});
    json_patch::merge(&mut written, patch(&plan));
    let mut again = leaving(&written);
    again.guests = o.guests.clone();
    assert_eq!(decide(&again, now()).steps, [], "nothing new");
}

#[rstest]
#[case::a_daemon_sets(json!({"metadata": {"ownerReferences": [
    {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "d", "controller": true}]}}), true)]
#[case::a_mirror(json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "h"}}}), true)]
#[case::a_completed(json!({"status": {"phase": "Succeeded"}}), true)]
#[case::one_to_be_skipped(json!({"metadata": {"labels": {"cluster.x-k8s.io/drain": "skip"}}}), true)]
#[case::one_to_complete(json!({"metadata": {"labels": {"cluster.x-k8s.io/drain": "wait-completed"}}}), false)]
#[case::a_terminating(json!({"metadata": {"deletionTimestamp": NOW}}), false)]
#[case::a_bare(json!({}), false)]
fn a_pod_keeps_the_vm_alive_unless_it_stays_anyway(#[case] extra: Value, #[case] deletes: bool) {
    let mut o = leaving(&json!({}));
    with_pods(&mut o, vec![pod("a", &extra)]);
    assert_eq!(deletes_vm(&decide(&o, now())), deletes);
}

#[rstest]
#[case::cluster_apis_annotation(annotated("machine.cluster.x-k8s.io/exclude-node-draining", ""), json!({}), "exclude-node-draining")]
#[case::machine_controllers_annotation_of_the_node(
    json!({}), annotated("kubermatic.io/skip-eviction", "x"), "skip-eviction")]
#[case::two_hours_are_over(
    json!({"metadata": {"deletionTimestamp": "2026-01-01T10:00:00Z"}}), json!({}), "--skip-eviction-after")]
#[case::its_own_time_is_over(
    both(annotated(DRAIN_TIMEOUT, "1m"), &since("Drained", "False", "Draining", "2026-01-01T11:59:00Z")), json!({}), "60s")]
#[case::the_node_is_gone_silent(
    json!({}),
    json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown", "lastTransitionTime": "2026-01-01T11:59:00Z"}]}}),
    "Unknown")]
#[case::the_node_never_was_ready(json!({}), json!({"status": {"conditions": []}}), "unknown")]
fn a_node_is_not_drained(#[case] machine: Value, #[case] node: Value, #[case] why: &str) {
    let mut o = leaving(&machine);
    o.node = Some(cordoned(&node));
    with_pods(&mut o, vec![pod("a", &json!({}))]);
    let plan = decide(&o, now());
    assert!(deletes_vm(&plan), "{:?}", verbs(&plan));
    let drained = condition(&plan, "Drained");
    assert_eq!(
        (&drained["status"], &drained["reason"]),
        (&json!("False"), &json!("DrainSkipped"))
    );
    assert!(drained["message"].as_str().unwrap().contains(why), "{drained}");
}

#[rstest]
#[case::less_than_two_hours(
    json!({"metadata": {"deletionTimestamp": "2026-01-01T10:00:01Z"}}), json!({}), Some(1))]
#[case::its_own_time_is_not_over(
    both(annotated(DRAIN_TIMEOUT, "1m"), &since("Drained", "False", "Draining", "2026-01-01T11:59:30Z")), json!({}), Some(30))]
#[case::its_own_time_counts_from_the_drain(annotated(DRAIN_TIMEOUT, "1m"), json!({}), Some(60))]
#[case::no_time_is_no_limit(
    both(annotated(DRAIN_TIMEOUT, "0s"), &since("Drained", "False", "Draining", "2026-01-01T11:00:00Z")), json!({}), None)]
#[case::no_duration_is_no_limit(
    both(annotated(DRAIN_TIMEOUT, "soon"), &since("Drained", "False", "Draining", "2026-01-01T11:00:00Z")), json!({}), None)]
#[case::a_kubelet_that_is_restarted(
    json!({}),
    json!({"status": {"conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T11:59:20Z"}]}}),
    Some(20))]
fn a_node_is_drained_and_looked_at_again_when_that_ends(
    #[case] machine: Value,
    #[case] node: Value,
    #[case] again: Option<u64>,
) {
    let mut o = leaving(&machine);
    o.node = Some(cordoned(&node));
    with_pods(
        &mut o,
        vec![pod("a", &json!({"metadata": {"deletionTimestamp": NOW}}))],
    );
    let plan = decide(&o, now());
    assert!(!deletes_vm(&plan));
    if let Some(seconds) = again {
        assert_eq!(plan.again, Some(Duration::from_secs(seconds)));
    }
}

#[rstest]
#[case::when_there_is_room(1, true)]
#[case::not_while_others_are(2, false)]
fn a_node_is_drained_in_turn(#[case] ahead: usize, #[case] begins: bool) {
    let mut o = leaving(&json!({}));
    o.node = Some(node(&json!({})));
    o.guests.turn = Some(Turn { ahead, limit: 2 });
    let plan = decide(&o, now());
    assert_eq!(verbs(&plan)[0] == "patch the Node", begins);
    if !begins {
        assert!(touches_nothing(&plan));
        assert_eq!(condition(&plan, "Deleting")["reason"], "WaitingForOtherDrains");
        assert!(plan.again.is_some());
    }
}

#[test]
fn at_the_end_of_a_cluster_nobody_is_evicted_to_nowhere() {
    let mut o = leaving(&json!({}));
    o.node = Some(node(&json!({})));
    o.guests.refuge = Refuge::None;
    with_pods(&mut o, vec![pod("a", &json!({}))]);
    let plan = decide(&o, now());
    assert!(deletes_vm(&plan));
    assert!(!verbs(&plan).contains(&"patch the Node"), "nor is it cordoned");
    assert_eq!(condition(&plan, "Drained")["reason"], "DrainSkipped");
    assert!(
        !verbs(&plan).contains(&"record an Event"),
        "whoever does that knows"
    );
}

#[test]
fn a_drain_that_is_left_out_is_told_once() {
    let mut o = leaving(&annotated(
        "machine.cluster.x-k8s.io/exclude-node-draining",
        "true",
    ));
    assert!(verbs(&decide(&o, now())).contains(&"record an Event"));
    o = leaving(&both(
        annotated("machine.cluster.x-k8s.io/exclude-node-draining", "true"),
        &since("Drained", "False", "DrainSkipped", NOW),
    ));
    assert!(!verbs(&decide(&o, now())).contains(&"record an Event"));
}

#[rstest]
#[case::by_another_machines_name(json!({"metadata": {"annotations": {"cluster.k8s.io/machine": "other/web-1"}}}))]
#[case::by_nothing_that_ties_it_to_the_vm(json!({"spec": {"providerID": "other://x"}}))]
fn a_strangers_node_is_neither_cordoned_nor_drained(#[case] extra: Value) {
    let mut o = leaving(&json!({}));
    o.node = Some(node(&extra));
    with_pods(&mut o, vec![pod("a", &json!({}))]);
    assert_eq!(
        verbs(&decide(&o, now())),
        ["patch the Machine", "delete the VirtualMachine"]
    );
}

#[test]
fn a_machine_without_a_node_is_not_drained() {
    let mut o = leaving(&json!({}));
    o.node = None;
    let plan = decide(&o, now());
    assert!(deletes_vm(&plan));
    let conditions = patch(&plan)["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().all(|condition| condition["type"] != "Drained"));
}

#[test]
fn hooks_hold_the_drain_and_then_the_vm_until_they_are_removed() {
    let pre_drain = "pre-drain.delete.hook.machine.cluster.x-k8s.io/backup";
    let mut o = leaving(&annotated(pre_drain, "velero"));
    o.node = Some(node(&json!({})));
    let plan = decide(&o, now());
    assert!(touches_nothing(&plan), "{:?}", verbs(&plan));
    assert_eq!(condition(&plan, "Deleting")["reason"], "WaitingForPreDrainHook");
    let message = condition(&plan, "Deleting")["message"].as_str().unwrap();
    assert!(
        message.contains(pre_drain) && message.contains("velero"),
        "{message}"
    );

    let pre_terminate = "pre-terminate.delete.hook.machine.cluster.x-k8s.io";
    let mut o = leaving(&annotated(pre_terminate, ""));
    let plan = decide(&o, now());
    assert!(touches_nothing(&plan), "{:?}", verbs(&plan));
    assert_eq!(
        condition(&plan, "Deleting")["reason"],
        "WaitingForPreTerminateHook"
    );
    assert_eq!(condition(&plan, "Drained")["status"], "True", "after the drain");
    o.node = None;
    assert!(!deletes_vm(&decide(&o, now())), "also without a Node");
}

#[test]
fn the_drain_does_not_begin_anew_once_the_end_is_held_up() {
    let hook = annotated("pre-terminate.delete.hook.machine.cluster.x-k8s.io", "");
    let held = since("Deleting", "True", "WaitingForPreTerminateHook", NOW);
    let mut o = leaving(&both(hook, &held));
    o.node = Some(node(&json!({})));
    with_pods(&mut o, vec![pod("of-the-hooks-owner", &json!({}))]);
    o.guests.volumes = vec!["pv-1".into()];
    let plan = decide(&o, now());
    assert!(touches_nothing(&plan), "{:?}", verbs(&plan));
    let mut released = StoredMachine::clone(&o.machine);
    released.metadata.annotations = None;
    o.machine = Arc::new(released);
    assert!(deletes_vm(&decide(&o, now())), "nor when the hook is gone");
}

/// Its VM, deleted by somebody else.
fn going() -> Infra {
    Infra::Open(Box::new(Open {
        vm: Some(vm(&json!({"metadata": {"deletionTimestamp": NOW}}))),
        ..running()
    }))
}

#[test]
fn a_vm_that_is_on_its_way_out_is_not_drained() {
    let mut o = leaving(&json!({}));
    o.infra = going();
    with_pods(&mut o, vec![pod("a", &json!({}))]);
    o.guests.volumes = vec!["pv-1".into()];
    let plan = decide(&o, now());
    assert!(touches_nothing(&plan));
    assert_eq!(condition(&plan, "Deleting")["reason"], "WaitingForVMDeletion");
}

#[rstest]
#[case::before_the_drain_while_it_goes("pre-drain", going(), "WaitingForPreDrainHook")]
#[case::before_the_end_while_it_goes("pre-terminate", going(), "WaitingForPreTerminateHook")]
#[case::before_the_drain_when_it_is_gone(
    "pre-drain",
    Infra::Open(Box::new(open())),
    "WaitingForPreDrainHook"
)]
#[case::before_the_end_when_it_is_gone(
    "pre-terminate",
    Infra::Open(Box::new(open())),
    "WaitingForPreTerminateHook"
)]
fn a_hook_holds_the_machine_also_when_somebody_else_deletes_the_vm(
    #[case] hook: &str,
    #[case] infra: Infra,
    #[case] reason: &str,
) {
    let hook = format!("{hook}.delete.hook.machine.cluster.x-k8s.io/backup");
    let mut o = without_vm(&annotated(&hook, "velero"));
    o.infra = infra;
    let plan = decide(&o, now());
    assert!(touches_nothing(&plan), "{:?}", verbs(&plan));
    assert_eq!(patch(&plan)["metadata"]["finalizers"], Value::Null);
    assert_eq!(condition(&plan, "Deleting")["reason"], reason);
}

#[test]
fn a_hook_holds_a_machine_whose_vm_was_given_up_on() {
    let hook = annotated("pre-terminate.delete.hook.machine.cluster.x-k8s.io", "");
    let o = leaving(&both(annotated("machinist.dev/abandon-vm-uid", "v1"), &hook));
    let plan = decide(&o, now());
    assert!(touches_nothing(&plan), "{:?}", verbs(&plan));
    assert_eq!(patch(&plan)["metadata"]["finalizers"], Value::Null);
}

#[test]
fn volumes_are_waited_for_after_the_drain_and_named() {
    let mut o = leaving(&json!({}));
    o.guests.volumes = vec!["pv-1".into()];
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
    o.guests.volumes = Vec::new();
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
    o.guests.volumes = vec!["pv-1".into()];
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
#[case::somebody_wants_no_drain(annotated("machine.cluster.x-k8s.io/exclude-node-draining", ""), json!({}), false)]
#[case::the_drain_took_too_long(
    both(annotated(DRAIN_TIMEOUT, "1m"), &since("Drained", "False", "Draining", "2026-01-01T11:59:00Z")), json!({}), false)]
#[case::nobody_wants_that_either(
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
    o.guests.volumes = vec!["pv-1".into()];
    let plan = decide(&o, now());
    assert_eq!(deletes_vm(&plan), deletes);
    if !deletes {
        assert_eq!(condition(&plan, "Drained")["reason"], "DrainSkipped");
        assert_eq!(condition(&plan, "Deleting")["reason"], "WaitingForVolumeDetach");
        o.guests.volumes.clear();
        assert!(deletes_vm(&decide(&o, now())));
    }
}

#[test]
fn the_pods_of_a_node_that_is_not_drained_are_listed_for_their_volumes() {
    let mut o = leaving(&annotated("machine.cluster.x-k8s.io/exclude-node-draining", ""));
    o.guests.pods = Seen::Unwatched;
    assert!(deletes_vm(&decide(&o, now())), "there are none");
    o.guests.volumes = vec!["pv-1".into()];
    assert!(verbs(&decide(&o, now())).contains(&"watch the Node's pods"));
    let stays = json!({"metadata": {"labels": {"cluster.x-k8s.io/drain": "skip"}},
        "spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}});
    with_pods(&mut o, vec![pod("a", &stays)]);
    let Seen::Pods(pods) = &mut o.guests.pods else {
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
    o.guests.volumes = vec!["pv-1".into(), "pv-2".into()];
    let plan = decide(&o, now());
    assert!(
        plan.steps
            .contains(&Step::LookUpVolumes(vec!["pv-1".into(), "pv-2".into()]))
    );
    let Seen::Pods(pods) = &mut o.guests.pods else {
        panic!("no pods")
    };
    let unread = |seconds| Claim::Unread(now() + Duration::from_secs(seconds));
    pods.claims.insert("pv-1".into(), unread(3));
    pods.claims.insert("pv-2".into(), Claim::None);
    let plan = decide(&o, now());
    assert!(!verbs(&plan).contains(&"look up volumes"), "not at once");
    assert_eq!(plan.again, Some(Duration::from_secs(3)));
    let Seen::Pods(pods) = &mut o.guests.pods else {
        panic!("no pods")
    };
    pods.claims.insert("pv-1".into(), unread(0));
    let again = Step::LookUpVolumes(vec!["pv-1".into()]);
    assert!(decide(&o, now()).steps.contains(&again));
    let Seen::Pods(pods) = &mut o.guests.pods else {
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
    o.guests.volumes = vec!["pv-1".into()];
    assert!(deletes_vm(&decide(&o, now())));
}

/// The same, its VM gone, the Node known by the record.
fn without_vm(extra: &Value) -> Observed {
    let mut o = leaving(&both(
        json!({"status": {"providerStatus": {"nodeUID": "node-1"}}}),
        extra,
    ));
    o.infra = Infra::Open(Box::new(open()));
    o
}

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
    o.guests.volumes = vec!["pv-1".into()];
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
    o.guests.volumes = Vec::new();
    assert!(verbs(&decide(&o, now())).contains(&"delete the Node"));
}

#[rstest]
#[case::in_time("2026-01-01T11:58:01Z", false)]
#[case::after_two_minutes("2026-01-01T11:58:00Z", true)]
fn volumes_that_nobody_detaches_do_not_keep_the_node_for_ever(#[case] begun: &str, #[case] deletes: bool) {
    let mut o = without_vm(&since("Deleting", "True", "ReleasingVolumes", begun));
    o.guests.volumes = vec!["pv-1".into()];
    assert_eq!(verbs(&decide(&o, now())).contains(&"delete the Node"), deletes);
}

#[test]
fn a_node_that_cannot_be_marked_out_of_service_is_not_kept_for_ever() {
    let mut o = without_vm(&since("Deleting", "True", "DeleteFailed", "2026-01-01T11:58:00Z"));
    o.guests.volumes = vec!["pv-1".into()];
    assert!(verbs(&decide(&o, now())).contains(&"delete the Node"));
}

#[test]
fn a_vm_that_was_given_up_on_may_still_run_so_its_node_is_not_out_of_service() {
    let mut o = leaving(&annotated("machinist.dev/abandon-vm-uid", "v1"));
    o.guests.volumes = vec!["pv-1".into()];
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
        }),
        ..open()
    }));
    o.guests.volumes = vec!["pv-1".into()];
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
fn told(plan: &Plan) -> Vec<&'static str> {
    let events = plan.steps.iter().filter_map(|step| match step {
        Step::Event(event) => Some(event.reason),
        _ => None,
    });
    events.collect()
}

#[rstest]
#[case::a_vm_that_was_given_up_on(leaving(&annotated("machinist.dev/abandon-vm-uid", "v1")), "VMAbandoned")]
#[case::a_strangers_vm(
    Observed { infra: Infra::Open(Box::new(Open {
        vm: Some(vm(&json!({"metadata": {"uid": "v9", "labels": {"machinist.dev/machine-uid": "m9"}}}))),
        labelled_machine_exists: true,
        ..running()
    })), ..without_vm(&json!({})) },
    "VMLeftAlone")]
#[case::volumes_that_nobody_detaches(
    {
        let mut o = without_vm(&since("Deleting", "True", "ReleasingVolumes", "2026-01-01T11:58:00Z"));
        o.guests.volumes = vec!["pv-1".into()];
        o
    },
    "VolumesLeft")]
fn what_is_left_behind_is_told_once_when_the_machine_goes(#[case] mut o: Observed, #[case] reason: &str) {
    o.node = Some(cordoned(
        &json!({"metadata": {"deletionTimestamp": NOW, "finalizers": ["their/finalizer"]}}),
    ));
    assert_eq!(told(&decide(&o, now())), [""; 0], "the Node is held");
    o.node = None;
    if reason == "VolumesLeft" {
        o.node = Some(cordoned(&json!({})));
    }
    let plan = decide(&o, now());
    assert_eq!(patch(&plan)["metadata"]["finalizers"], json!([]));
    assert_eq!(told(&plan), [reason]);
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
        concerns: Concern::NodeDeletion,
        message: "cannot delete the Node: 403 Forbidden".into(),
        until: now() + Duration::from_mins(5),
        is_news: true,
    });
    let plan = decide(&o, now());
    assert!(!verbs(&plan).contains(&"delete the Node"), "not at once again");
    assert_eq!(patch(&plan)["metadata"]["finalizers"] == json!([]), goes);
    if goes {
        assert_eq!(told(&plan), ["NodeLeft"]);
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
    #[case] o: Observed,
    #[case] left: Value,
) {
    let plan = decide(&o, now());
    assert_eq!(patch(&plan)["metadata"]["finalizers"], left);
    let told = plan.steps.iter().any(|step| {
        matches!(step, Step::Event(event) if event.reason == "SubscriptionLeft" && event.message.contains("web-1"))
    });
    assert!(told, "{:?}", plan.steps);
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
        o.guests.pods = Seen::Pods(pods);
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
