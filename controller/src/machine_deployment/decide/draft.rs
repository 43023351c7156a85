//! A plan in the making: a copy of the sets, which is changed, and what else is to be written.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use machinist_shared::admission::autoscaler::Changes;
use machinist_shared::api::names::finalizer;
use serde_json::{Map, Value, json};

use super::super::conditions::{self, PROGRESSING, Reason, SELECTOR_OVERLAP};
use super::super::observed::{Deployment, Likeness, Observed, Set, Status, Texts};
use super::super::plan::{NewSet, Plan, Step};
use super::hash::{hash_of, selector};
use super::limits::Limits;
use crate::cache::Decoded;
use crate::telemetry::events::Event;

/// The status is written at most this often, so that many Machines that become ready at once are told of together.
pub(crate) const STATUS_EVERY: SignedDuration = SignedDuration::from_millis(200);

/// A plan in the making.
pub(super) struct Draft<'a> {
    pub(super) observed: &'a Observed,
    pub(super) now: Timestamp,
    /// The sets as they shall be: those observed, in their order, and at most one to be made.
    pub(super) sets: Vec<Set>,
    /// Which of them is the new one.
    pub(super) new: Option<usize>,
    /// Why the rollout is stopped.
    pub(super) halted: Option<String>,
    /// Annotations that the deployment shall have.
    pub(super) annotations: BTreeMap<&'static str, String>,
    /// Annotations of its capacity that it shall have, or lose.
    pub(super) capacity: Changes,
    /// Why no set may be created now.
    pub(super) held: Option<(Reason, String)>,
    finalizers: Option<Vec<String>>,
    /// Writes that a person asked for by annotation; nothing else is done in their pass.
    pub(super) requests: Vec<Step>,
    pub(super) deletions: Vec<Step>,
    pub(super) deleted: Vec<usize>,
    /// The status as it shall be.
    pub(super) status: Option<Status>,
    events: Vec<Event>,
    pub(super) plan: Plan,
}

impl<'a> Draft<'a> {
    pub(super) fn new(observed: &'a Observed, now: Timestamp) -> Self {
        Self {
            observed,
            now,
            sets: observed.sets.clone(),
            new: None,
            halted: None,
            annotations: BTreeMap::new(),
            capacity: Changes::new(),
            held: None,
            finalizers: None,
            requests: Vec::new(),
            deletions: Vec::new(),
            deleted: Vec::new(),
            status: None,
            events: Vec::new(),
            plan: Plan::default(),
        }
    }

    /// The sets that belong to the deployment, with their place.
    pub(super) fn members(&self) -> impl Iterator<Item = (usize, &Set)> + Clone {
        let deployment = &self.observed.deployment;
        let sets = self.sets.iter().enumerate();
        sets.filter(|(_, set)| set.belongs_to(deployment))
    }

    /// The same, to be changed.
    pub(super) fn members_mut(&mut self) -> impl Iterator<Item = (usize, &mut Set)> {
        let deployment = &self.observed.deployment;
        let sets = self.sets.iter_mut().enumerate();
        sets.filter(|(_, set)| set.belongs_to(deployment))
    }

    /// The new set.
    pub(super) fn new_set(&self) -> Option<&Set> {
        self.sets.get(self.new?)
    }

    /// The new set, to be changed.
    pub(super) fn new_set_mut(&mut self) -> Option<&mut Set> {
        self.sets.get_mut(self.new?)
    }

    /// Whether the new set is yet to be made.
    pub(super) fn is_creating(&self) -> bool {
        self.new.is_some_and(|index| index >= self.observed.sets.len())
    }

    /// The sets of other templates.
    pub(super) fn old(&self) -> impl Iterator<Item = &Set> {
        self.members()
            .filter(|(index, _)| Some(*index) != self.new)
            .map(|(_, set)| set)
    }

    /// Their places, the oldest first.
    pub(super) fn old_indexes(&self) -> Vec<usize> {
        let mut old: Vec<usize> = self.members().map(|(index, _)| index).collect();
        old.retain(|index| Some(*index) != self.new);
        old.sort_by_key(|index| self.sets[*index].age_order());
        old
    }

    /// Machines that are asked for by all sets together.
    pub(super) fn spec_sum(&self) -> i32 {
        let sizes = self.members().map(|(_, set)| set.replicas);
        sizes.fold(0, i32::saturating_add)
    }

    /// How many Machines there are beyond the sizes of the sets, because they wait for others in their place.
    pub(super) fn surging(&self) -> i32 {
        let surging = self.members().map(|(_, set)| set.machines.surging);
        surging.fold(0, i32::saturating_add)
    }

    /// Gives a set another size.
    pub(super) fn scale(&mut self, index: usize, size: i32, limits: Limits) {
        let set = &mut self.sets[index];
        if set.replicas != size {
            // Those beyond the former size may go before the set learns of the new one.
            set.available = set.available();
            set.replicas = size;
            limits.annotate(&mut set.annotations);
        }
    }

    /// Deletes sets of its making that are not as they were sent.
    pub(super) fn delete_rejected(&mut self) {
        // One that could not be deleted is tried again with everything else.
        if self.observed.failure.is_none() {
            let rejected = self.observed.rejected.iter().cloned();
            let deletions = rejected.map(|(name, uid)| Step::DeleteSet { name, uid });
            self.plan.steps.extend(deletions);
        }
    }

    /// Adds the finalizer that makes garbage collection delete what the deployment owns first.
    pub(super) fn finalizer(&mut self) {
        let stored = &self.observed.deployment.finalizers;
        if !stored.iter().any(|f| f == finalizer::FOREGROUND_DELETION) {
            let mut list = stored.clone();
            list.push(finalizer::FOREGROUND_DELETION.to_owned());
            self.finalizers = Some(list);
        }
    }

    /// Tells a person something, once everything is written.
    pub(super) fn tell(&mut self, warning: bool, reason: &'static str, message: impl Into<String>) {
        self.events.push(Event {
            warning,
            reason,
            message: message.into(),
        });
    }

    /// Leaves sets and deployment as they are; what the status says stays said.
    pub(super) fn forget_changes(&mut self) {
        self.sets.clone_from(&self.observed.sets);
        self.new = self.new.filter(|index| *index < self.sets.len());
        self.annotations.clear();
        self.capacity.clear();
        self.finalizers = None;
        self.requests.clear();
        self.deletions.clear();
        self.deleted.clear();
    }

    /// The finished plan.
    pub(super) fn finish(mut self) -> Plan {
        if let Some(failure) = &self.observed.failure {
            let wait = self.until(failure.until);
            self.forget_changes();
            self.events.clear();
            if failure.of_status {
                self.status = None;
            }
            self.plan.look_again(wait);
        }
        let asked = !self.requests.is_empty();
        self.plan.steps.append(&mut self.requests);
        let patch = self.deployment_patch();
        // Before the first set is made, garbage collection has to know that it goes before its deployment.
        let first = self.finalizers.is_some();
        if first {
            self.plan.steps.extend(patch.clone());
        }
        self.set_steps();
        if !first {
            self.plan.steps.extend(patch);
        }
        self.plan.steps.append(&mut self.deletions);
        let why = self.why();
        self.status_step(asked);
        let events = std::mem::take(&mut self.events);
        self.plan.steps.extend(events.into_iter().map(Step::Event));
        if !self.plan.steps.is_empty() {
            self.plan.why = why;
        }
        self.plan
    }

    /// How the rollout is said to go.
    fn why(&self) -> String {
        let status = self.status.as_ref();
        let said = status.and_then(|status| conditions::find(&status.conditions, PROGRESSING));
        said.map_or_else(String::new, |said| {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            format!("{}: {}", text(&said.reason), text(&said.message))
        })
    }

    /// How long until `instant`; at least 10 ms, so that a plan never looks again without end.
    pub(super) fn until(&self, instant: Timestamp) -> Duration {
        let wait = instant.duration_since(self.now);
        let wait = wait.max(SignedDuration::from_millis(10));
        wait.try_into().unwrap_or_default()
    }

    fn deployment_patch(&self) -> Option<Step> {
        let deployment = &self.observed.deployment;
        let mut metadata = Map::new();
        // Whatever is written here makes others work: only what is another value.
        let changed = self.annotations.iter();
        let mut changed: Map<String, Value> = changed
            .filter(|(key, value)| deployment.annotation(key) != Some(value.as_str()))
            .map(|(key, value)| ((*key).to_owned(), json!(value)))
            .collect();
        let capacity = self.capacity.iter();
        changed.extend(capacity.map(|(key, value)| (key.clone(), json!(value))));
        if !changed.is_empty() {
            metadata.insert("annotations".to_owned(), Value::Object(changed));
        }
        if let Some(finalizers) = &self.finalizers {
            metadata.insert("finalizers".to_owned(), json!(finalizers));
        }
        (!metadata.is_empty()).then(|| Step::PatchDeployment(json!({ "metadata": metadata })))
    }

    /// The writes that make the stored sets what they shall be. A set is made before another shrinks for it: it may be
    /// refused. What shrinks comes before what grows, so that there are never too many in between.
    fn set_steps(&mut self) {
        let mut order: Vec<usize> = (0..self.sets.len()).collect();
        order.retain(|index| !self.deleted.contains(index));
        order.sort_by_key(|&index| {
            let set = &self.sets[index];
            let stored = self.observed.sets.get(index);
            let rank = match stored {
                None => 0,
                Some(stored) if set.replicas < stored.replicas => 1,
                Some(_) => 2,
            };
            (rank, Some(index) != self.new, set.age_order())
        });
        for index in order {
            let set = &self.sets[index];
            let Some(stored) = self.observed.sets.get(index) else {
                let message = format!("made MachineSet {} of {} Machines", set.name, set.replicas);
                let created = new_set(set, &self.observed.deployment.selector);
                self.plan.steps.push(Step::CreateSet(Box::new(created)));
                self.tell(false, "NewMachineSetCreated", message);
                continue;
            };
            let (name, uid) = (set.name.clone(), set.uid.clone());
            if set.template != stored.template {
                let template = set.template.clone();
                if stored.likeness == Likeness::InPlace {
                    let message = format!("changing the Machines of MachineSet {name} in place");
                    self.events.push(Event {
                        warning: false,
                        reason: "ChangedInPlace",
                        message,
                    });
                }
                self.plan.steps.push(Step::CopyTemplate {
                    name: name.clone(),
                    uid: uid.clone(),
                    template,
                });
            }
            let set = &self.sets[index];
            if let Some(patch) = set_patch(stored, set) {
                self.plan.steps.push(Step::PatchSet { name, uid, patch });
            }
            let (from, to) = (stored.replicas, set.replicas);
            let message = format!("scaled MachineSet {} from {from} to {to}", set.name);
            match to.cmp(&from) {
                std::cmp::Ordering::Greater => self.tell(false, "ScaledUp", message),
                std::cmp::Ordering::Less => self.tell(false, "ScaledDown", message),
                std::cmp::Ordering::Equal => {}
            }
        }
    }

    fn status_step(&mut self, urgent: bool) {
        let Some(status) = self.status.take() else { return };
        let deployment = &self.observed.deployment;
        let stored = &deployment.status;
        let Some(patch) = status_patch(deployment, &status) else {
            return;
        };
        if let Some(written) = self.observed.status_written
            && let Ok(due) = written.checked_add(STATUS_EVERY)
            && due > self.now
            && !urgent
        {
            let wait = self.until(due);
            self.plan.look_again(wait);
            return;
        }
        self.plan.steps.push(Step::PatchStatus(patch));
        for (kind, reason) in [
            (PROGRESSING, Reason::RolloutHalted),
            (PROGRESSING, Reason::ProgressDeadlineExceeded),
            (PROGRESSING, Reason::InvalidSpec),
            (PROGRESSING, Reason::WriteFailed),
            (PROGRESSING, Reason::MachineSetChangedAtAdmission),
            (PROGRESSING, Reason::TooManyCreations),
            (SELECTOR_OVERLAP, Reason::SelectorOverlap),
        ] {
            let is = |status: &Status| conditions::has_reason(&status.conditions, kind, reason);
            if is(&status) && !is(stored) {
                let condition = conditions::find(&status.conditions, kind);
                let message = condition.and_then(|condition| condition.message.clone());
                // machine-controller's name for whatever goes wrong.
                let name = match reason {
                    Reason::RolloutHalted => "RolloutHalted",
                    Reason::ProgressDeadlineExceeded => "ProgressDeadlineExceeded",
                    Reason::SelectorOverlap => "SelectorOverlap",
                    _ => "ReconcileError",
                };
                self.tell(true, name, message.unwrap_or_default());
            }
        }
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
    (!status.is_empty()).then(|| json!({ "status": status }))
}
