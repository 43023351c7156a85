//! Each rule of a MachineSet as a case.

use std::sync::Arc;

use jiff::SignedDuration;
use rstest::rstest;
use serde_json::json;

use super::*;
use crate::cache::StoredMachine;
use crate::machine_set::snapshot::types::{Failure, Member, NodeState};
use crate::runtime::creation_limit::{Allowance, Halt};
use crate::runtime::recreation::Recreation;

/// 2027-01-15T08:00:00Z.
fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn ago(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 - seconds).unwrap()
}

/// A set of `replicas` whose spec and metadata are changed by `change`.
fn set(replicas: i32, change: &Value) -> Arc<StoredMachineSet> {
    let labels = json!({"app": "a"});
    let mut set = json!({
        "metadata": {
            "name": "workers", "namespace": "ns", "uid": "set", "resourceVersion": "7", "generation": 3,
            "finalizers": ["foregroundDeletion"],
        },
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}}},
    });
    json_patch::merge(&mut set, change);
    Arc::new(serde_json::from_value(set).unwrap())
}

fn machine(name: &str, change: &Value) -> Arc<StoredMachine> {
    let mut machine = json!({
        "metadata": {
            "name": name, "namespace": "ns", "uid": format!("uid-{name}"), "resourceVersion": "1",
            "creationTimestamp": "2027-01-15T07:00:00Z", "labels": {"app": "a"},
        },
    });
    json_patch::merge(&mut machine, change);
    Arc::new(serde_json::from_value(machine).unwrap())
}

const READY: NodeState = NodeState::Ready { since: None };

fn member(name: &str, node: NodeState, change: &Value) -> Member {
    Member {
        machine: machine(name, change),
        node,
    }
}

fn ready(name: &str) -> Member {
    member(name, READY, &json!({}))
}

fn observed(set: Arc<StoredMachineSet>, machines: Vec<Member>) -> Snapshot {
    Snapshot {
        set,
        machines,
        orphans: Vec::new(),
        rejected: Vec::new(),
        creations: Allowance::unlimited(),
        failure: None,
        recreation: None,
        skew: Skew::Small,
        status_overdue: false,
        instancetype: None,
        instancetype_again: None,
        overlaps: Vec::new(),
        left_behind: Vec::new(),
    }
}

/// Steps in a few words.
fn steps(plan: &Plan) -> Vec<String> {
    let names = |machines: &[Arc<StoredMachine>]| {
        let mut names: Vec<&str> = machines.iter().map(|m| m.name()).collect();
        names.sort_unstable();
        names.join(",")
    };
    plan.steps
        .iter()
        .map(|step| match step {
            Step::PatchSet(patch) => format!("patch {}", patch["metadata"]["finalizers"]),
            Step::Release(machines) => format!("release {}", names(machines)),
            Step::Adopt(machines) => format!("adopt {}", names(machines)),
            Step::Create(count) => format!("create {count}"),
            Step::Delete(machines) => format!("delete {}", names(machines)),
            Step::ChangeInPlace(changes) => format!("change {}", changes.len()),
            Step::Status(_) => "status".to_owned(),
            Step::Event(event) => format!("event {}", event.reason),
        })
        .collect()
}

fn status_of(plan: &Plan) -> Value {
    let found = plan.steps.iter().find_map(|step| match step {
        Step::Status(patch) => Some(patch["status"].clone()),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no status in {plan:?}"))
}

#[rstest]
#[case::what_is_missing_is_made(3, 1, &["create 2"])]
#[case::what_is_too_much_is_deleted(1, 3, &["delete 1 2"])]
#[case::enough_is_left_alone_and_reported(2, 2, &["status"])]
#[case::none_are_wanted_and_none_are_there(0, 0, &["status"])]
#[case::no_plan_makes_more_than_32(1000, 0, &["create 32"])]
fn the_number_of_machines_is_kept(#[case] wanted: i32, #[case] there: usize, #[case] expected: &[&str]) {
    let machines = (0..there).map(|i| ready(&format!("m-{i}"))).collect();
    let plan = decide(&observed(set(wanted, &json!({})), machines), now());
    let said = match &plan.steps[..] {
        [Step::Delete(victims)] => vec![format!("delete {wanted} {}", victims.len())],
        _ => steps(&plan),
    };
    assert_eq!(said, expected);
    assert_eq!(plan.more, wanted == 1000);
}

#[rstest]
#[case::fewer_than_there_may_be(3, 700, &["create 29"], true)]
#[case::as_many_as_there_may_be(32, 700, &["status"], false)]
#[case::the_last_ones(31, 33, &["create 1"], true)]
#[case::no_more_than_are_missing(10, 20, &["create 10"], false)]
fn no_more_than_32_machines_wait_for_their_vm(
    #[case] waiting: usize,
    #[case] wanted: i32,
    #[case] expected: &[&str],
    #[case] more: bool,
) {
    let waits = |i: usize| member(&format!("m-{i}"), NodeState::Absent, &json!({}));
    let machines = (0..waiting).map(waits).collect();
    let plan = decide(&observed(set(wanted, &json!({})), machines), now());
    assert_eq!(
        (steps(&plan), plan.more),
        (expected.iter().map(|step| (*step).to_owned()).collect(), more)
    );
}

#[test]
fn a_set_whose_machines_others_select_is_reported_so() {
    let mut observed = observed(set(1, &json!({})), vec![ready("m")]);
    observed.overlaps = vec!["other".to_owned()];
    assert_eq!(
        steps(&decide(&observed, now())),
        ["status", "event SelectorOverlap"]
    );
}

#[test]
fn a_set_that_is_being_deleted_is_left_to_garbage_collection() {
    let deleting = set(
        5,
        &json!({"metadata": {"deletionTimestamp": "2027-01-15T07:59:00Z", "finalizers": []}}),
    );
    let mut observed = observed(deleting, vec![ready("m")]);
    observed.orphans.push(machine("o", &json!({})));
    observed.status_overdue = true;
    let plan = decide(&observed, now());
    assert!(plan.steps.is_empty() && plan.again.is_none());
}

#[test]
fn the_finalizer_is_added_to_others() {
    let bare = set(1, &json!({"metadata": {"finalizers": ["a/b"]}}));
    let plan = decide(&observed(bare, vec![ready("m")]), now());
    assert_eq!(steps(&plan), ["patch [\"a/b\",\"foregroundDeletion\"]"]);
}

#[test]
fn a_machine_that_is_being_deleted_does_not_count_and_is_replaced() {
    let dying = member(
        "dying",
        READY,
        &json!({"metadata": {"deletionTimestamp": "2027-01-15T07:59:00Z"}}),
    );
    let plan = decide(&observed(set(2, &json!({})), vec![ready("m"), dying]), now());
    assert_eq!(steps(&plan), ["create 1"]);
}

#[test]
fn an_orphan_is_taken_instead_of_making_another() {
    let mut observed = observed(set(2, &json!({})), vec![ready("m")]);
    observed.orphans.push(machine("o", &json!({})));
    assert_eq!(steps(&decide(&observed, now())), ["adopt o"]);
}

#[test]
fn an_orphan_too_many_is_taken_before_anything_is_deleted() {
    let mut observed = observed(set(1, &json!({})), vec![ready("m"), ready("n")]);
    observed.orphans.push(machine("o", &json!({})));
    assert_eq!(steps(&decide(&observed, now())), ["adopt o"]);
    // Unless it does not let itself be taken.
    observed.failure = Some(Failure {
        reason: "UpdateError",
        message: "cannot adopt the Machine".into(),
        until: now(),
        is_news: false,
        of_status: false,
    });
    let steps = steps(&decide(&observed, now()));
    assert!(steps.len() == 2 && steps[1].starts_with("delete "), "{steps:?}");
}

#[test]
fn a_machine_whose_labels_no_longer_match_is_let_go_and_replaced() {
    let strayed = member("strayed", READY, &json!({"metadata": {"labels": {"app": "b"}}}));
    let plan = decide(&observed(set(2, &json!({})), vec![ready("m"), strayed]), now());
    assert_eq!(steps(&plan), ["release strayed", "create 1"]);
}

#[test]
fn a_machine_that_is_being_deleted_is_not_let_go() {
    let change = json!({"metadata": {"labels": null, "deletionTimestamp": "2027-01-15T07:59:00Z"}});
    let plan = decide(
        &observed(
            set(1, &json!({})),
            vec![ready("m"), member("dying", READY, &change)],
        ),
        now(),
    );
    assert_eq!(steps(&plan), ["status"]);
}

#[rstest]
#[case::paused(json!({"cluster.x-k8s.io/paused": ""}), false)]
#[case::initializers(json!({"machine-controller.kubermatic.io/initializers": "x"}), false)]
#[case::empty_initializers_pause_nothing(json!({"machine-controller.kubermatic.io/initializers": ""}), true)]
fn a_paused_set_changes_no_machine_and_tells_its_status(#[case] annotations: Value, #[case] works: bool) {
    for (wanted, there) in [(3, 1), (0, 1)] {
        let set = set(
            wanted,
            &json!({"metadata": {"annotations": annotations, "finalizers": []}}),
        );
        let machines = (0..there).map(|i| ready(&format!("m-{i}"))).collect();
        let mut observed = observed(set, machines);
        observed.orphans.push(machine("o", &json!({})));
        let plan = decide(&observed, now());
        assert_eq!(plan.steps.iter().any(Step::is_work), works);
        if !works {
            assert_eq!(steps(&plan), ["status"]);
        }
    }
}

#[rstest]
#[case::no_selector(json!({"spec": {"selector": null}}), "must not be empty")]
#[case::a_selector_that_misses_its_own_template(
    json!({"spec": {"selector": {"matchLabels": {"app": "other"}}}}), "does not match")]
#[case::no_number(json!({"spec": {"replicas": null}}), "spec.replicas: is required")]
#[case::a_negative_number(json!({"spec": {"replicas": -1}}), "spec.replicas: -1 is negative")]
#[case::a_number_that_is_text(json!({"spec": {"replicas": "3"}}), "spec.replicas: invalid type")]
fn a_spec_that_cannot_be_obeyed_touches_no_machine_and_says_why(#[case] change: Value, #[case] why: &str) {
    let mut observed = observed(set(3, &change), vec![ready("m")]);
    observed.orphans.push(machine("o", &json!({})));
    let plan = decide(&observed, now());
    assert_eq!(steps(&plan), ["status", "event ReconcileError"]);
    let status = status_of(&plan);
    assert_eq!(status["errorReason"], "InvalidConfiguration");
    assert!(status["errorMessage"].as_str().unwrap().contains(why), "{status}");
    assert_eq!(status["replicas"], 1, "what is there still counts");
}

#[test]
fn trouble_is_reported_by_one_event_and_taken_back_when_it_is_fixed() {
    let status = json!({"replicas": 1, "observedGeneration": 3, "labelSelector": "app=a", "readyReplicas": 1,
        "availableReplicas": 1, "fullyLabeledReplicas": 1,
        "errorReason": "InvalidConfiguration", "errorMessage": "spec.replicas: is required",
        "conditions": conditions(&[("Ready", "False"), ("Stalled", "True")], "InvalidConfiguration", "spec.replicas: is required")});
    let known = set(1, &json!({"spec": {"replicas": null}, "status": status}));
    let known = |machines| steps(&decide(&observed(known.clone(), machines), now()));
    assert!(known(vec![ready("m")]).is_empty());
    assert_eq!(known(vec![]), ["status"], "the Event has been written");
    let fixed = set(1, &json!({"status": status}));
    let plan = decide(&observed(fixed, vec![ready("m")]), now());
    assert_eq!(steps(&plan), ["status"]);
    assert_eq!(status_of(&plan)["errorReason"], Value::Null);
}

#[test]
fn an_unknown_delete_policy_makes_machines_and_deletes_none() {
    let policy = json!({"spec": {"deletePolicy": "Biggest"}});
    let plan = decide(&observed(set(1, &policy), vec![ready("a"), ready("b")]), now());
    assert_eq!(steps(&plan), ["status", "event ReconcileError"]);
    assert!(
        status_of(&plan)["errorMessage"]
            .as_str()
            .unwrap()
            .contains("\"Biggest\"")
    );
    let plan = decide(&observed(set(3, &policy), vec![ready("a")]), now());
    assert_eq!(steps(&plan), ["create 2"]);
}

#[rstest]
#[case::another_is_made_in_its_place(2, &["create 1"])]
#[case::it_is_not_too_many(3, &[])]
#[case::others_are(4, &["delete"])]
fn one_that_goes_does_not_count_and_none_goes_in_its_stead(
    #[case] machines: usize,
    #[case] expected: &[&str],
    #[values("WaitingForReplacement", "HostDrained")] reason: &str,
    #[values("Random", "Newest", "Oldest")] policy: &str,
) {
    let goes =
        json!({"status": {"conditions": [{"type": "Evacuating", "status": "True", "reason": reason}]}});
    let mut members = vec![member("leaving", READY, &goes)];
    members.extend((1..machines).map(|number| ready(&format!("m{number}"))));
    let policy = json!({"spec": {"deletePolicy": policy}});
    let plan = decide(&observed(set(2, &policy), members), now());
    let mut steps = steps(&plan);
    assert!(!steps.iter().any(|step| step.contains("leaving")), "{steps:?}");
    steps.retain(|step| step.starts_with("create") || step.starts_with("delete"));
    assert_eq!(steps.len(), expected.len(), "{steps:?}");
    assert!(
        steps
            .iter()
            .zip(expected)
            .all(|(step, expected)| step.starts_with(expected))
    );
}

#[test]
fn a_set_that_stands_alone_is_reported_what_its_instancetype_has_and_nothing_twice() {
    let group = json!({
        "metadata": {"annotations": {"cluster.k8s.io/cluster-api-autoscaler-node-group-max-size": "5",
            "cluster.k8s.io/cluster-api-autoscaler-node-group-min-size": "0"}},
        "spec": {"template": {"spec": {"providerSpec": {"value": {"cloudProvider": "kubevirt", "operatingSystem": "ubuntu",
            "cloudProviderSpec": {"virtualMachine": {"instancetype": {"name": "large"}, "template": {"primaryDisk": {"size": "10Gi"}}}}}}}}},
    });
    let large = Some(json!({"cpu": {"guest": 4}, "memory": {"guest": "16Gi"}}));
    let patch = |group: &Value, instancetype: &Option<Value>| {
        let mut observed = observed(set(0, group), Vec::new());
        observed.instancetype.clone_from(instancetype);
        let steps = decide(&observed, now()).steps.into_iter();
        let mut patches = steps.filter_map(|step| match step {
            Step::PatchSet(patch) => Some(patch),
            _ => None,
        });
        patches.next()
    };
    let first = patch(&group, &large).unwrap();
    assert_eq!(
        first["metadata"]["annotations"]["capacity.cluster-autoscaler.kubernetes.io/cpu"],
        "4"
    );
    let mut written = group;
    json_patch::merge(&mut written, &first);
    assert_eq!(patch(&written, &large), None);
    let grown = patch(
        &written,
        &Some(json!({"cpu": {"guest": 8}, "memory": {"guest": "16Gi"}})),
    );
    assert_eq!(
        grown.unwrap()["metadata"]["annotations"]["capacity.cluster-autoscaler.kubernetes.io/cpu"],
        "8"
    );
    // What is no node group any more loses what we wrote.
    let mut former = written.clone();
    former["metadata"]["annotations"]
        .as_object_mut()
        .unwrap()
        .retain(|key, _| !key.contains("node-group"));
    let taken = patch(&former, &large).unwrap();
    assert_eq!(
        taken["metadata"]["annotations"]["capacity.cluster-autoscaler.kubernetes.io/cpu"],
        Value::Null
    );
    // A deployment's is reported by that.
    let owner = json!({"metadata": {"ownerReferences": [{"apiVersion": "cluster.k8s.io/v1alpha1", "kind": "MachineDeployment",
        "name": "d", "uid": "d", "controller": true}]}});
    let mut below = written;
    json_patch::merge(&mut below, &owner);
    assert_eq!(patch(&below, &None), None);
}

/// One of each class; the first letter is the order in which they must go.
fn one_of_each() -> Vec<Member> {
    let marked = json!({"metadata": {"annotations": {"cluster.k8s.io/delete-machine": "2027-01-15"}}});
    vec![
        member(
            "g-healthy",
            NodeState::Ready {
                since: Some(now() - std::time::Duration::from_mins(1)),
            },
            &json!({"metadata": {"annotations": {"cluster.k8s.io/delete-machine": ""}}}),
        ),
        member(
            "f-not-available",
            NodeState::Ready {
                since: Some(now() - std::time::Duration::from_secs(59)),
            },
            &json!({}),
        ),
        member("e-not-ready", NodeState::NotReady, &json!({})),
        member("d-without-node", NodeState::Absent, &json!({})),
        member("c-failed", READY, &json!({"status": {"phase": "Failed"}})),
        member(
            "b-in-error",
            READY,
            &json!({"status": {"errorReason": "CreateError"}}),
        ),
        member("a-marked", READY, &marked),
    ]
}

#[rstest]
fn the_annotated_go_first_then_failed_then_without_node_then_not_ready_then_not_available(
    #[values("", "Random", "Newest", "Oldest")] policy: &str,
    #[values(1, 3, 4, 5, 6, 7)] count: usize,
) {
    let machines = one_of_each();
    let wanted = i32::try_from(machines.len() - count).unwrap();
    let set = set(
        wanted,
        &json!({"spec": {"deletePolicy": policy, "minReadySeconds": 60}}),
    );
    let plan = decide(&observed(set, machines), now());
    let mut expected = [
        "a-marked",
        "b-in-error",
        "c-failed",
        "d-without-node",
        "e-not-ready",
        "f-not-available",
        "g-healthy",
    ];
    expected[..count].sort_unstable();
    assert_eq!(steps(&plan), [format!("delete {}", expected[..count].join(","))]);
}

#[rstest]
#[case::newest("Newest", "young")]
#[case::oldest("Oldest", "aged")]
fn the_policy_orders_the_healthy(#[case] policy: &str, #[case] expected: &str) {
    let made =
        |name: &str, time: &str| member(name, READY, &json!({"metadata": {"creationTimestamp": time}}));
    let machines = vec![
        made("middle", "2027-01-15T07:30:00Z"),
        made("young", "2027-01-15T07:59:00Z"),
        made("aged", "2027-01-14T07:00:00Z"),
    ];
    let plan = decide(
        &observed(set(2, &json!({"spec": {"deletePolicy": policy}})), machines),
        now(),
    );
    assert_eq!(steps(&plan), [format!("delete {expected}")]);
}

#[rstest]
fn of_equals_the_same_go_every_time_and_whatever_the_order_they_are_seen_in(
    #[values("Random", "Newest", "Oldest")] policy: &str,
) {
    let names = ["a", "b", "c", "d", "e"];
    let chosen = |names: Vec<&str>| {
        let machines = names.into_iter().map(ready).collect();
        let set = set(2, &json!({"spec": {"deletePolicy": policy}}));
        steps(&decide(&observed(set, machines), now()))
    };
    let forwards = chosen(names.to_vec());
    assert_eq!(forwards, chosen(names.into_iter().rev().collect()));
    if policy != "Random" {
        assert_eq!(forwards, ["delete a,b,c"], "by name");
    }
}

#[test]
fn the_status_counts() {
    let unlabeled = json!({"spec": {"template": {"metadata": {"labels": {"more": "b"}}}}});
    let machines = vec![
        ready("ready"),
        member(
            "labelled",
            NodeState::NotReady,
            &json!({"metadata": {"labels": {"more": "b"}}}),
        ),
        member("joining", NodeState::Absent, &json!({})),
        member(
            "dying",
            READY,
            &json!({"metadata": {"deletionTimestamp": "2027-01-15T07:59:00Z"}}),
        ),
    ];
    let plan = decide(&observed(set(3, &unlabeled), machines), now());
    let expected = json!({
        "replicas": 3, "fullyLabeledReplicas": 1, "readyReplicas": 1, "availableReplicas": 1,
        "observedGeneration": 3, "labelSelector": "app=a", "errorReason": null, "errorMessage": null,
        "conditions": conditions(
            &[("Ready", "False"), ("Reconciling", "True")],
            "MachinesUnavailable",
            "1 of 3 Machines are available",
        ),
    });
    assert_eq!(status_of(&plan), expected);
}

/// Conditions that were written now.
fn conditions(kinds: &[(&str, &str)], reason: &str, message: &str) -> Value {
    let at = now();
    let condition = |(kind, status): &(&str, &str)| json!({"type": kind, "status": status, "reason": reason, "message": message, "lastUpdateTime": at, "lastTransitionTime": at});
    kinds.iter().map(condition).collect()
}

/// What a tool that waits for a set reads, by the rules of kstatus.
#[rstest]
#[case::all_available(json!({}), vec![ready("a"), ready("b")], ("Ready", "MachinesAvailable"))]
#[case::too_few(json!({}), vec![ready("a")], ("Reconciling", "ScalingUp"))]
#[case::too_many(json!({}), vec![ready("a"), ready("b"), ready("c")], ("Reconciling", "ScalingDown"))]
#[case::one_not_available(json!({}), vec![ready("a"), member("b", NodeState::NotReady, &json!({}))], ("Reconciling", "MachinesUnavailable"))]
#[case::paused_and_short(json!({"metadata": {"annotations": {"cluster.x-k8s.io/paused": ""}}}), vec![ready("a")], ("Reconciling", "Paused"))]
#[case::paused_and_full(json!({"metadata": {"annotations": {"cluster.x-k8s.io/paused": ""}}}), vec![ready("a"), ready("b")], ("Ready", "MachinesAvailable"))]
#[case::a_spec_that_cannot_be_obeyed(json!({"spec": {"replicas": -1}}), vec![ready("a")], ("Stalled", "InvalidConfiguration"))]
fn the_health_is_what_a_person_would_say(
    #[case] change: Value,
    #[case] machines: Vec<Member>,
    #[case] expected: (&str, &str),
) {
    let set = set(2, &change);
    let counts = status::count(&set, &machines.iter().collect::<Vec<_>>(), now());
    let trouble = invalid(&set);
    let patch = status::patch(&set, &counts, trouble.as_ref(), now()).unwrap();
    let conditions = patch["status"]["conditions"].as_array().unwrap();
    let mut shown = conditions
        .iter()
        .filter(|condition| condition["status"] == "True");
    let only = shown.next().unwrap();
    assert_eq!(
        (&only["type"], &only["reason"]),
        (&json!(expected.0), &json!(expected.1))
    );
    assert_eq!(shown.next(), None);
}

#[rstest]
#[case::as_we_wrote_it(json!({"replicas": 0, "fullyLabeledReplicas": 0, "readyReplicas": 0, "availableReplicas": 0}))]
#[case::as_machine_controller_wrote_it(json!({"replicas": 0}))]
fn a_status_that_says_so_already_is_not_written(#[case] status: Value) {
    let mut change = json!({"status": status});
    json_patch::merge(
        &mut change,
        &json!({"status": {"observedGeneration": 3, "labelSelector": "app=a",
            "conditions": conditions(&[("Ready", "True")], "MachinesAvailable", "0 of 0 Machines are available")}}),
    );
    assert!(decide(&observed(set(0, &change), vec![]), now()).steps.is_empty());
}

#[test]
fn a_machine_is_available_min_ready_seconds_after_its_node_is_ready_and_that_is_waited_for() {
    let since = |seconds: i64| NodeState::Ready {
        since: Some(ago(seconds)),
    };
    let machines = vec![
        member("long", since(60), &json!({})),
        member("just", since(30), &json!({})),
        member("soon", since(10), &json!({})),
        member("later", since(5), &json!({})),
        member("unknown", READY, &json!({})),
    ];
    let set = set(5, &json!({"spec": {"minReadySeconds": 30}}));
    let plan = decide(&observed(set, machines), now());
    let status = status_of(&plan);
    assert_eq!(
        (&status["readyReplicas"], &status["availableReplicas"]),
        (&json!(5), &json!(2))
    );
    assert_eq!(plan.again, Some(Duration::from_secs(20)));
}

#[test]
fn a_failed_write_is_shown_and_tried_again_when_its_time_has_come() {
    let failure = |until| Failure {
        reason: "CreateError",
        message: "cannot create the Machine: quota".into(),
        until,
        is_news: true,
        of_status: false,
    };
    let mut observed = observed(set(2, &json!({})), vec![ready("m")]);
    observed.failure = Some(failure(ago(-5)));
    let plan = decide(&observed, now());
    assert_eq!(steps(&plan), ["status", "event ReconcileError"]);
    assert_eq!(
        status_of(&plan)["errorMessage"],
        "cannot create the Machine: quota"
    );
    assert_eq!(plan.again, Some(Duration::from_secs(5)));
    assert!(!plan.forgive);

    observed.failure = Some(failure(now()));
    assert_eq!(steps(&decide(&observed, now())), ["create 1"]);
}

#[test]
fn an_attempt_that_fails_like_the_one_before_is_counted_in_its_event_and_writes_no_status() {
    let failure = |is_news| Failure {
        reason: "CreateError",
        message: "cannot create the Machine: quota".into(),
        until: ago(-5),
        is_news,
        of_status: false,
    };
    let mut observed = observed(set(2, &json!({})), vec![ready("m")]);
    observed.failure = Some(failure(true));
    let reported = decide(&observed, now());
    assert_eq!(steps(&reported), ["status", "event ReconcileError"]);
    observed.set = set(2, &json!({"status": status_of(&reported)}));
    assert_eq!(steps(&decide(&observed, now())), ["event ReconcileError"]);
    observed.failure = Some(failure(false));
    assert_eq!(steps(&decide(&observed, now())), Vec::<String>::new());
}

#[test]
fn a_status_that_could_not_be_written_is_not_tried_again_before_its_time() {
    let failure = |until| Failure {
        reason: "UpdateError",
        message: "cannot patch the status of the MachineSet".into(),
        until,
        is_news: true,
        of_status: true,
    };
    let mut observed = observed(set(1, &json!({})), vec![ready("m")]);
    observed.failure = Some(failure(ago(-5)));
    let plan = decide(&observed, now());
    assert_eq!(
        (steps(&plan), plan.again),
        (Vec::<String>::new(), Some(Duration::from_secs(5)))
    );
    assert!(!plan.forgive, "its pauses go on growing");
    observed.failure = Some(failure(now()));
    let plan = decide(&observed, now());
    assert_eq!(steps(&plan), ["status"]);
    assert!(plan.forgive);
}

#[test]
fn a_failure_of_what_is_no_longer_wanted_is_forgotten() {
    let mut observed = observed(set(1, &json!({})), vec![ready("m")]);
    observed.failure = Some(Failure {
        reason: "CreateError",
        message: "no".into(),
        until: ago(-5),
        is_news: false,
        of_status: false,
    });
    let plan = decide(&observed, now());
    assert!(plan.forgive);
    assert_eq!(status_of(&plan)["errorReason"], Value::Null);
}

#[test]
fn a_status_waits_for_the_machines_to_settle_but_not_for_long() {
    let mut observed = observed(set(3, &json!({})), vec![ready("m")]);
    assert_eq!(steps(&decide(&observed, now())), ["create 2"]);
    observed.status_overdue = true;
    assert_eq!(steps(&decide(&observed, now())), ["create 2", "status"]);
}

#[test]
fn a_set_whose_machines_end_early_makes_others_after_a_pause_and_says_so_until_that_is_over() {
    let mut observed = observed(set(2, &json!({})), vec![ready("m")]);
    let recreation = |until| Recreation {
        count: 3,
        until,
        ends: ago(-600),
    };
    observed.recreation = Some(recreation(ago(-2)));
    let reported = decide(&observed, now());
    assert_eq!(steps(&reported), ["status", "event ReconcileError"]);
    assert_eq!(reported.again, Some(Duration::from_secs(2)));
    assert_eq!(status_of(&reported)["errorReason"], "CreateError");
    observed.set = set(2, &json!({"status": status_of(&reported)}));
    observed.recreation = Some(recreation(now()));
    assert_eq!(steps(&decide(&observed, now())), ["create 1"]);
    observed.machines.push(ready("n"));
    let plan = decide(&observed, now());
    assert_eq!(
        status_of(&plan)["errorReason"],
        "CreateError",
        "it may be the next that ends"
    );
    assert_eq!(plan.again, Some(Duration::from_mins(10)));
    observed.recreation = None;
    assert_eq!(status_of(&decide(&observed, now()))["errorReason"], Value::Null);
}

#[test]
fn a_set_whose_new_machines_are_changed_creates_none_and_goes_on_with_everything_else() {
    let mut observed = observed(set(3, &json!({})), vec![ready("m")]);
    observed.creations.halt = Some(Halt {
        message: "labels".to_owned(),
        until: now() + std::time::Duration::from_mins(5),
    });
    let plan = decide(&observed, now());
    assert_eq!(steps(&plan), ["status", "event ReconcileError"]);
    assert_eq!(status_of(&plan)["errorReason"], "MachineChangedAtAdmission");
    assert_eq!(plan.again, Some(std::time::Duration::from_mins(5)));
    // What was made wrong goes; what fits is taken.
    observed.rejected.push(machine("wrong", &json!({})));
    observed.orphans.push(machine("o", &json!({})));
    assert_eq!(steps(&decide(&observed, now())), ["delete wrong", "adopt o"]);
    // Once in a while it is tried again.
    observed.rejected.clear();
    observed.orphans.clear();
    let later = now() + std::time::Duration::from_mins(5);
    assert_eq!(steps(&decide(&observed, later)), ["create 2"]);
    // It is not reported when nothing is missing.
    observed.set = set(1, &json!({}));
    assert_eq!(status_of(&decide(&observed, now()))["errorReason"], Value::Null);
}

#[test]
fn a_set_makes_no_more_machines_than_are_left_of_its_limit() {
    let mut observed = observed(set(9, &json!({})), vec![ready("m")]);
    observed.creations.left = 3;
    assert_eq!(steps(&decide(&observed, now())), ["create 3"]);
    observed.creations.left = 0;
    observed.creations.next = Some(std::time::Duration::from_mins(4));
    let plan = decide(&observed, now());
    assert_eq!(steps(&plan), ["status", "event ReconcileError"]);
    assert_eq!(status_of(&plan)["errorReason"], "TooManyCreations");
    assert_eq!(plan.again, Some(std::time::Duration::from_mins(4)));
    // That keeps nothing from going.
    observed.set = set(0, &json!({}));
    assert_eq!(steps(&decide(&observed, now())), ["delete m"]);
}

#[test]
fn a_set_makes_and_deletes_nothing_while_the_clocks_differ_too_much() {
    for wanted in [0, 2] {
        let mut observed = observed(set(wanted, &json!({})), vec![ready("m")]);
        observed.skew = Skew::TooLarge(SignedDuration::from_hours(2));
        let plan = decide(&observed, now());
        assert_eq!(steps(&plan), ["status", "event ReconcileError"]);
        assert_eq!(status_of(&plan)["errorReason"], "ClockSkew");
    }
}

/// A set that was made so many seconds ago, and whose name a Node bears that has no Machine.
fn restored(seconds: i64, change: &Value, machines: Vec<Member>) -> Snapshot {
    let mut created = json!({"metadata": {"creationTimestamp": ago(seconds).to_string()}});
    json_patch::merge(&mut created, change);
    Snapshot {
        left_behind: vec!["workers-aaaaa".to_owned()],
        ..observed(set(2, &created), machines)
    }
}

fn member_with_vm() -> Member {
    let status = json!({"status": {"providerStatus": {"vmUID": "v", "infrastructure": {"server": "https://a", "namespace": "vms"}}}});
    member("workers-bbbbb", READY, &status)
}

#[rstest]
#[case::that_has_just_appeared(restored(5, &json!({}), Vec::new()), true)]
#[case::whose_machines_have_no_vms_yet(restored(5, &json!({}), vec![member("workers-bbbbb", NodeState::Absent, &json!({}))]), true)]
#[case::not_for_longer_than_an_hour(restored(3600, &json!({}), Vec::new()), false)]
#[case::not_one_of_whose_machines_has_a_vm(restored(5, &json!({}), vec![member_with_vm()]), false)]
#[case::not_one_that_has_worked(restored(5, &json!({"metadata": {"annotations": {"machinist.dev/proven": "true"}}}), Vec::new()), false)]
#[case::not_if_nothing_is_left(Snapshot { left_behind: Vec::new(), ..restored(5, &json!({}), Vec::new()) }, false)]
fn a_set_waits_for_its_machines_while_their_nodes_are_left(#[case] observed: Snapshot, #[case] waits: bool) {
    let plan = decide(&observed, now());
    assert_eq!(
        plan.steps.iter().any(|step| matches!(step, Step::Create(_))),
        !waits
    );
    let status = plan.steps.iter().find_map(|step| match step {
        Step::Status(patch) => Some(patch["status"]["errorReason"].clone()),
        _ => None,
    });
    assert_eq!(status == Some(json!("WaitingForRestore")), waits);
    assert!(!waits || plan.again.is_some_and(|again| again <= Duration::from_hours(1)));
}
