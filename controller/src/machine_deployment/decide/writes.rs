//! From what is decided to one plan: the writes that make what is stored what it should be, in their order, and Events. It
//! decides nothing.

use std::cmp::Ordering;
use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use machinist_shared::admission::autoscaler::Changes;
use machinist_shared::api::count::counted;
use serde_json::{Map, Value, json};

use super::super::conditions::{self, PROGRESSING, Reason, SELECTOR_OVERLAP};
use super::super::plan::{NewSet, Plan, Step};
use super::super::snapshot::types::{Deployment, Likeness, Set, Status, Texts};
use super::hash::{hash_of, selector};
use super::pool::Pool;
use crate::cache::Decoded;
use crate::runtime::failure::Failure;
use crate::telemetry::events::Event;

/// The status is written at most this often, so that one write reports many Machines that become ready at once.
pub(crate) const STATUS_INTERVAL: SignedDuration = SignedDuration::from_millis(200);

/// What is decided for a deployment.
pub(super) struct Decision<'a> {
    /// The sets as they should be.
    pub(super) pool: Pool<'a>,
    /// Sets of its making that are not as they were sent, to be deleted before anything else.
    pub(super) rejected: Vec<Step>,
    /// Finalizers that it gets.
    pub(super) finalizers: Option<Vec<String>>,
    /// Annotations that it gets or loses.
    pub(super) annotations: Changes,
    /// What a person asked for by annotation; nothing else is done with it.
    pub(super) request: Option<Step>,
    /// Indexes of the old sets to be deleted.
    pub(super) deletions: Vec<usize>,
    /// The status as it should be.
    pub(super) status: Option<Status>,
    /// Events to be recorded once everything is written.
    pub(super) events: Vec<Event>,
    /// When to reconcile again at the latest.
    pub(super) requeue_after: Option<Duration>,
}

impl<'a> Decision<'a> {
    /// Nothing but that status.
    pub(super) fn of_status(pool: Pool<'a>, status: Status, requeue_after: Option<Duration>) -> Self {
        Self {
            pool: pool.unchanged(),
            rejected: Vec::new(),
            finalizers: None,
            annotations: Changes::new(),
            request: None,
            deletions: Vec::new(),
            status: Some(status),
            events: Vec::new(),
            requeue_after,
        }
    }

    /// The status alone, while a write that failed waits to be tried again; not even that, if it is the write that failed.
    fn held_back(self, failure: &Failure, now: Timestamp) -> Self {
        let wait = until(now, failure.until);
        Self {
            pool: self.pool.unchanged(),
            rejected: self.rejected,
            finalizers: None,
            annotations: Changes::new(),
            request: None,
            deletions: Vec::new(),
            status: self.status.filter(|_| !failure.of_status),
            events: Vec::new(),
            requeue_after: self.requeue_after.into_iter().chain([wait]).min(),
        }
    }
}

/// The plan of what is decided.
pub(super) fn plan(decision: Decision<'_>, now: Timestamp) -> Plan {
    let observed = decision.pool.observed;
    let decision = match &observed.failure {
        Some(failure) => decision.held_back(failure, now),
        None => decision,
    };
    let of_sets = set_writes(&decision);
    let of_status = status_writes(&decision, now);
    let why = why(decision.status.as_ref());
    let patch = deployment_patch(&decision);
    // Before the first set is created, garbage collection has to know that it goes before its deployment.
    let (before, after) = match decision.finalizers {
        Some(_) => (patch, None),
        None => (None, patch),
    };
    let deletions = decision.deletions.iter().map(|index| {
        let set = &decision.pool.sets[*index];
        let (name, uid) = (set.name.clone(), set.uid.clone());
        Step::DeleteSet { name, uid }
    });
    let events = [decision.events, of_sets.events, of_status.events].concat();
    let steps: Vec<Step> = decision
        .rejected
        .into_iter()
        .chain(decision.request)
        .chain(before)
        .chain(of_sets.steps)
        .chain(after)
        .chain(deletions)
        .chain(of_status.steps)
        .chain(events.into_iter().map(Step::Event))
        .collect();
    Plan {
        why: if steps.is_empty() { String::new() } else { why },
        steps,
        again: decision
            .requeue_after
            .into_iter()
            .chain(of_status.requeue_after)
            .min(),
    }
}

/// Writes, what they are reported with, and when the next one is due.
#[derive(Default)]
struct Writes {
    steps: Vec<Step>,
    events: Vec<Event>,
    requeue_after: Option<Duration>,
}

/// How long until `instant`; at least 10 ms, so that no plan requeues in a busy loop.
pub(super) fn until(now: Timestamp, instant: Timestamp) -> Duration {
    let wait = instant.duration_since(now).max(SignedDuration::from_millis(10));
    wait.try_into().unwrap_or_default()
}

/// An Event.
pub(super) fn event(warning: bool, reason: &'static str, message: impl Into<String>) -> Event {
    Event {
        warning,
        reason,
        message: message.into(),
    }
}

/// What the log says of the rollout.
fn why(status: Option<&Status>) -> String {
    let shown = status.and_then(|status| conditions::find(&status.conditions, PROGRESSING));
    shown.map_or_else(String::new, |shown| {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        format!("{}: {}", text(&shown.reason), text(&shown.message))
    })
}

fn deployment_patch(decision: &Decision<'_>) -> Option<Step> {
    let deployment = &decision.pool.observed.deployment;
    let mut metadata = Map::new();
    // Every write here makes other controllers reconcile: only what has another value.
    let changed = decision.annotations.iter();
    let changed: Map<String, Value> = changed
        .filter(|(key, value)| deployment.annotation(key) != value.as_deref())
        .map(|(key, value)| (key.clone(), json!(value)))
        .collect();
    if !changed.is_empty() {
        metadata.insert("annotations".to_owned(), Value::Object(changed));
    }
    if let Some(finalizers) = &decision.finalizers {
        metadata.insert("finalizers".to_owned(), json!(finalizers));
    }
    (!metadata.is_empty()).then(|| Step::PatchDeployment(json!({ "metadata": metadata })))
}

/// The writes that make the stored sets what they should be. A set is created before another shrinks for it: the API server
/// may refuse it. What shrinks comes before what grows, so that there are never too many in between.
fn set_writes(decision: &Decision<'_>) -> Writes {
    let Pool { observed, sets, new } = &decision.pool;
    let mut order: Vec<usize> = (0..sets.len()).collect();
    order.retain(|index| !decision.deletions.contains(index));
    order.sort_by_key(|&index| {
        let rank = match observed.sets.get(index) {
            None => 0,
            Some(stored) if sets[index].replicas < stored.replicas => 1,
            Some(_) => 2,
        };
        (rank, Some(index) != *new, sets[index].age_order())
    });
    let mut writes = Writes::default();
    for index in order {
        let set = &sets[index];
        let Writes { steps, events, .. } = match observed.sets.get(index) {
            Some(stored) => changes(stored, set),
            None => Writes {
                steps: vec![Step::CreateSet(Box::new(new_set(
                    set,
                    &observed.deployment.selector,
                )))],
                events: vec![event(
                    false,
                    "NewMachineSetCreated",
                    match set.replicas {
                        0 => format!("created MachineSet {}", set.name),
                        size => format!("created MachineSet {} of {}", set.name, counted(size, "Machine")),
                    },
                )],
                requeue_after: None,
            },
        };
        writes.steps.extend(steps);
        writes.events.extend(events);
    }
    writes
}

/// The writes that make one stored set what it should be.
fn changes(stored: &Set, set: &Set) -> Writes {
    let (name, uid) = (set.name.clone(), set.uid.clone());
    let mut writes = Writes::default();
    if set.template != stored.template {
        if stored.likeness == Likeness::InPlace {
            let message = format!("changing the Machines of MachineSet {name} in place");
            writes.events.push(event(false, "ChangedInPlace", message));
        }
        writes.steps.push(Step::CopyTemplate {
            name: name.clone(),
            uid: uid.clone(),
            template: set.template.clone(),
        });
    }
    let (from, to) = (stored.replicas, set.replicas);
    let message = format!("scaled MachineSet {name} from {from} to {to}");
    match to.cmp(&from) {
        Ordering::Greater => writes.events.push(event(false, "ScaledUp", message)),
        Ordering::Less => writes.events.push(event(false, "ScaledDown", message)),
        Ordering::Equal => {}
    }
    let patch = set_patch(stored, set);
    writes
        .steps
        .extend(patch.map(|patch| Step::PatchSet { name, uid, patch }));
    writes
}

/// Of what else fails, an Event bears the name that machine-controller gives it.
const FAILED: &str = "ReconcileError";

/// The write of the status, unless it was written a moment ago, and Events about what it shows for the first time.
fn status_writes(decision: &Decision<'_>, now: Timestamp) -> Writes {
    let observed = decision.pool.observed;
    let (deployment, stored) = (&observed.deployment, &observed.deployment.status);
    let status = decision.status.as_ref();
    let Some((status, patch)) = status.and_then(|status| Some((status, status_patch(deployment, status)?)))
    else {
        return Writes::default();
    };
    if let Some(written) = observed.status_written
        && let Ok(due) = written.checked_add(STATUS_INTERVAL)
        && due > now
        && decision.request.is_none()
    {
        return Writes {
            requeue_after: Some(until(now, due)),
            ..Writes::default()
        };
    }
    let is_new = |kind, reason| {
        let shows = |status: &Status| conditions::has_reason(&status.conditions, kind, reason);
        shows(status) && !shows(stored)
    };
    let events = [
        (PROGRESSING, Reason::RolloutHalted, "RolloutHalted"),
        (
            PROGRESSING,
            Reason::ProgressDeadlineExceeded,
            "ProgressDeadlineExceeded",
        ),
        (PROGRESSING, Reason::InvalidSpec, FAILED),
        (PROGRESSING, Reason::WriteFailed, FAILED),
        (PROGRESSING, Reason::MachineSetChangedAtAdmission, FAILED),
        (PROGRESSING, Reason::TooManyCreations, FAILED),
        (SELECTOR_OVERLAP, Reason::SelectorOverlap, "SelectorOverlap"),
    ];
    let events = events
        .into_iter()
        .filter(|(kind, reason, _)| is_new(kind, *reason));
    let events = events.map(|(kind, _, name)| {
        let condition = conditions::find(&status.conditions, kind);
        let message = condition.and_then(|condition| condition.message.clone());
        event(true, name, message.unwrap_or_default())
    });
    Writes {
        steps: vec![Step::PatchStatus(patch)],
        events: events.collect(),
        requeue_after: None,
    }
}
fn new_set(set: &Set, raw_selector: &Value) -> NewSet {
    let hash = hash_of(set).unwrap_or_default();
    NewSet {
        name: set.name.clone(),
        labels: set.labels.clone(),
        annotations: set.annotations.clone(),
        selector: selector(raw_selector, &hash),
        template: set.template.clone(),
        replicas: set.replicas,
        min_ready_seconds: set.min_ready_seconds,
    }
}

/// The merge patch from one set to the other, templates aside.
fn set_patch(old: &Set, new: &Set) -> Option<Value> {
    let mut metadata = Map::new();
    for (key, old, new) in [
        ("labels", &old.labels, &new.labels),
        ("annotations", &old.annotations, &new.annotations),
    ] {
        let difference = difference(old, new);
        if !difference.is_empty() {
            metadata.insert(key.to_owned(), Value::Object(difference));
        }
    }
    if old.owners != new.owners {
        metadata.insert("ownerReferences".to_owned(), json!(new.owners));
    }
    let mut spec = Map::new();
    if old.replicas != new.replicas {
        spec.insert("replicas".to_owned(), json!(new.replicas));
    }
    if old.min_ready_seconds != new.min_ready_seconds {
        spec.insert("minReadySeconds".to_owned(), json!(new.min_ready_seconds));
    }
    let parts = [("metadata", metadata), ("spec", spec)];
    let patch: Map<String, Value> = parts
        .into_iter()
        .filter(|(_, part)| !part.is_empty())
        .map(|(key, part)| (key.to_owned(), Value::Object(part)))
        .collect();
    (!patch.is_empty()).then_some(Value::Object(patch))
}

fn difference(old: &Texts, new: &Texts) -> Map<String, Value> {
    let gone = old.keys().filter(|key| !new.contains_key(*key));
    let gone = gone.map(|key| (key.clone(), Value::Null));
    let set = new.iter().filter(|(key, value)| old.get(*key) != Some(value));
    let set = set.map(|(key, value)| (key.clone(), json!(value)));
    gone.chain(set).collect()
}

/// The merge patch of the status: what differs; all of it if a field could not be decoded, for the decoded status says
/// nothing of what is stored there.
fn status_patch(deployment: &Deployment, new: &Status) -> Option<Value> {
    let old = &deployment.status;
    let mut status = Map::new();
    let mut differs = |key: &str, old: Value, new: Value| {
        if old != new || deployment.status_decoded == Decoded::InPart {
            status.insert(key.to_owned(), new);
        }
    };
    differs(
        "observedGeneration",
        json!(old.observed_generation),
        json!(new.observed_generation),
    );
    differs("replicas", json!(old.replicas), json!(new.replicas));
    differs("updatedReplicas", json!(old.updated), json!(new.updated));
    differs("readyReplicas", json!(old.ready), json!(new.ready));
    differs("availableReplicas", json!(old.available), json!(new.available));
    differs(
        "unavailableReplicas",
        json!(old.unavailable),
        json!(new.unavailable),
    );
    differs(
        "labelSelector",
        json!(old.label_selector),
        json!(new.label_selector),
    );
    differs("conditions", json!(old.conditions), json!(new.conditions));
    differs("rollout", json!(old.rollout), json!(new.rollout));
    (!status.is_empty()).then(|| json!({ "status": status }))
}
