//! What to do for a MachineSet: a pure function of what is observed and the time.

mod in_place;
mod members;
pub(in crate::machine_set) mod restore;
mod scale;
mod status;

#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use machinist_infra::kube::clock::Skew;
use machinist_shared::api::count::{are, counted};
use machinist_shared::api::names::finalizer;
use serde_json::{Map, Value, json};

use self::members::Members;
use super::plan::{Plan, Step};
use super::snapshot::types::Snapshot;
use crate::autoscaler;
use crate::cache::{StoredMachine, StoredMachineSet, overlap};
use crate::runtime::creation_limit::TOO_MANY_CREATIONS;
use crate::telemetry::events::Event;

/// Something wrong, as the status shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Trouble {
    reason: &'static str,
    message: String,
}

impl Trouble {
    /// Nothing changes until a person does something.
    fn needs_person(&self) -> bool {
        [
            INVALID_CONFIGURATION,
            MACHINE_CHANGED_AT_ADMISSION,
            TOO_MANY_CREATIONS,
        ]
        .contains(&self.reason)
    }
}

/// `status.errorReason` of a spec that cannot be obeyed.
const INVALID_CONFIGURATION: &str = "InvalidConfiguration";

/// `status.errorReason` while new Machines are not stored as they are sent.
const MACHINE_CHANGED_AT_ADMISSION: &str = "MachineChangedAtAdmission";

/// What changes Machines, or the set itself.
#[derive(Default)]
struct Work {
    /// Writes, in order.
    steps: Vec<Step>,
    /// Whether more is known to be done than one plan holds.
    more: bool,
    /// When to reconcile again at the latest.
    requeue_after: Option<Duration>,
    /// What is wrong.
    trouble: Option<Trouble>,
}

impl Work {
    /// This, and then the other.
    fn and(self, later: Self) -> Self {
        Self {
            steps: [self.steps, later.steps].concat(),
            more: self.more || later.more,
            requeue_after: self.requeue_after.into_iter().chain(later.requeue_after).min(),
            trouble: self.trouble.or(later.trouble),
        }
    }

    /// Nothing of it now; all of it again after `delay`.
    fn postponed(self, delay: Duration) -> Self {
        let steps = Vec::new();
        self.held_back(steps, delay)
    }

    /// Only those of its steps now; the rest again after `delay`.
    fn held_back(self, steps: Vec<Step>, delay: Duration) -> Self {
        Self {
            steps,
            more: false,
            requeue_after: self.requeue_after.into_iter().chain([delay]).min(),
            trouble: self.trouble,
        }
    }
}

/// What to do for the set, at `now`.
pub fn decide(observed: &Snapshot, now: Timestamp) -> Plan {
    let set = &observed.set;
    // Its Machines belong to garbage collection now.
    if set.is_deleting() {
        return Plan::default();
    }
    let members = Members::of(observed);
    let work = match invalid(set) {
        Some(trouble) => Work {
            trouble: Some(trouble),
            ..Work::default()
        },
        None if set.paused_by().is_some() => Work::default(),
        None => work(observed, &members, now),
    };
    let has_failed = observed.failure.is_some();
    let forgive = work.steps.is_empty()
        && observed
            .failure
            .as_ref()
            .is_some_and(|failure| !(failure.of_status && failure.until > now));
    let work = held_back(observed, work, now);
    let (replicas, there) = (set.replicas.unwrap_or_default(), members.active.len());
    let counts = status::count(set, &members.active, now);
    let next_available = counts.next_available.map(|at| until(now, at));
    let is_status_due = !is_status_held(observed, now) && (work.steps.is_empty() || observed.status_overdue);
    let shown = if is_status_due {
        let is_news = has_failed && observed.failure.as_ref().is_some_and(|failure| failure.is_news);
        shown(set, &counts, work.trouble.as_ref(), is_news, now)
    } else {
        Vec::new()
    };
    let overlap = overlap(&observed.overlaps).map(Step::Event);
    Plan {
        again: work.requeue_after.into_iter().chain(next_available).min(),
        more: work.more,
        forgive,
        why: format!(
            "{} {} desired, {there} {} there",
            counted(replicas, "Machine"),
            are(replicas),
            are(there)
        ),
        steps: work.steps.into_iter().chain(shown).chain(overlap).collect(),
    }
}

/// Whether the status could not be written, and it is too early to try again.
fn is_status_held(observed: &Snapshot, now: Timestamp) -> bool {
    let failure = observed.failure.as_ref();
    failure.is_some_and(|failure| failure.of_status && failure.until > now)
}

/// What of the work may be done now.
fn held_back(observed: &Snapshot, work: Work, now: Timestamp) -> Work {
    let work = match &observed.failure {
        Some(failure) if is_status_held(observed, now) => work.postponed(until(now, failure.until)),
        Some(failure) if !work.steps.is_empty() => {
            let failed = Work {
                trouble: Some(Trouble {
                    reason: failure.reason,
                    message: failure.message.clone(),
                }),
                ..Work::default()
            };
            let work = work.and(failed);
            if failure.until > now {
                work.postponed(until(now, failure.until))
            } else {
                work
            }
        }
        _ => work,
    };
    let work = match observed.skew {
        Skew::TooLarge(_) => {
            let is_held = |step: &&Step| matches!(step, Step::Create(_) | Step::Delete(_));
            let steps = work.steps.iter().filter(|step| !is_held(step)).cloned().collect();
            work.held_back(steps, CLOCK_SKEW_POLL_INTERVAL).and(Work {
                trouble: Some(skewed()),
                ..Work::default()
            })
        }
        _ => work,
    };
    match &observed.recreation {
        Some(recreation) => work.and(Work {
            requeue_after: Some(until(now, recreation.ends)),
            trouble: Some(ends_early()),
            ..Work::default()
        }),
        None => work,
    }
}

/// An Event while other sets select the same Machines.
fn overlap(overlaps: &[String]) -> Option<Event> {
    if overlaps.is_empty() {
        return None;
    }
    Some(Event {
        warning: true,
        reason: "SelectorOverlap",
        message: format!(
            "its Machines are selected by MachineSet {} as well, or theirs by it: give each labels of its own, or one set adopts \
             what the other releases",
            overlap::listed(overlaps)
        ),
    })
}

/// How often a set is reconciled while the clocks differ too much.
const CLOCK_SKEW_POLL_INTERVAL: Duration = Duration::from_mins(1);

fn skewed() -> Trouble {
    Trouble {
        reason: "ClockSkew",
        message: "the clocks of the API server and of the machine-controller differ by more than an hour; no Machine is created or \
                  deleted until the one that is wrong is corrected"
            .to_owned(),
    }
}

/// Machines that end before they are Nodes. The same text as long as it lasts.
fn ends_early() -> Trouble {
    Trouble {
        reason: "CreateError",
        message: "Machines of this set end before their kubelets join; each next one is created after a pause, which doubles up \
                  to 5 min, until one joins or the set is changed"
            .to_owned(),
    }
}

/// Why the spec cannot be obeyed.
fn invalid(set: &StoredMachineSet) -> Option<Trouble> {
    let message = match (&set.undecodable, set.selector.fault(), set.replicas) {
        (Some(why), ..) => why.clone(),
        (None, Some(why), _) => why.to_owned(),
        (None, None, None) => "spec.replicas: is required".to_owned(),
        (None, None, Some(replicas)) if replicas < 0 => {
            format!("spec.replicas: {replicas} is negative")
        }
        (None, None, Some(_)) => return None,
    };
    Some(Trouble {
        reason: INVALID_CONFIGURATION,
        message,
    })
}

/// What changes Machines, and the set itself.
fn work(observed: &Snapshot, members: &Members<'_>, now: Timestamp) -> Work {
    let set = &observed.set;
    let some = |machines: &Vec<Arc<StoredMachine>>| (!machines.is_empty()).then(|| machines.clone());
    let steps = [
        set_patch(observed).map(Step::PatchSet),
        some(&observed.rejected).map(Step::Delete),
        some(&members.strayed).map(Step::Release),
        some(&observed.orphans).map(Step::Adopt),
    ];
    let first = Work {
        steps: steps.into_iter().flatten().collect(),
        requeue_after: observed.instancetype_again,
        ..Work::default()
    };
    let work = first.and(scale::scale(observed, &members.active, now));
    let in_place = in_place::change(set, &members.active, &work.steps);
    work.and(in_place)
}

/// The finalizer that makes garbage collection delete what the set owns first; and the capacity annotations for the
/// cluster-autoscaler on a set that stands alone.
fn set_patch(observed: &Snapshot) -> Option<Value> {
    let set = &observed.set;
    let mut metadata = Map::new();
    let mut finalizers = set.metadata.finalizers.clone().unwrap_or_default();
    if !finalizers.iter().any(|f| f == finalizer::FOREGROUND_DELETION) {
        finalizers.push(finalizer::FOREGROUND_DELETION.to_owned());
        metadata.insert("finalizers".to_owned(), json!(finalizers));
    }
    if set.is_node_group() {
        let changes = autoscaler::corrections(&set.as_node_group(), observed.instancetype.as_ref());
        if !changes.is_empty() {
            metadata.insert("annotations".to_owned(), json!(changes));
        }
    }
    (!metadata.is_empty()).then(|| json!({"metadata": metadata}))
}

/// The write of the status if it shows something new, and an Event about trouble that is new, or `is_news`: of an attempt that
/// failed like the one before. The API server counts such Events as one.
fn shown(
    set: &StoredMachineSet,
    counts: &status::Counts,
    trouble: Option<&Trouble>,
    is_news: bool,
    now: Timestamp,
) -> Vec<Step> {
    let patch = status::patch(set, counts, trouble, now).map(Step::Status);
    let is_new = |trouble: &&Trouble| set.status.error_message.as_ref() != Some(&trouble.message);
    let event = trouble
        .filter(|trouble| is_news || is_new(trouble))
        .map(|trouble| {
            Step::Event(Event {
                warning: true,
                // Whatever went wrong: that is how machine-controller's users filter.
                reason: "ReconcileError",
                message: trouble.message.clone(),
            })
        });
    patch.into_iter().chain(event).collect()
}

fn until(now: Timestamp, at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or_default()
}
