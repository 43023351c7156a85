//! Decisions as tables: the arithmetic of the contract, and everything that is said or written once.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::SignedDuration;
use machinist_shared::api::names::{annotation, label};
use rstest::rstest;
use serde_json::{Value, json};

use super::fixtures::{at, deployment, observed, rollout_after, set, set_with};
use super::*;
use crate::cache::Decoded;
use crate::machine_deployment::conditions::{AVAILABLE, PROGRESSING, ROLLED_BACK, SELECTOR_OVERLAP};
use crate::machine_deployment::plan::Step;
use crate::machine_deployment::snapshot::types::{
    Deployment, Failure, Likeness, Machines, Set, Status, Trouble,
};
use crate::runtime::creation_limit::Allowance;

/// What becomes of the sizes, in the order of the plan: `name=size`, `+name=size` for a set that is made.
fn sizes(plan: &Plan) -> Vec<String> {
    let size = |step: &Step| match step {
        Step::CreateSet(set) => Some(format!("+={}", set.replicas)),
        Step::PatchSet { name, patch, .. } => {
            let size = patch.pointer("/spec/replicas")?;
            Some(format!("{name}={size}"))
        }
        Step::DeleteSet { name, .. } => Some(format!("-{name}")),
        _ => None,
    };
    plan.steps.iter().filter_map(size).collect()
}

fn patch_of<'a>(plan: &'a Plan, set: &str) -> Option<&'a Value> {
    plan.steps.iter().find_map(|step| match step {
        Step::PatchSet { name, patch, .. } if name == set => Some(patch),
        _ => None,
    })
}

fn deployment_patch(plan: &Plan) -> Option<&Value> {
    plan.steps.iter().find_map(|step| match step {
        Step::PatchDeployment(patch) => Some(patch),
        _ => None,
    })
}

/// The condition that the plan writes: status, reason, message.
fn said(plan: &Plan, kind: &str) -> Option<(String, String, String)> {
    plan.steps.iter().find_map(|step| {
        let Step::PatchStatus(patch) = step else {
            return None;
        };
        let conditions = patch.pointer("/status/conditions")?.as_array()?;
        let found = conditions.iter().find(|condition| condition["type"] == kind)?;
        let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
        Some((text("status"), text("reason"), text("message")))
    })
}

#[test]
fn deployments_that_select_the_same_machines_are_reported_so_once_and_no_longer_than_it_is_true() {
    let mut observed = observed(deployment(1), vec![set(2, 1)]);
    observed.overlaps = vec!["other".to_owned()];
    let plan = decide(&observed, at(100));
    let (status, reason, message) = said(&plan, SELECTOR_OVERLAP).unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("True", "SelectorOverlap"));
    assert!(message.contains("MachineDeployment other"), "{message}");
    assert!(events(&plan).contains(&"SelectorOverlap"));
    // The next time, it is what the status says.
    let Some(Step::PatchStatus(patch)) = plan
        .steps
        .iter()
        .find(|step| matches!(step, Step::PatchStatus(_)))
    else {
        panic!("{:?}", plan.steps)
    };
    observed.deployment.status.conditions =
        serde_json::from_value(patch["status"]["conditions"].clone()).unwrap();
    assert!(!events(&decide(&observed, at(101))).contains(&"SelectorOverlap"));
    observed.overlaps.clear();
    let plan = decide(&observed, at(102));
    assert_eq!(said(&plan, SELECTOR_OVERLAP), None);
    assert!(
        said(&plan, AVAILABLE).is_some(),
        "the conditions are written without it"
    );
}

fn events(plan: &Plan) -> Vec<&'static str> {
    let event = |step: &Step| match step {
        Step::Event(event) => Some(event.reason),
        _ => None,
    };
    plan.steps.iter().filter_map(event).collect()
}

/// The deployment after the plan's status has been written.
fn with_status(mut deployment: Deployment, plan: &Plan) -> Deployment {
    for step in &plan.steps {
        if let Step::PatchStatus(patch) = step {
            let status = &patch["status"];
            let number =
                |key: &str, old: i32| status[key].as_i64().map_or(old, |n| i32::try_from(n).unwrap());
            let old = deployment.status.clone();
            deployment.status.replicas = number("replicas", old.replicas);
            deployment.status.updated = number("updatedReplicas", old.updated);
            deployment.status.ready = number("readyReplicas", old.ready);
            deployment.status.available = number("availableReplicas", old.available);
            deployment.status.unavailable = number("unavailableReplicas", old.unavailable);
            deployment.status.observed_generation = status["observedGeneration"]
                .as_i64()
                .unwrap_or(old.observed_generation);
            if let Some(text) = status["labelSelector"].as_str() {
                deployment.status.label_selector = Some(text.to_owned());
            }
            if !status["conditions"].is_null() {
                deployment.status.conditions = serde_json::from_value(status["conditions"].clone()).unwrap();
            }
            if !status["rollout"].is_null() {
                (deployment.status.rollout, deployment.rollout) = rollout_after(&deployment, status);
            }
        }
    }
    deployment
}

fn rolled(replicas: i32, surge: i32, unavailable: i32) -> Deployment {
    let mut deployment = deployment(replicas);
    deployment.max_surge = IntOrString::Int(surge);
    deployment.max_unavailable = IntOrString::Int(unavailable);
    deployment
}

#[rstest]
#[case::the_first_set_has_the_full_size(rolled(3, 1, 0), vec![], &["+=3"])]
#[case::a_new_template_starts_with_the_surge(rolled(5, 2, 0), vec![set(1, 5)], &["+=2"])]
#[case::without_surge_old_ones_go_first(rolled(5, 0, 2), vec![set(1, 5)], &["+=0", "d-1=3"])]
#[case::room_is_used(rolled(5, 0, 2), vec![set(1, 3), set_with(2, 0, 0)], &["d-2=2"])]
#[case::a_surge_machine_that_is_not_available_gives_up_none(rolled(5, 1, 0), vec![set(1, 5), set_with(2, 1, 0)], &[])]
#[case::one_that_is_gives_up_one(rolled(5, 1, 0), vec![set(1, 5), set(2, 1)], &["d-1=4"])]
#[case::then_the_new_set_grows(rolled(5, 1, 0), vec![set(1, 4), set(2, 1)], &["d-2=2"])]
#[case::the_last_step(rolled(5, 1, 0), vec![set(1, 1), set(2, 5)], &["d-1=0"])]
#[case::all_of_it_is_done(rolled(5, 1, 0), vec![set(1, 0), set(2, 5)], &[])]
#[case::a_new_set_that_is_too_large_shrinks(rolled(3, 1, 0), vec![set(2, 5)], &["d-2=3"])]
#[case::scaling_up_in_a_rollout_grows_the_new_set_only(rolled(8, 1, 0), vec![set(1, 4), set(2, 2)], &["d-2=5"])]
#[case::unhealthy_old_ones_go_first_and_the_oldest_set_first(
    rolled(4, 0, 1), vec![set_with(1, 2, 1), set_with(3, 2, 1), set(2, 1)], &["d-1=1", "d-3=1"])]
#[case::healthy_ones_as_far_as_enough_stay(rolled(4, 2, 0), vec![set(1, 3), set(3, 1), set(2, 2)], &["d-1=1"])]
#[case::a_size_of_none_takes_all_away(rolled(0, 1, 0), vec![set(1, 2), set(2, 1)], &["d-2=0", "d-1=0"])]
#[case::sets_of_others_count_for_nothing(rolled(2, 1, 0), vec![foreign(set(1, 9)), set(2, 1)], &["d-2=2"])]
#[case::a_status_of_another_size_frees_nothing(
    rolled(2, 2, 1), vec![set(1, 1), Set { generation: 2, ..set(2, 2) }], &[])]
#[case::a_status_that_lags_behind_a_smaller_size_frees_nothing(
    rolled(5, 0, 2), vec![Set { replicas: 3, ..set(1, 5) }, set_with(2, 2, 0)], &[])]
fn rolling_updates_follow_the_arithmetic(
    #[case] deployment: Deployment,
    #[case] sets: Vec<Set>,
    #[case] want: &[&str],
) {
    assert_eq!(sizes(&decide(&observed(deployment, sets), at(99))), want);
}

fn foreign(mut set: Set) -> Set {
    set.owners[0].uid = "uid-other".to_owned();
    set
}

fn paused(replicas: i32, surge: i32) -> Deployment {
    Deployment {
        paused: true,
        ..rolled(replicas, surge, 0)
    }
}

fn noted(mut set: Set, max: i32) -> Set {
    set.annotations
        .insert(annotation::MAX_REPLICAS.to_owned(), max.to_string());
    set
}

#[rstest]
#[case::none_is_made(paused(3, 1), vec![], &[])]
#[case::the_only_active_one_is_scaled(paused(7, 1), vec![set(1, 5), set(2, 0)], &["d-1=7"])]
#[case::else_the_new_one(paused(2, 1), vec![set(1, 0), set(2, 0)], &["d-2=2"])]
#[case::else_the_newest_old_one(paused(2, 1), vec![set(1, 0), set(3, 0)], &["d-3=2"])]
#[case::several_grow_in_proportion(paused(20, 0), vec![noted(set(1, 6), 10), noted(set(2, 4), 10)], &["d-2=8", "d-1=12"])]
#[case::and_shrink_in_proportion(paused(5, 0), vec![noted(set(1, 6), 10), noted(set(2, 4), 10)], &["d-2=2", "d-1=3"])]
#[case::the_newest_old_one_first_until_nothing_is_left(
    paused(11, 0), vec![noted(set(1, 3), 9), noted(set(3, 3), 9), noted(set(2, 3), 9)], &["d-1=4", "d-3=4"])]
#[case::the_left_over_goes_to_the_newest_old_one(
    paused(10, 0), vec![noted(set(1, 3), 9), noted(set(3, 3), 9), noted(set(2, 3), 9)], &["d-3=4"])]
#[case::surge_counts(paused(10, 2), vec![noted(set(1, 5), 6), noted(set(2, 1), 6)], &["d-2=2", "d-1=10"])]
#[case::to_none(paused(0, 1), vec![noted(set(1, 5), 6), noted(set(2, 1), 6)], &["d-2=0", "d-1=0"])]
fn a_paused_deployment_is_scaled_and_not_rolled(
    #[case] deployment: Deployment,
    #[case] sets: Vec<Set>,
    #[case] want: &[&str],
) {
    assert_eq!(sizes(&decide(&observed(deployment, sets), at(99))), want);
}

#[test]
fn a_paused_deployment_whose_new_set_is_full_gives_the_old_ones_up() {
    let mut full = set(2, 3);
    full.annotations
        .insert(annotation::DESIRED_REPLICAS.to_owned(), "3".to_owned());
    let plan = decide(&observed(paused(3, 1), vec![set(1, 1), full]), at(99));
    assert_eq!(sizes(&plan), ["d-1=0"]);
}

fn on_delete(replicas: i32) -> Deployment {
    Deployment {
        strategy: Strategy::OnDelete,
        ..deployment(replicas)
    }
}

fn marked(mut set: Set, left: i32) -> Set {
    set.annotations
        .insert(annotation::NO_NEW_MACHINES.to_owned(), "true".to_owned());
    (set.existing, set.machines.alive, set.ready, set.available) = (left, left, left, left);
    set
}

#[rstest]
#[case::nothing_goes_by_itself(vec![set(1, 3)], &["+=0"])]
#[case::what_was_deleted_comes_back_new(vec![marked(set(1, 3), 2), set(2, 0)], &["d-1=2", "d-2=1"])]
#[case::an_old_set_that_does_not_know_yet_is_waited_for(vec![Set { existing: 2, ..set(1, 3) }, set(2, 0)], &[])]
#[case::fewer_wanted_are_taken_from_the_old(vec![marked(set(1, 3), 3), set(2, 2)], &["d-1=1"])]
fn with_on_delete_people_decide_when(#[case] sets: Vec<Set>, #[case] want: &[&str]) {
    let plan = decide(&observed(on_delete(3), sets), at(99));
    assert_eq!(sizes(&plan), want);
}

#[test]
fn old_sets_make_no_machines_under_on_delete_and_do_again_when_they_are_new() {
    let plan = decide(&observed(on_delete(3), vec![set(1, 3), set(2, 0)]), at(99));
    let mark = format!(
        "/metadata/annotations/{}",
        annotation::NO_NEW_MACHINES.replace('/', "~1")
    );
    assert_eq!(
        patch_of(&plan, "d-1").unwrap().pointer(&mark),
        Some(&json!("true"))
    );
    assert_eq!(patch_of(&plan, "d-2"), None);
    let plan = decide(
        &observed(deployment(3), vec![set(2, 0), marked(set(1, 3), 3)]),
        at(99),
    );
    assert_eq!(patch_of(&plan, "d-1").unwrap().pointer(&mark), Some(&Value::Null));
}

#[test]
fn the_first_set_is_made_with_everything_that_others_read() {
    let mut deployment = deployment(3);
    deployment.finalizers.clear();
    deployment.min_ready_seconds = 7;
    for (key, value) in [
        ("note", "copied"),
        (annotation::LAST_APPLIED, "not"),
        (annotation::REVISION_HISTORY, "not"),
    ] {
        deployment.annotations.insert(key.to_owned(), value.to_owned());
    }
    let plan = decide(&observed(deployment, vec![]), at(99));
    let Step::PatchDeployment(patch) = &plan.steps[0] else {
        panic!("{:?}", plan.steps)
    };
    assert_eq!(
        *patch,
        json!({"metadata": {"finalizers": ["foregroundDeletion"], "annotations": {annotation::REVISION: "1"}}})
    );
    let Step::CreateSet(set) = &plan.steps[1] else {
        panic!("{:?}", plan.steps)
    };
    insta::assert_json_snapshot!(json!({
        "name": set.name, "labels": set.labels, "annotations": set.annotations, "selector": set.selector,
        "template": *set.template, "replicas": set.replicas, "minReadySeconds": set.min_ready_seconds,
    }));
    assert_eq!(events(&plan), ["NewMachineSetCreated"]);
    assert_eq!(said(&plan, PROGRESSING).unwrap().1, "NewMachineSetCreated");
    assert_eq!(said(&plan, AVAILABLE).unwrap().0, "False");
}

#[test]
fn a_name_that_a_foreign_or_another_template_has_is_not_fought_for() {
    let first = decide(&observed(deployment(1), vec![]), at(99));
    let name = |plan: &Plan| {
        plan.steps.iter().find_map(|step| match step {
            Step::CreateSet(set) => Some((set.name.clone(), set.labels[label::TEMPLATE_HASH].clone())),
            _ => None,
        })
    };
    let (taken, hash) = name(&first).unwrap();
    let mut clash = observed(deployment(1), vec![]);
    clash.names.insert(taken.clone());
    let (other, other_hash) = name(&decide(&clash, at(99))).unwrap();
    assert!(other != taken && other_hash != hash, "{other}");
    assert_eq!(
        name(&decide(&clash, at(100))),
        Some((other, other_hash)),
        "the same in every pass"
    );
}

#[rstest]
#[case::the_oldest(vec![(5, false), (2, false)], Some(1))]
#[case::one_that_is_being_deleted_only_without_another(vec![(5, false), (2, true)], Some(0))]
#[case::even_one_that_is_being_deleted(vec![(2, true)], Some(0))]
fn the_new_set_is_the_oldest_equal_one(#[case] sets: Vec<(i64, bool)>, #[case] want: Option<usize>) {
    let sets: Vec<Set> = sets
        .into_iter()
        .map(|(age, deleting)| Set {
            created: Some(at(age)),
            name: format!("d-{age}"),
            deleting,
            ..set(2, 1)
        })
        .collect();
    let observed = observed(deployment(1), sets);
    assert_eq!(new_set::find(Pool::of(&observed)).new, want);
}

#[test]
fn an_equal_template_is_copied_byte_for_byte_and_nothing_rolls() {
    let mut equal = set(2, 3);
    equal.likeness = Likeness::Equal;
    equal.template = with_hash(
        &json!({"metadata": {"labels": {"pool": "a"}}, "spec": {"number": 2, "x": null}}),
        "77",
    );
    let plan = decide(&observed(deployment(3), vec![equal]), at(99));
    let copied = plan.steps.iter().find_map(|step| match step {
        Step::CopyTemplate { template, .. } => Some(template.clone()),
        _ => None,
    });
    assert_eq!(copied, Some(with_hash(&deployment(3).template, "77")));
    assert_eq!(sizes(&plan), Vec::<String>::new());
}

#[test]
fn sets_are_taken_and_let_go_by_their_own_labels() {
    let orphan = Set {
        owners: vec![],
        ..set(1, 1)
    };
    let lost = Set {
        matches: false,
        ..set(3, 1)
    };
    let deleting = Set {
        deleting: true,
        owners: vec![],
        ..set(4, 1)
    };
    let plan = decide(
        &observed(deployment(2), vec![orphan, lost, deleting, set(2, 1)]),
        at(99),
    );
    let owners = |name: &str| {
        patch_of(&plan, name).and_then(|patch| patch.pointer("/metadata/ownerReferences").cloned())
    };
    assert_eq!(owners("d-1"), Some(json!([deployment(2).owner()])));
    assert_eq!(owners("d-3"), Some(json!([])));
    assert_eq!(owners("d-4"), None);
    // The adopted one counts at once.
    assert_eq!(sizes(&plan), ["d-2=2"]);
}

#[test]
fn a_revision_rises_and_the_one_before_is_kept() {
    let mut back = set(2, 0);
    back.annotations
        .insert(annotation::REVISION_HISTORY.to_owned(), "1".to_owned());
    back.annotations
        .insert(annotation::MACHINE_FAILED.to_owned(), "m: no".to_owned());
    let plan = decide(&observed(deployment(1), vec![set(5, 1), back]), at(99));
    let annotations = &patch_of(&plan, "d-2").unwrap()["metadata"]["annotations"];
    assert_eq!(annotations[annotation::REVISION], "6");
    assert_eq!(annotations[annotation::ROLLOUT_GUARD], "6");
    assert_eq!(annotations[annotation::REVISION_HISTORY], "1,2");
    assert_eq!(
        annotations[annotation::MACHINE_FAILED],
        Value::Null,
        "it is tried again"
    );
    let patch = deployment_patch(&plan).unwrap();
    assert_eq!(patch["metadata"]["annotations"][annotation::REVISION], "6");
}

#[rstest]
#[case::never_lowered("9", "9")]
#[case::no_number_is_left_alone("nine", "nine")]
fn a_revision_that_is_higher_or_foreign_stays(#[case] revision: &str, #[case] want: &str) {
    let mut odd = set(2, 1);
    odd.annotations
        .insert(annotation::REVISION.to_owned(), revision.to_owned());
    let mut deployment = deployment(1);
    deployment
        .annotations
        .insert("note".to_owned(), "copied".to_owned());
    let plan = decide(&observed(deployment, vec![set(1, 0), odd]), at(99));
    let patch = deployment_patch(&plan).unwrap();
    assert_eq!(patch["metadata"]["annotations"][annotation::REVISION], want);
    let note = patch_of(&plan, "d-2").and_then(|patch| patch.pointer("/metadata/annotations/note"));
    assert_eq!(note.is_some(), revision == "9");
}

#[test]
fn the_guard_of_the_autoscaler_is_whole_or_absent() {
    let mut bare = set(1, 0);
    bare.labels.clear();
    bare.annotations.clear();
    let plan = decide(&observed(deployment(1), vec![bare.clone(), set(2, 1)]), at(99));
    let patch = patch_of(&plan, "d-1").unwrap();
    assert_eq!(patch["metadata"]["labels"][label::DEPLOYMENT_NAME], "d");
    assert_eq!(patch["metadata"]["annotations"][annotation::ROLLOUT_GUARD], "0");
    let mut long = deployment(1);
    long.name = "d".repeat(64);
    let plan = decide(&observed(long, vec![bare]), at(99));
    assert_eq!(patch_of(&plan, "d-1"), None);
}

#[test]
fn nothing_is_written_twice() {
    let first = observed(deployment(3), vec![set(1, 0), set(2, 3)]);
    let plan = decide(&first, at(0));
    let mut later = with_status(deployment(3), &plan);
    later
        .annotations
        .insert(annotation::REVISION.to_owned(), "2".to_owned());
    let plan = decide(&observed(later, vec![set(1, 0), set(2, 3)]), at(5000));
    assert_eq!(plan, Plan::default());
}

fn failing() -> Vec<Set> {
    let mut failing = set_with(2, 1, 0);
    failing.annotations.insert(
        annotation::MACHINE_FAILED.to_owned(),
        "Machine m: no Node within 600 s".to_owned(),
    );
    vec![set(1, 5), failing]
}

#[test]
fn a_template_whose_machines_fail_to_join_stops_the_rollout_and_says_why() {
    let plan = decide(&observed(rolled(5, 3, 2), failing()), at(99));
    assert_eq!(sizes(&plan), Vec::<String>::new(), "neither grows nor shrinks");
    let (status, reason, message) = said(&plan, PROGRESSING).unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "RolloutHalted"));
    assert!(message.contains("no Node within 600 s"), "{message}");
    assert_eq!(events(&plan), ["RolloutHalted"]);
    let again = decide(&observed(with_status(rolled(5, 3, 2), &plan), failing()), at(100));
    assert_eq!(events(&again), Vec::<&str>::new(), "said once");
}

#[test]
fn a_machine_that_cannot_heal_stops_the_rollout_too() {
    let mut failing = set_with(2, 1, 0);
    failing.machines.failed = Some(Trouble {
        whose: "Machine m".to_owned(),
        message: "the guest ended".to_owned(),
    });
    let plan = decide(&observed(rolled(5, 3, 2), vec![set(1, 5), failing]), at(99));
    assert_eq!(said(&plan, PROGRESSING).unwrap().1, "RolloutHalted");
}

#[rstest]
#[case::one_success(Set { available: 1, ready: 1, existing: 2, ..failing().remove(1) })]
#[case::one_success_long_ago({
    let mut set = failing().remove(1);
    set.annotations.insert(annotation::PROVEN.to_owned(), "true".to_owned());
    set
})]
fn the_rollout_halt_is_released_for_good_by(#[case] new: Set) {
    let plan = decide(&observed(rolled(5, 3, 2), vec![set(1, 5), new]), at(99));
    assert_ne!(said(&plan, PROGRESSING).unwrap().1, "RolloutHalted");
    assert!(
        sizes(&plan).iter().any(|size| size.starts_with("d-2=")),
        "{:?}",
        sizes(&plan)
    );
}

#[test]
fn under_the_rollout_halt_a_smaller_size_is_still_obeyed_and_a_first_template_needs_no_halt() {
    let mut sets = failing();
    assert_eq!(
        sizes(&decide(&observed(rolled(3, 1, 0), sets.clone()), at(99))),
        ["d-1=3"]
    );
    assert_eq!(
        sizes(&decide(&observed(rolled(0, 1, 0), sets.clone()), at(99))),
        ["d-2=0", "d-1=0"]
    );
    sets[0].replicas = 0;
    assert_eq!(
        sizes(&decide(&observed(rolled(5, 1, 0), sets), at(99))),
        ["d-2=5"]
    );
}

#[rstest]
#[case::of_the_very_bytes(Likeness::Equal, Likeness::Identical)]
#[case::of_neither(Likeness::Equal, Likeness::Equal)]
#[case::of_bytes_that_came_back(Likeness::Identical, Likeness::Equal)]
fn of_two_sets_of_one_template_the_one_with_the_machines_stays(
    #[case] older: Likeness,
    #[case] newer: Likeness,
) {
    let (mut first, mut second) = (set(1, 0), set(2, 3));
    (first.likeness, second.likeness) = (older, newer);
    let plan = decide(&observed(rolled(3, 3, 3), vec![first, second]), at(99));
    assert_eq!(sizes(&plan), Vec::<String>::new());
}

#[test]
fn what_machine_controller_copied_holds_a_set_no_longer_than_its_deployment() {
    let pauses = [annotation::PAUSED, annotation::INITIALIZERS];
    let held = |mut set: Set| {
        let texts = pauses.map(|key| (key.to_owned(), "x".to_owned()));
        set.annotations.extend(texts);
        set
    };
    let mut copied = held(set(2, 3));
    copied.annotations.remove(annotation::ROLLOUT_GUARD);
    let plan = decide(&observed(rolled(3, 3, 3), vec![copied]), at(99));
    let annotations = &patch_of(&plan, "d-2").unwrap()["metadata"]["annotations"];
    for key in pauses {
        assert_eq!(annotations.get(key), Some(&Value::Null), "{annotations}");
    }

    // Later, a person has done it; and is reported what comes of it.
    let mut meant = held(set_with(2, 3, 1));
    meant.existing = 1;
    let observed = observed(
        with_status(
            rolled(3, 1, 1),
            &decide(&observed(rolled(3, 1, 1), vec![meant.clone()]), at(0)),
        ),
        vec![meant],
    );
    let plan = decide(&observed, at(1));
    assert!(patch_of(&plan, "d-2").is_none());
    let (_, _, message) = said(&plan, PROGRESSING).unwrap();
    assert!(
        message.contains("MachineSet d-2: not reconciled because of the annotation cluster.x-k8s.io/paused"),
        "{message}"
    );
}

#[test]
fn a_set_that_is_let_go_is_no_part_of_the_rollout_and_no_node_group() {
    let mut other = set(1, 1);
    other.matches = false;
    let keys = [
        "cluster.k8s.io/cluster-api-autoscaler-node-group-min-size",
        "capacity.cluster-autoscaler.kubernetes.io/memory",
    ];
    other
        .annotations
        .extend(keys.map(|key| (key.to_owned(), "1".to_owned())));
    let plan = decide(&observed(rolled(1, 1, 1), vec![other, set(2, 1)]), at(99));
    let patch = &patch_of(&plan, "d-1").unwrap()["metadata"];
    assert_eq!(patch["ownerReferences"], json!([]));
    assert_eq!(patch["labels"][label::DEPLOYMENT_NAME], Value::Null);
    for key in keys.into_iter().chain([annotation::ROLLOUT_GUARD]) {
        assert_eq!(patch["annotations"].get(key), Some(&Value::Null), "{patch}");
    }
}

#[test]
fn machines_that_may_not_be_made_are_reported_at_once() {
    let mut refused = set_with(2, 3, 0);
    (refused.existing, refused.error) = (0, Some("exceeded quota".to_owned()));
    let sets = vec![refused];
    let stored = with_status(
        rolled(3, 0, 0),
        &decide(&observed(rolled(3, 0, 0), sets.clone()), at(0)),
    );
    let (status, _, message) = said(&decide(&observed(stored, sets), at(1)), PROGRESSING).unwrap();
    assert_eq!(status, "True");
    assert!(message.ends_with("; MachineSet d-2: exceeded quota"), "{message}");
}

#[test]
fn success_is_noted_on_the_set() {
    let mut sets = failing();
    (sets[1].available, sets[1].ready) = (1, 1);
    let plan = decide(&observed(rolled(5, 1, 0), sets), at(99));
    let annotations = &patch_of(&plan, "d-2").unwrap()["metadata"]["annotations"];
    assert_eq!(annotations[annotation::PROVEN], "true");
    assert_eq!(annotations[annotation::MACHINE_FAILED], Value::Null);
}

#[test]
fn a_deadline_is_waited_for_and_then_said_with_the_cause() {
    let mut stuck = set_with(2, 1, 0);
    stuck.machines.blocking = Some(Trouble {
        whose: "Machine m".to_owned(),
        message: "no room".to_owned(),
    });
    let sets = vec![set(1, 5), stuck];
    let plan = decide(&observed(rolled(5, 1, 0), sets.clone()), at(0));
    assert_eq!(said(&plan, PROGRESSING).unwrap().1, "MachineSetUpdated");
    assert_eq!(plan.again, Some(std::time::Duration::from_mins(10)));
    let stored = with_status(rolled(5, 1, 0), &plan);
    let plan = decide(&observed(stored.clone(), sets.clone()), at(200));
    assert_eq!(plan.again, Some(std::time::Duration::from_secs(400)));
    assert_eq!(said(&plan, PROGRESSING), None, "nothing to write");
    let plan = decide(&observed(stored.clone(), sets.clone()), at(600));
    let (status, reason, message) = said(&plan, PROGRESSING).unwrap();
    assert_eq!(
        (status.as_str(), reason.as_str()),
        ("False", "ProgressDeadlineExceeded")
    );
    assert!(message.contains("Machine m: no room"), "{message}");
    assert!(events(&plan).contains(&"ProgressDeadlineExceeded"));
    // The first sign of life takes it back.
    let stored = with_status(stored, &plan);
    let plan = decide(&observed(stored, vec![set(1, 5), set(2, 1)]), at(700));
    assert_eq!(said(&plan, PROGRESSING).unwrap().1, "MachineSetUpdated");
}

#[test]
fn a_rollout_that_is_done_stays_done_when_a_machine_is_lost() {
    let plan = decide(&observed(deployment(3), vec![set(2, 3)]), at(0));
    assert_eq!(said(&plan, PROGRESSING).unwrap().1, "NewMachineSetAvailable");
    let stored = with_status(deployment(3), &plan);
    let lost = Set {
        existing: 2,
        ready: 2,
        available: 2,
        ..set(2, 3)
    };
    let plan = decide(&observed(stored, vec![lost]), at(5000));
    let (status, reason, message) = said(&plan, PROGRESSING).unwrap();
    assert_eq!(
        (status.as_str(), reason.as_str()),
        ("True", "NewMachineSetAvailable")
    );
    assert!(message.starts_with("2 of 3"), "{message}");
    assert_eq!(said(&plan, AVAILABLE).unwrap().0, "False");
}

#[test]
fn the_status_counts_and_is_written_at_most_every_200_ms() {
    let sets = vec![set(1, 3), set_with(2, 2, 1)];
    let mut observed = observed(deployment(4), sets);
    let plan = decide(&observed, at(0));
    let Some(Step::PatchStatus(patch)) = plan
        .steps
        .iter()
        .find(|step| matches!(step, Step::PatchStatus(_)))
    else {
        panic!("{:?}", plan.steps)
    };
    let mut counts = patch["status"].clone();
    let rollout = counts.as_object_mut().unwrap().remove("rollout").unwrap();
    assert_eq!(
        rollout,
        json!({"lastProgressTime": "2027-01-15T08:00:00Z", "completedGeneration": null})
    );
    counts.as_object_mut().unwrap().remove("conditions");
    assert_eq!(
        counts,
        json!({"observedGeneration": 1, "replicas": 5, "updatedReplicas": 2, "readyReplicas": 4, "availableReplicas": 4,
            "unavailableReplicas": 1, "labelSelector": "pool=a"})
    );
    observed.status_written = Some(at(0));
    let soon = at(0) + SignedDuration::from_millis(50);
    let plan = decide(&observed, soon);
    assert!(!plan.steps.iter().any(|step| matches!(step, Step::PatchStatus(_))));
    assert_eq!(plan.again, Some(std::time::Duration::from_millis(150)));
}

#[rstest]
#[case::the_limit_is_kept(1, vec![set(1, 0), set(3, 0)], &["-d-1"])]
#[case::none_is_kept(0, vec![set(1, 0), set(3, 0)], &["-d-1", "-d-3"])]
#[case::one_that_still_has_machines_stays_and_no_other_goes_for_it(
    1, vec![Set { machines: Machines { alive: 1, ..Machines::default() }, ..set(1, 0) }, set(3, 0)], &[])]
#[case::one_whose_size_is_not_known_yet_stays(1, vec![Set { generation: 2, ..set(1, 0) }, set(3, 0)], &[])]
#[case::one_that_goes_already_is_no_candidate(1, vec![Set { deleting: true, ..set(1, 0) }, set(3, 0)], &[])]
fn old_sets_go_once_a_rollout_is_done(#[case] limit: i32, #[case] mut sets: Vec<Set>, #[case] want: &[&str]) {
    let mut deployment = deployment(2);
    deployment.revision_history_limit = limit;
    sets.push(set(2, 2));
    let plan = decide(&observed(deployment.clone(), sets.clone()), at(99));
    assert_eq!(sizes(&plan), want);
    // While it goes on, all of them stay.
    deployment.replicas = 3;
    let plan = decide(&observed(deployment, sets), at(99));
    assert_eq!(sizes(&plan), ["d-2=3"]);
}

fn rolling_back(to: &str) -> Deployment {
    let mut deployment = deployment(2);
    deployment
        .annotations
        .insert(annotation::ROLLBACK_TO.to_owned(), to.to_owned());
    deployment
}

#[rstest]
#[case::a_revision("1", Some(1), "True")]
#[case::the_one_before("", Some(3), "True")]
#[case::the_one_before_again("0", Some(3), "True")]
#[case::one_that_a_set_bore_earlier("7", Some(1), "True")]
#[case::the_current_one("4", None, "True")]
#[case::one_that_is_not_kept("9", None, "False")]
#[case::no_number("last", None, "False")]
fn a_rollback_brings_a_template_back_once(
    #[case] to: &str,
    #[case] template: Option<i32>,
    #[case] status: &str,
) {
    let mut sets = vec![set(1, 0), set(3, 0), set(2, 2)];
    sets[0]
        .annotations
        .insert(annotation::REVISION_HISTORY.to_owned(), "7".to_owned());
    sets[2]
        .annotations
        .insert(annotation::REVISION.to_owned(), "4".to_owned());
    let plan = decide(&observed(rolling_back(to), sets), at(99));
    let rolled = plan.steps.iter().find_map(|step| match step {
        Step::RollBack(template) => Some((**template).clone()),
        _ => None,
    });
    assert_eq!(rolled, template.map(super::fixtures::template));
    if template.is_none() {
        let patch = deployment_patch(&plan).unwrap();
        assert_eq!(
            *patch,
            json!({"metadata": {"annotations": {annotation::ROLLBACK_TO: null}}})
        );
    }
    assert_eq!(said(&plan, ROLLED_BACK).unwrap().0, status);
    assert_eq!(events(&plan), ["Rollback"]);
    assert_eq!(sizes(&plan), Vec::<String>::new(), "nothing else in this pass");
}

#[test]
fn a_rollback_that_fails_holds_nothing_up_and_one_that_is_refused_is_not_asked_for_again() {
    let sets = vec![set(1, 0), set(2, 1)];
    let mut observed = observed(rolling_back("1"), sets);
    observed.failure = Some(Failure {
        message: "cannot roll back: timeout".to_owned(),
        until: at(104),
        of_status: false,
        ..Failure::default()
    });
    let plan = decide(&observed, at(99));
    assert_eq!(said(&plan, PROGRESSING).unwrap().1, "WriteFailed");
    assert_eq!(said(&plan, ROLLED_BACK), None, "it is yet to be done");
    observed.failure = None;
    observed.rollback_refused = Some("cannot roll back: invalid".to_owned());
    let plan = decide(&observed, at(99));
    assert!(!plan.steps.iter().any(|step| matches!(step, Step::RollBack(_))));
    let asked = json!({"metadata": {"annotations": {annotation::ROLLBACK_TO: null}}});
    assert_eq!(deployment_patch(&plan), Some(&asked));
    let (status, reason, message) = said(&plan, ROLLED_BACK).unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "RollbackRefused"));
    assert!(message.contains("invalid"), "{message}");
}

#[test]
fn a_deployment_that_is_deleted_is_left_alone() {
    let mut deployment = rolled(5, 1, 0);
    deployment.deleting = true;
    assert_eq!(
        decide(&observed(deployment, vec![set(1, 3)]), at(99)),
        Plan::default()
    );
}

#[test]
fn one_that_is_held_gets_its_status_and_nothing_else() {
    let mut deployment = rolled(5, 1, 0);
    deployment.held_by = Some(annotation::PAUSED);
    deployment.finalizers.clear();
    let orphan = Set {
        owners: vec![],
        ..set(3, 1)
    };
    let plan = decide(
        &observed(deployment, vec![set(1, 3), orphan, set_with(2, 1, 0)]),
        at(99),
    );
    let [Step::PatchStatus(_)] = plan.steps.as_slice() else {
        panic!("{:?}", plan.steps)
    };
    let (status, reason, message) = said(&plan, PROGRESSING).unwrap();
    assert_eq!(
        (status.as_str(), reason.as_str()),
        ("Unknown", "DeploymentPaused")
    );
    assert!(message.contains(annotation::PAUSED), "{message}");
}

#[test]
fn one_that_cannot_be_read_says_so_and_changes_nothing() {
    let mut deployment = rolled(5, 1, 0);
    deployment.fault = Some("spec.selector: must not be empty".to_owned());
    let plan = decide(&observed(deployment, vec![set(1, 3)]), at(99));
    assert_eq!(sizes(&plan), Vec::<String>::new());
    let (status, reason, message) = said(&plan, PROGRESSING).unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "InvalidSpec"));
    assert!(message.contains("must not be empty"), "{message}");
    assert_eq!(events(&plan), ["ReconcileError"]);
}

#[test]
fn a_failed_write_holds_the_others_back_and_is_reported() {
    let mut observed = observed(rolled(5, 1, 0), vec![set(1, 5)]);
    observed.failure = Some(Failure {
        message: "cannot create the MachineSet: forbidden".to_owned(),
        until: at(104),
        of_status: false,
        ..Failure::default()
    });
    let plan = decide(&observed, at(99));
    assert_eq!(sizes(&plan), Vec::<String>::new());
    assert_eq!(plan.again, Some(std::time::Duration::from_secs(5)));
    let (status, reason, message) = said(&plan, PROGRESSING).unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "WriteFailed"));
    assert!(message.contains("forbidden"), "{message}");
}

#[test]
fn a_status_that_could_not_be_written_is_not_tried_again_before_its_time() {
    let mut observed = observed(rolled(5, 1, 0), vec![set(1, 5)]);
    observed.failure = Some(Failure {
        message: "cannot patch the MachineDeployment's status: HTTP 500".to_owned(),
        until: at(104),
        of_status: true,
        ..Failure::default()
    });
    let plan = decide(&observed, at(99));
    assert_eq!(plan.steps, []);
    assert_eq!(plan.again, Some(std::time::Duration::from_secs(5)));
}

#[test]
fn a_deployment_whose_new_sets_are_changed_creates_none_and_still_scales_the_old_one() {
    let mut observed = observed(deployment(3), vec![set(1, 2)]);
    observed.creations.halt = Some(crate::runtime::creation_limit::Halt {
        message: "labels".to_owned(),
        until: at(400),
    });
    observed.rejected.push(("d-7".to_owned(), "uid-7".to_owned()));
    let plan = decide(&observed, at(100));
    let creates = |plan: &Plan| plan.steps.iter().any(|step| matches!(step, Step::CreateSet(_)));
    assert!(!creates(&plan), "{:?}", plan.steps);
    assert_eq!(
        plan.steps.first(),
        Some(&Step::DeleteSet {
            name: "d-7".to_owned(),
            uid: "uid-7".to_owned()
        })
    );
    let scaled = |step: &Step| matches!(step, Step::PatchSet { name, patch, .. } if name == "d-1" && patch["spec"]["replicas"] == 3);
    assert!(plan.steps.iter().any(scaled), "{:?}", plan.steps);
    assert_eq!(plan.again, Some(Duration::from_mins(5)));
    let says = |plan: &Plan, reason: &str| {
        plan.steps.iter().any(|step| {
            matches!(step, Step::PatchStatus(patch) if patch["status"]["conditions"].as_array().is_some_and(|all|
                all.iter().any(|condition| condition["reason"] == reason && condition["status"] == "False")))
        })
    };
    assert!(says(&plan, "MachineSetChangedAtAdmission"), "{:?}", plan.steps);
    let reported =
        |step: &Step| matches!(step, Step::Event(event) if event.reason == "ReconcileError" && event.warning);
    assert!(plan.steps.iter().any(reported), "{:?}", plan.steps);
    assert!(creates(&decide(&observed, at(400))), "it is tried again");

    observed.creations = Allowance {
        halt: None,
        left: 0,
        next: Some(Duration::from_mins(4)),
    };
    let plan = decide(&observed, at(100));
    assert!(
        !creates(&plan) && says(&plan, "TooManyCreations"),
        "{:?}",
        plan.steps
    );
    assert_eq!(plan.again, Some(Duration::from_mins(4)));
}

#[test]
fn a_status_that_cannot_be_decoded_is_written_whole() {
    let sets = vec![set(2, 3)];
    let settled = with_status(
        rolled(3, 3, 3),
        &decide(&observed(rolled(3, 3, 3), sets.clone()), at(0)),
    );
    let status = |plan: &Plan| {
        plan.steps.iter().find_map(|step| match step {
            Step::PatchStatus(patch) => Some(patch["status"].clone()),
            _ => None,
        })
    };
    assert_eq!(
        status(&decide(&observed(settled.clone(), sets.clone()), at(1))),
        None
    );
    // `unavailableReplicas: 2147483648` is absent when it is decoded, which is what it should be: 0.
    let damaged = Deployment {
        status_decoded: Decoded::InPart,
        ..settled
    };
    let written = status(&decide(&observed(damaged, sets), at(1))).unwrap();
    assert_eq!(written["unavailableReplicas"], 0, "{written}");
    let kinds = written["conditions"].as_array().unwrap().iter();
    let kinds: Vec<_> = kinds
        .map(|condition| condition["type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["Available", "Progressing", "Ready"]);
}

#[test]
fn no_number_in_a_status_stops_the_deployment() {
    for number in [i32::MIN, i32::MAX] {
        let mut deployment = rolled(3, 3, 3);
        deployment.status = Status {
            observed_generation: deployment.generation,
            replicas: number,
            updated: !number,
            ready: number,
            available: number,
            unavailable: number,
            ..deployment.status
        };
        let plan = decide(&observed(deployment, vec![set(1, 2), set(2, 1)]), at(99));
        assert!(plan.steps.iter().any(|step| matches!(step, Step::PatchStatus(_))));
    }
}

#[test]
fn no_size_noted_on_a_set_stops_a_paused_deployment() {
    let mut deployment = rolled(3, 3, 3);
    deployment.paused = true;
    let mut old = set(1, 2);
    old.annotations
        .insert(annotation::MAX_REPLICAS.to_owned(), i64::MAX.to_string());
    let plan = decide(&observed(deployment, vec![old, set(2, 2)]), at(99));
    assert!(!plan.steps.is_empty());
}
