//! Deployments and sets for tests.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use machinist_shared::admission::template;
use machinist_shared::api::names::{annotation, finalizer, label};
use machinist_shared::api::{MachineDeploymentStatus, RolloutStatus};
use serde_json::{Value, json};

use super::super::rollout::Rollout;
use super::super::snapshot::types::{Deployment, Likeness, Machines, Set, Snapshot, Status, Strategy, Texts};
use super::with_hash;
use crate::cache::{Decoded, Template};
use crate::runtime::creation_limit::Allowance;

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

/// The template of that number.
pub(super) fn template(number: i32) -> Value {
    json!({"metadata": {"labels": {"pool": "a"}}, "spec": {"number": number}})
}

/// The deployment `d` of the template 2.
pub(in super::super) fn deployment(replicas: i32) -> Deployment {
    let template = template(2);
    Deployment {
        name: "d".to_owned(),
        uid: "uid-d".to_owned(),
        generation: 1,
        deleting: false,
        annotations: Texts::new(),
        finalizers: vec![finalizer::FOREGROUND_DELETION.to_owned()],
        replicas,
        template: Template::from(template),
        selector: json!({"matchLabels": {"pool": "a"}}),
        selector_text: Some("pool=a".to_owned()),
        strategy: Strategy::RollingUpdate,
        max_surge: IntOrString::Int(1),
        max_unavailable: IntOrString::Int(0),
        min_ready_seconds: 0,
        revision_history_limit: 1,
        progress_deadline: SignedDuration::from_secs(600),
        paused: false,
        in_place: false,
        held_by: None,
        fault: None,
        rollout: Rollout::default(),
        status: Status::default(),
        status_decoded: Decoded::Whole,
    }
}

/// The set of the template of that number, which is its revision and its age, too; all its Machines are available.
pub(super) fn set(number: i32, size: i32) -> Set {
    let revision = number.to_string();
    let hash = template::hash(&template(number)).to_string();
    let labels = |name: &str| (name.to_owned(), "d".to_owned());
    Set {
        name: format!("d-{number}"),
        uid: format!("uid-{number}"),
        created: Some(at(i64::from(number))),
        generation: 1,
        deleting: false,
        owners: vec![deployment(0).owner()],
        matches: true,
        likeness: if number == 2 {
            Likeness::Identical
        } else {
            Likeness::Different
        },
        template: with_hash(&template(number), &hash),
        replicas: size,
        min_ready_seconds: 0,
        labels: BTreeMap::from([labels(label::DEPLOYMENT_NAME)]),
        annotations: [annotation::REVISION, annotation::ROLLOUT_GUARD]
            .into_iter()
            .map(|key| (key.to_owned(), revision.clone()))
            .chain([(annotation::PROVEN.to_owned(), "true".to_owned())])
            .collect(),
        existing: size,
        ready: size,
        available: size,
        observed_generation: 1,
        error: None,
        machines: Machines {
            alive: size,
            ..Machines::default()
        },
    }
}

/// The same, of whose Machines only so many are available, and that has never had one if that is none.
pub(super) fn set_with(number: i32, size: i32, available: i32) -> Set {
    let mut set = set(number, size);
    set.ready = available;
    set.available = available;
    if available == 0 {
        set.annotations.remove(annotation::PROVEN);
    }
    set
}

/// How far the rollout has come once that patch of the status is written.
pub(super) fn rollout_after(before: &Deployment, patch: &Value) -> (Option<RolloutStatus>, Rollout) {
    let mut status = json!({"rollout": before.status.rollout});
    json_patch::merge(&mut status, &json!({"rollout": patch["rollout"]}));
    let status: MachineDeploymentStatus = serde_json::from_value(status).unwrap();
    let rollout = Rollout::of(&status);
    (status.rollout, rollout)
}

pub(super) fn observed(deployment: Deployment, sets: Vec<Set>) -> Snapshot {
    let names: BTreeSet<String> = sets.iter().map(|set| set.name.clone()).collect();
    Snapshot {
        deployment,
        sets,
        names,
        rejected: Vec::new(),
        creations: Allowance::unlimited(),
        failure: None,
        rollback_refused: None,
        status_written: None,
        overlaps: Vec::new(),
        instancetype: None,
        instancetype_again: None,
    }
}
