//! The host of a VM is being drained.

use rstest::rstest;
use serde_json::json;

use super::*;

fn on(eviction: Eviction, disruption_budget: DisruptionBudget) -> Snapshot {
    let owned = json!({"metadata": {"ownerReferences": [
        {"apiVersion": "cluster.k8s.io/v1alpha1", "kind": "MachineSet", "name": "s", "uid": "s", "controller": true}]}});
    let mut machine_ = recorded();
    json_patch::merge(&mut machine_, &owned);
    let mut o = observed(
        machine(&machine_),
        Open {
            eviction,
            ..running()
        },
    );
    o.node = Some(node(&json!({})));
    o.disruption_budget = disruption_budget;
    o
}

fn wanted() -> Eviction {
    Eviction::Wanted {
        uid: "vmi-1".into(),
        host: "host-a".into(),
    }
}

fn deletes(plan: &Plan) -> bool {
    plan.steps.iter().any(|step| {
        matches!(
            step,
            Step::Evacuate { .. } | Step::DeleteMachine | Step::DeleteVm { .. }
        )
    })
}

#[test]
fn a_machine_is_replaced_after_it_was_reported_why() {
    let plan = decide(&on(wanted(), DisruptionBudget::Allowed), now());
    assert_eq!(condition(&plan, "Evacuating")["reason"], "HostDrained");
    assert_eq!(
        condition(&plan, "NodeReady")["status"],
        "True",
        "nothing else is forgotten"
    );
    let at = |wanted: fn(&Step) -> bool| plan.steps.iter().position(wanted).unwrap();
    let (reported, goes) = (
        at(|step| matches!(step, Step::PatchMachine(_))),
        at(|step| matches!(step, Step::Evacuate { uid, host } if uid == "vmi-1" && host == "host-a")),
    );
    assert!(reported < goes, "{:?}", verbs(&plan));
}

#[rstest]
#[case::no_controller_would_replace_it(DisruptionBudget::Alone, "by hand")]
#[case::what_would_is_paused(
    DisruptionBudget::Paused("cluster.x-k8s.io/paused"),
    "cluster.x-k8s.io/paused"
)]
#[case::others_come_first(DisruptionBudget::SurgeFull { limit: 1 }, "1 may be too many, and as many are made already")]
#[case::others_are_missing(DisruptionBudget::Full { missing: 1, limit: 1 }, "1 other is missing, of 1 that may be")]
fn a_machine_that_may_not_be_replaced_says_so(
    #[case] disruption_budget: DisruptionBudget,
    #[case] why: &str,
) {
    let plan = decide(&on(wanted(), disruption_budget), now());
    assert!(!deletes(&plan), "{:?}", verbs(&plan));
    let evacuating = condition(&plan, "Evacuating");
    assert_eq!(
        (&evacuating["status"], &evacuating["reason"]),
        (&json!("True"), &json!("HostDraining"))
    );
    assert!(
        evacuating["message"].as_str().unwrap().contains(why),
        "{evacuating}"
    );
    assert_eq!(
        plan.again.is_some(),
        matches!(
            disruption_budget,
            DisruptionBudget::Full { .. } | DisruptionBudget::SurgeFull { .. }
        )
    );
}

#[test]
fn a_machine_that_may_not_be_missing_waits_for_another() {
    let plan = decide(&on(wanted(), DisruptionBudget::Surge), now());
    assert!(!deletes(&plan), "{:?}", verbs(&plan));
    assert_eq!(condition(&plan, "Evacuating")["reason"], "WaitingForReplacement");
    assert!(plan.again.is_some());
}

#[test]
fn a_deletion_that_failed_is_reported_and_holds_nothing_else_up() {
    let mut o = on(wanted(), DisruptionBudget::Allowed);
    let usual = verbs(&decide(&on(Eviction::None, DisruptionBudget::Allowed), now()));
    o.failure = Some(Failure {
        scope: FailureScope::Evacuation,
        message: "cannot evacuate the host: 403 Forbidden".into(),
        until: now() + Duration::from_secs(4),
        is_news: true,
    });
    let plan = decide(&o, now());
    assert!(!deletes(&plan), "not before its time");
    assert!(usual.contains(&"patch the Node") && verbs(&plan).contains(&"patch the Node"));
    let evacuating = condition(&plan, "Evacuating");
    assert_eq!(evacuating["reason"], "HostDraining");
    assert!(evacuating["message"].as_str().unwrap().contains("403"));
    assert_eq!(plan.again, Some(Duration::from_secs(4)));
}

#[test]
fn a_replacement_that_failed_is_reported() {
    let mut o = on(Eviction::None, DisruptionBudget::Allowed);
    o.failure = Some(Failure {
        scope: FailureScope::Replacement,
        message: "cannot delete the Machine: 403 Forbidden".into(),
        until: now() + Duration::from_secs(4),
        is_news: true,
    });
    let plan = decide(&o, now());
    assert!(touches_nothing(&plan));
    assert_eq!(
        patch(&plan)["status"]["errorMessage"],
        "cannot delete the Machine: 403 Forbidden"
    );
}

#[test]
fn a_live_migration_is_only_reported_and_is_no_trouble() {
    let moving = Eviction::Moving {
        host: "host-a".into(),
    };
    let plan = decide(&on(moving, DisruptionBudget::Allowed), now());
    assert!(!deletes(&plan), "{:?}", verbs(&plan));
    assert_eq!(condition(&plan, "Evacuating")["reason"], "LiveMigrating");
    assert_eq!(condition(&plan, "Ready")["status"], "True");
    assert!(
        !plan
            .steps
            .iter()
            .any(|step| matches!(step, Step::Event(event) if event.warning))
    );
}

#[test]
fn a_vm_that_cannot_be_moved_says_so_before_anybody_waits_and_once() {
    let o = on(
        Eviction::Impossible("PVC web-1 is not shared".into()),
        DisruptionBudget::Allowed,
    );
    let plan = decide(&o, now());
    assert!(!deletes(&plan));
    let evacuating = condition(&plan, "Evacuating");
    assert_eq!(
        (&evacuating["status"], &evacuating["reason"]),
        (&json!("False"), &json!("NotMigratable"))
    );
    assert!(evacuating["message"].as_str().unwrap().contains("PVC web-1"));
    assert!(
        plan.steps
            .iter()
            .any(|step| matches!(step, Step::Event(event) if event.message.contains("NotMigratable")))
    );
    assert_eq!(condition(&plan, "Ready")["status"], "True", "it works");
}

#[test]
fn a_mark_that_is_taken_back_leaves_nothing() {
    let mut o = on(wanted(), DisruptionBudget::Alone);
    let plan = decide(&o, now());
    let mut written = recorded();
    json_patch::merge(&mut written, patch(&plan));
    o.machine = Arc::new(machine(&written));
    o.infra = Infra::Open(Box::new(running()));
    let plan = decide(&o, now());
    let conditions = patch(&plan)["status"]["conditions"].as_array().unwrap();
    assert!(
        conditions
            .iter()
            .all(|condition| condition["type"] != "Evacuating")
    );
}
