//! What comes before the deletion of a VM, and between it and the Node's.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::machine::drain::Pod;
use crate::machine::drain::slots::DrainSlot;
use crate::machine::drain::sort::{Answer, Refusal};
use crate::machine::drain::watch::Claim;

const DRAIN_TIMEOUT: &str = "machinist.dev/node-drain-timeout";
const DETACH_TIMEOUT: &str = "machinist.dev/node-volume-detach-timeout";

/// A Machine whose deletion was asked for a minute ago, with a running VM and a cordoned Node.
fn leaving(extra: &Value) -> Snapshot {
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
    let mut cordoned = being_drained();
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

fn with_pods(o: &mut Snapshot, pods: Vec<Arc<Pod>>) {
    o.workload.pods = Seen::Pods(Pods {
        pods,
        ..Pods::default()
    });
}

fn refused(o: &mut Snapshot, uid: &str, refusal: Refusal) {
    let Seen::Pods(pods) = &mut o.workload.pods else {
        panic!("no pods")
    };
    let until = now() + Duration::from_secs(5);
    let answer = Answer {
        refusal: Some(refusal),
        until,
    };
    pods.answers.insert(uid.into(), answer);
}

/// The same, its VM gone, the Node known by the record.
fn without_vm(extra: &Value) -> Snapshot {
    let mut o = leaving(&both(
        json!({"status": {"providerStatus": {"nodeUID": "node-1"}}}),
        extra,
    ));
    o.infra = Infra::Open(Box::new(open()));
    o
}

fn deletes_vm(plan: &Plan) -> bool {
    plan.steps
        .iter()
        .any(|step| matches!(step, Step::DeleteVm { .. }))
}

#[rstest]
#[case::just_begun("11:59:59", json!({}), None, false)]
#[case::for_a_while("11:59:58", json!({}), None, true)]
#[case::in_turn("11:59:59", json!({}), Some(DrainSlot { ahead: 0, limit: 1 }), true)]
#[case::with_a_node_to_record("11:59:59", json!({"status": {"providerStatus": {"nodeUID": null}}}), None, true)]
#[case::with_more_to_write("11:59:59", json!({"metadata": {"finalizers":
    ["machine-delete-finalizer", "machine-node-delete-finalizer", "kubermatic.io/red-hat-subscription"]}}), None, true)]
fn of_a_drain_that_has_just_begun_nothing_is_said(
    #[case] deleted: &str,
    #[case] extra: Value,
    #[case] drain_slot: Option<DrainSlot>,
    #[case] is_said: bool,
) {
    let deleted = format!("2026-01-01T{deleted}Z");
    let deleted = json!({"metadata": {"deletionTimestamp": deleted}, "status": {"providerStatus": {"nodeUID": "node-1"}}});
    let mut o = leaving(&both(deleted, &extra));
    o.workload.drain_slot = drain_slot;
    for (pods, node) in [
        (Seen::Unwatched, node(&json!({}))),
        (Seen::Unwatched, cordoned(&json!({}))),
        (Seen::Opening(None), cordoned(&json!({}))),
    ] {
        (o.workload.pods, o.node) = (pods, Some(node));
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
    o.workload.pods = Seen::Opening(Some("forbidden".into()));
    assert!(verbs(&decide(&o, now())).contains(&"patch the Machine"));
}

#[test]
fn a_node_is_cordoned_on_condition_of_what_was_seen_then_its_pods_are_watched_then_evicted() {
    let mut o = leaving(&json!({}));
    o.node = Some(node(&json!({})));
    o.workload.pods = Seen::Unwatched;
    let plan = decide(&o, now());
    let Step::PatchNode { patch: cordon, .. } = &plan.steps[0] else {
        panic!("{:?}", plan.steps)
    };
    assert_eq!(cordon["spec"], json!({"unschedulable": true}));
    let metadata = &cordon["metadata"];
    assert_eq!(
        (&metadata["uid"], &metadata["resourceVersion"]),
        (&json!("node-1"), &json!("3"))
    );
    // A controller that begins when the Machine is gone knows from it what to finish.
    let remnant = metadata["annotations"]["machinist.dev/deleting"]
        .as_str()
        .unwrap();
    let remnant: Value = serde_json::from_str(remnant).unwrap();
    assert_eq!(
        (&remnant["uid"], &remnant["namespace"]),
        (&json!("m1"), &json!("kube-system"))
    );
    assert_eq!(remnant["providerStatus"]["vmUID"], "v1");
    assert_eq!(remnant["providerStatus"]["nodeUID"], "node-1");
    assert_eq!(condition(&plan, "Deleting")["reason"], "DrainingNode");
    assert_eq!(condition(&plan, "Drained")["status"], "False");
    o.node = Some(cordoned(&json!({})));
    assert_eq!(verbs(&decide(&o, now()))[0], "watch the Node's pods");
    o.workload.pods = Seen::Opening(None);
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

/// A kubelet may change its own Node.
#[test]
fn a_node_that_loses_its_mark_or_is_uncordoned_gets_it_back_after_a_pause_and_the_drain_goes_on() {
    let mark = Item::Annotation("machinist.dev/deleting".to_owned());
    let mut o = leaving(&json!({}));
    o.node = Some(node(&json!({})));
    let Some(Step::PatchNode { puts, .. }) = decide(&o, now()).steps.into_iter().next() else {
        panic!("it is not marked")
    };
    assert_eq!(puts, [Item::Unschedulable, mark.clone()]);
    with_pods(&mut o, vec![pod("a", &json!({}))]);
    let [long, short] = [8, 4].map(Duration::from_secs);
    o.waits = Waits::from([(Item::Unschedulable, long), (mark.clone(), short)]);
    let plan = decide(&o, now());
    assert!(matches!(&plan.steps[0], Step::EvictPods(_)), "{:?}", verbs(&plan));
    assert_eq!(plan.again, Some(short));
    o.waits.remove(&mark);
    let plan = decide(&o, now());
    let Some(Step::PatchNode { patch, puts, .. }) = plan.steps.first() else {
        panic!("{:?}", verbs(&plan))
    };
    assert_eq!(*puts, [mark]);
    assert!(patch.get("spec").is_none() && patch["metadata"]["annotations"].is_object());
}

#[test]
fn what_cannot_be_listed_is_reported_and_not_taken_for_an_empty_node() {
    let mut o = leaving(&json!({}));
    o.workload.pods = Seen::Opening(Some("403 Forbidden".into()));
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
fn a_budget_in_the_way_is_named_with_its_pods_and_reported_once() {
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
    again.workload = o.workload.clone();
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
fn a_node_is_drained_and_checked_again_when_that_ends(
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
    o.workload.drain_slot = Some(DrainSlot { ahead, limit: 2 });
    let plan = decide(&o, now());
    assert_eq!(verbs(&plan)[0] == "patch the Node", begins);
    if !begins {
        assert!(touches_nothing(&plan));
        assert_eq!(condition(&plan, "Deleting")["reason"], "WaitingForOtherDrains");
        assert!(plan.again.is_some());
    }
}

#[test]
fn at_the_end_of_a_cluster_no_pod_is_evicted_to_nowhere() {
    let mut o = leaving(&json!({}));
    o.node = Some(node(&json!({})));
    o.workload.schedulable_targets = SchedulableTargets::None;
    with_pods(&mut o, vec![pod("a", &json!({}))]);
    let plan = decide(&o, now());
    assert!(deletes_vm(&plan));
    assert!(!verbs(&plan).contains(&"patch the Node"), "nor is it cordoned");
    assert_eq!(condition(&plan, "Drained")["reason"], "DrainSkipped");
    assert!(
        !verbs(&plan).contains(&"record an Event"),
        "the one that does that knows"
    );
}

#[test]
fn a_drain_that_is_left_out_is_reported_once() {
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
fn a_foreign_node_is_neither_cordoned_nor_drained(#[case] extra: Value) {
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
fn the_drain_does_not_begin_again_once_the_end_is_held_up() {
    let hook = annotated("pre-terminate.delete.hook.machine.cluster.x-k8s.io", "");
    let held = since("Deleting", "True", "WaitingForPreTerminateHook", NOW);
    let mut o = leaving(&both(hook, &held));
    o.node = Some(node(&json!({})));
    with_pods(&mut o, vec![pod("of-the-hooks-owner", &json!({}))]);
    o.workload.volumes = vec!["pv-1".into()];
    let plan = decide(&o, now());
    assert!(touches_nothing(&plan), "{:?}", verbs(&plan));
    let mut released = StoredMachine::clone(&o.machine);
    released.metadata.annotations = None;
    o.machine = Arc::new(released);
    assert!(deletes_vm(&decide(&o, now())), "nor when the hook is gone");
}

/// Its VM, deleted by another client.
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
    o.workload.volumes = vec!["pv-1".into()];
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
fn a_hook_holds_the_machine_also_when_another_client_deletes_the_vm(
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

mod vm_gone;
mod volumes;
