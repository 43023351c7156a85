//! Machines that a version before wrote, which recorded nothing of what takes time: they go on, and so do those that are moved
//! back to it.
//!
//! `machines_without_progress.json` is what that version wrote in the situations of [`stages`].

use std::collections::BTreeMap;

use super::*;
use crate::machine::disruption_budget;
use crate::machine::drain::Pod;
use crate::machine::drain::slots::{self, DrainSlot};
use crate::machine::drain::sort::{Answer, Refusal};

type Machines = BTreeMap<String, Value>;

fn before() -> Machines {
    serde_json::from_str(include_str!("machines_without_progress.json")).unwrap()
}

fn stored(machine: &Value) -> StoredMachine {
    serde_json::from_value(machine.clone()).unwrap()
}

fn at(time: &str) -> Timestamp {
    format!("2026-01-01T{time}Z").parse().unwrap()
}

/// The Machine as it is stored after a decision on a running VM with a token, changed like that.
fn after(machine: &Value, change: impl Fn(&mut Snapshot)) -> Value {
    let mut o = observed(stored(machine), running());
    o.token = Some(token());
    change(&mut o);
    let mut machine = machine.clone();
    json_patch::merge(&mut machine, patch(&decide(&o, now())));
    machine
}

fn with_pod(o: &mut Snapshot) {
    let pod: Pod =
        serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "ns", "uid": "a"}})).unwrap();
    o.node = Some(node(&being_drained()));
    o.workload.pods = Seen::Pods(Pods {
        pods: vec![Arc::new(pod)],
        ..Pods::default()
    });
}

fn with_volume(o: &mut Snapshot) {
    o.node = Some(node(&being_drained()));
    o.workload.volumes = vec!["pv-1".into()];
}

fn without_vm(o: &mut Snapshot) {
    o.node = Some(node(&being_drained()));
    o.infra = Infra::Open(Box::new(open()));
}

fn with_held_node(o: &mut Snapshot) {
    without_vm(o);
    let mut held = being_drained();
    let finalizers = json!({"metadata": {"deletionTimestamp": NOW, "finalizers": ["their/finalizer"]}});
    json_patch::merge(&mut held, &finalizers);
    o.node = Some(node(&held));
}

fn failing(o: &mut Snapshot, scope: FailureScope) {
    let until = now() + Duration::from_mins(5);
    o.failure = Some(Failure {
        scope,
        message: "403".into(),
        until,
        is_news: true,
    });
}

fn evacuating(o: &mut Snapshot, disruption_budget: DisruptionBudget) {
    let eviction = Eviction::Wanted {
        uid: "vmi-1".into(),
        host: "host-a".into(),
    };
    o.node = Some(node(&json!({})));
    o.disruption_budget = disruption_budget;
    o.infra = Infra::Open(Box::new(Open {
        eviction,
        ..running()
    }));
}

/// Until it has joined.
fn live_stages(all: &mut Machines) -> Value {
    let new = json!({
        "apiVersion": "cluster.k8s.io/v1alpha1", "kind": "Machine",
        "metadata": {"name": "web-1", "namespace": "kube-system", "uid": "m1", "resourceVersion": "7",
            "creationTimestamp": "2026-01-01T11:59:00Z"},
        "spec": {"versions": {"kubelet": "1.33.4"}},
    });
    let waiting = after(&new, |o| {
        o.infra = Infra::Open(Box::new(open()));
        o.start = Start::Full {
            starting: 4,
            own: 2,
            limit: 4,
        };
    });
    let launching = after(&new, |o| {
        o.token = None;
        o.infra = Infra::Open(Box::new(open()));
    });
    let created = after(&launching, |o| {
        o.infra = Infra::Open(Box::new(Open {
            vm: Some(vm(&json!({}))),
            ..open()
        }));
    });
    let joining = after(&created, |_| ());
    let joined = after(&joining, |o| o.node = Some(node(&json!({}))));
    let vanished = after(&joined, |o| {
        with_volume(o);
        o.infra = Infra::Open(Box::new(open()));
    });
    let mut of_set = joined.clone();
    of_set["metadata"]["ownerReferences"] = json!([
        {"apiVersion": "cluster.k8s.io/v1alpha1", "kind": "MachineSet", "name": "s", "uid": "s", "controller": true}]);
    let full = DisruptionBudget::Full { missing: 1, limit: 1 };
    for (name, disruption_budget) in [
        ("evacuating, waits", full),
        ("evacuating, another is made first", DisruptionBudget::Surge),
        ("evacuating, is the one that goes", DisruptionBudget::Allowed),
    ] {
        all.insert(name.into(), after(&of_set, |o| evacuating(o, disruption_budget)));
    }
    for (name, machine) in [
        ("waiting to start", waiting),
        ("launching", launching),
        ("joining", joining),
        ("joined", joined.clone()),
        ("the VM vanished", vanished),
    ] {
        all.insert(name.into(), machine);
    }
    joined
}

/// A Machine in each stage of its life, as this version writes it.
fn stages() -> Machines {
    let mut all = Machines::new();
    let mut deleting = live_stages(&mut all);
    json_patch::merge(
        &mut deleting,
        &json!({"metadata": {"deletionTimestamp": "2026-01-01T11:59:30Z", "annotations": {
            "machinist.dev/node-drain-timeout": "10m", "machinist.dev/node-volume-detach-timeout": "10m",
            "machinist.dev/node-deletion-timeout": "10m"}}}),
    );
    let hooked = |hook: &str| {
        let mut machine = deleting.clone();
        machine["metadata"]["annotations"][format!("{hook}.delete.hook.machine.cluster.x-k8s.io/x")] =
            json!("x");
        machine
    };
    let draining = after(&deleting, with_pod);
    let vm_deleting = after(&deleting, |o| {
        o.node = Some(node(&being_drained()));
    });
    let cannot = |failure_scope, volumes: bool| {
        after(&vm_deleting, |o| {
            if volumes {
                with_volume(o);
            }
            without_vm(o);
            failing(o, failure_scope);
        })
    };
    for (name, machine) in [
        (
            "waiting for other drains",
            after(&deleting, |o| {
                o.node = Some(node(&json!({})));
                o.workload.drain_slot = Some(DrainSlot { ahead: 1, limit: 1 });
            }),
        ),
        (
            "waiting for a pre-drain hook",
            after(&hooked("pre-drain"), |o| o.node = Some(node(&json!({})))),
        ),
        (
            "draining, blocked",
            after(&draining, |o| {
                with_pod(o);
                let Seen::Pods(pods) = &mut o.workload.pods else {
                    panic!("no pods")
                };
                let refusal = Some(Refusal::Budget("budget".into(), None));
                let until = now() + Duration::from_secs(5);
                pods.answers.insert("a".into(), Answer { refusal, until });
            }),
        ),
        ("waiting for volumes", after(&draining, with_volume)),
        ("draining", draining),
        (
            "waiting for a pre-terminate hook",
            after(&hooked("pre-terminate"), |o| {
                o.node = Some(node(&being_drained()));
            }),
        ),
        (
            "blocked",
            after(&deleting, |o| o.infra = Infra::Unreachable("no answer".into())),
        ),
        (
            "releasing volumes",
            after(&vm_deleting, |o| {
                with_volume(o);
                without_vm(o);
            }),
        ),
        ("deleting the Node", after(&vm_deleting, with_held_node)),
        (
            "cannot delete the Node",
            cannot(FailureScope::NodeDeletion, false),
        ),
        ("cannot mark the Node", cannot(FailureScope::Node, true)),
        ("deleting the VM", vm_deleting.clone()),
    ] {
        all.insert(name.into(), machine);
    }
    all
}

/// Messages are for people: no version reads them.
fn without_messages(mut machine: Value) -> Value {
    let conditions = machine
        .pointer_mut("/status/conditions")
        .and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten() {
        condition["message"] = Value::Null;
    }
    if let Some(status) = machine["status"].as_object_mut() {
        status.retain(|key, _| key != "errorMessage" && key != "failureMessage");
    }
    machine
}

/// The version before reads conditions, their transition times and the record: none of that may be any different.
#[test]
fn what_this_version_writes_the_one_before_goes_on_with() {
    let before = before();
    let now = stages();
    assert_eq!(before.keys().collect::<Vec<_>>(), now.keys().collect::<Vec<_>>());
    for (name, mut machine) in now {
        if let Some(record) = machine.pointer_mut("/status/providerStatus") {
            let record = record.as_object_mut().unwrap();
            record.retain(|key, _| !["deletion", "evacuation", "vmLoss"].contains(&key.as_str()));
            if record.is_empty() {
                machine["status"]
                    .as_object_mut()
                    .unwrap()
                    .remove("providerStatus");
            }
        }
        let mut before = before[&name].clone();
        // The version before said only in `Deleting` what the deletion waits for, and read nothing of `Ready`.
        for machine in [&mut machine, &mut before] {
            let conditions = machine["status"]["conditions"].as_array_mut().unwrap();
            let is_deleting = |c: &Value| c["type"] == "Deleting" && c["status"] == "True";
            if conditions.iter().any(is_deleting) {
                conditions.retain(|condition| condition["type"] != "Ready");
            }
        }
        // Of a VM that goes, the version before left what it had said of it, and read nothing but that it vanished.
        if is_vm_deleted(&machine) {
            for machine in [&mut machine, &mut before] {
                let conditions = machine["status"]["conditions"].as_array_mut().unwrap();
                conditions.retain(|condition| condition["type"] != "InfrastructureReady");
            }
        }
        assert_eq!(without_messages(machine), without_messages(before), "{name}");
    }
}

fn is_vm_deleted(machine: &Value) -> bool {
    let conditions = machine["status"]["conditions"].as_array();
    let mut reasons = conditions
        .into_iter()
        .flatten()
        .map(|condition| &condition["reason"]);
    reasons.any(|reason| reason == "VMDeleted" || reason == "VMTerminating")
}

#[rstest]
#[case::waiting_to_start("waiting to start", json!({}))]
#[case::launching("launching", json!({}))]
#[case::joining("joining", json!({}))]
#[case::joined("joined", json!({}))]
#[case::vm_loss("the VM vanished", json!({"vmLoss": {"vmUID": "v1", "missedAt": NOW}}))]
#[case::evacuation("evacuating, waits", json!({"evacuation": {"startedAt": NOW}}))]
#[case::surge("evacuating, another is made first", json!({"evacuation": {"startedAt": NOW, "reserved": "Surge"}}))]
#[case::chosen("evacuating, is the one that goes", json!({"evacuation": {"startedAt": NOW, "reserved": "Deletion"}}))]
#[case::blocked("blocked", json!({"deletion": {"waitingFor": "Infrastructure"}}))]
#[case::drain_slot("waiting for other drains", json!({"deletion": {"waitingFor": "DrainSlot"}}))]
#[case::pre_drain_hook("waiting for a pre-drain hook", json!({"deletion": {"preDrainHookStartedAt": NOW}}))]
#[case::draining("draining", json!({"deletion": {"drainStartedAt": NOW}}))]
#[case::drain_blocked("draining, blocked", json!({"deletion": {"drainStartedAt": NOW}}))]
#[case::volumes("waiting for volumes", json!({"deletion": {"drainEndedAt": NOW, "volumeDetachStartedAt": NOW}}))]
#[case::pre_terminate_hook(
    "waiting for a pre-terminate hook", json!({"deletion": {"drainEndedAt": NOW, "preTerminateHookStartedAt": NOW}}))]
#[case::vm("deleting the VM", json!({"deletion": {"drainEndedAt": NOW}}))]
#[case::release("releasing volumes", json!({"deletion": {"drainEndedAt": NOW, "volumeReleaseStartedAt": NOW}}))]
#[case::node("deleting the Node", json!({"deletion": {"drainEndedAt": NOW, "nodeDeletionStartedAt": NOW}}))]
fn what_takes_time_is_recorded_and_read_from_conditions_where_it_is_not(
    #[case] name: &str,
    #[case] expected: Value,
) {
    assert_eq!(json!(stored(&before()[name]).progress), expected);
    let written = &stages()[name]["status"]["providerStatus"];
    let mut recorded = json!({});
    for key in ["deletion", "evacuation", "vmLoss"] {
        if let Some(value) = written.get(key) {
            recorded[key] = value.clone();
        }
    }
    assert_eq!(recorded, expected);
}

/// The annotations of these Machines set limits of 10 minutes, and Kubernetes has 2 minutes for volumes of a VM that is gone.
#[rstest]
#[case::drain("draining", with_pod, "12:10:00", "delete the VirtualMachine")]
#[case::drain_that_is_blocked("draining, blocked", with_pod, "12:10:00", "delete the VirtualMachine")]
#[case::volumes("waiting for volumes", with_volume, "12:10:00", "delete the VirtualMachine")]
#[case::node("deleting the Node", with_held_node, "12:10:00", "delete the bootstrap token")]
#[case::release("releasing volumes", |o: &mut Snapshot| { with_volume(o); without_vm(o); }, "12:02:00", "delete the Node")]
#[case::node_that_cannot_be_marked(
    "cannot mark the Node", |o: &mut Snapshot| { with_volume(o); without_vm(o); failing(o, FailureScope::Evacuation); }, "12:02:00",
    "delete the Node")]
#[case::node_that_cannot_be_deleted(
    "cannot delete the Node", |o: &mut Snapshot| { without_vm(o); failing(o, FailureScope::NodeDeletion); }, "12:10:00",
    "delete the bootstrap token")]
#[case::vm_loss("the VM vanished", |o: &mut Snapshot| { with_volume(o); without_vm(o); }, "12:02:00", "delete the Node")]
fn a_wait_that_began_under_the_version_before_ends_in_its_time(
    #[case] name: &str,
    #[case] change: fn(&mut Snapshot),
    #[case] end: &str,
    #[case] then: &str,
) {
    for machine in [&before()[name], &stages()[name]] {
        let mut o = observed(stored(machine), running());
        o.token = Some(token());
        change(&mut o);
        let early = decide(&o, at(end) - Duration::from_secs(1));
        assert!(!verbs(&early).contains(&then), "early: {:?}", verbs(&early));
        let due = decide(&o, at(end));
        assert!(verbs(&due).contains(&then), "due: {:?}", verbs(&due));
    }
}

#[test]
fn a_drain_that_was_over_before_does_not_begin_again() {
    let mut o = observed(stored(&before()["waiting for a pre-terminate hook"]), running());
    with_pod(&mut o);
    assert!(touches_nothing(&decide(&o, now())));
    let mut released = StoredMachine::clone(&o.machine);
    released.metadata.annotations = None;
    o.machine = Arc::new(released);
    let plan = decide(&o, now());
    assert!(verbs(&plan).contains(&"delete the VirtualMachine"));
    // Nor if the VM could not be deleted at once.
    let mut written = before()["waiting for a pre-terminate hook"].clone();
    written["metadata"]["annotations"] = json!({});
    json_patch::merge(&mut written, patch(&plan));
    o.machine = Arc::new(stored(&written));
    assert!(!verbs(&decide(&o, now())).contains(&"evict pods"));
}

#[test]
fn what_was_reserved_for_a_machine_stays_so() {
    let before = before();
    let of = |name: &str| stored(&before[name]);
    let surge = of("evacuating, another is made first");
    assert!(
        disruption_budget::is_waiting(&surge)
            && disruption_budget::has_surge(&surge)
            && disruption_budget::is_replaced(&surge)
    );
    let chosen = of("evacuating, is the one that goes");
    assert!(
        !disruption_budget::is_waiting(&chosen)
            && !disruption_budget::has_surge(&chosen)
            && disruption_budget::is_replaced(&chosen)
    );
    let waits = of("evacuating, waits");
    assert!(disruption_budget::is_waiting(&waits) && !disruption_budget::is_replaced(&waits));
    assert!(slots::is_draining(&of("draining")) && slots::is_draining(&of("draining, blocked")));
    assert!(!slots::is_draining(&of("waiting for volumes")));
    assert!(slots::is_waiting(&of("waiting for other drains")));
}

#[test]
fn what_was_read_from_conditions_is_written_with_the_next_patch_and_by_none_of_its_own() {
    let mut o = observed(stored(&before()["draining"]), running());
    o.token = Some(token());
    with_pod(&mut o);
    assert_eq!(verbs(&decide(&o, now())), ["evict pods"]);
    with_volume(&mut o);
    o.workload.pods = Seen::Pods(Pods::default());
    let plan = decide(&o, now() + Duration::from_mins(1));
    assert_eq!(
        patch(&plan)["status"]["providerStatus"],
        json!({"deletion": {"drainEndedAt": "2026-01-01T12:01:00Z", "volumeDetachStartedAt": "2026-01-01T12:01:00Z"}})
    );
}
