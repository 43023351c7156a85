//! What to do for a MachineSet: a pure function of what is observed and the time.

mod in_place;
mod members;
mod scale;
mod status;

#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;
use machinist_infra::kube::clock::Skew;
use machinist_shared::api::names::finalizer;
use serde_json::{Map, Value, json};

use self::members::Members;
use super::observed::Observed;
use super::plan::{Plan, Step};
use crate::autoscaler;
use crate::cache::{StoredMachineSet, overlap};
use crate::telemetry::events::Event;

/// Something wrong, as the status shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Trouble {
    reason: &'static str,
    message: String,
}

/// `status.errorReason` of a spec that cannot be obeyed.
const INVALID_CONFIGURATION: &str = "InvalidConfiguration";

/// `status.errorReason` while new Machines are not stored as they are sent.
const MACHINE_CHANGED_AT_ADMISSION: &str = "MachineChangedAtAdmission";

/// What to do for the set, at `now`.
pub fn decide(observed: &Observed, now: Timestamp) -> Plan {
    let set = &observed.set;
    // Its Machines belong to garbage collection now.
    if set.is_deleting() {
        return Plan::default();
    }
    let members = Members::of(observed);
    let mut plan = Plan::default();
    let mut trouble = invalid(set);
    if trouble.is_none() && set.paused_by().is_none() {
        trouble = work(observed, &members, now, &mut plan).err();
    }
    let mut is_silent = false;
    match &observed.failure {
        Some(failure) if failure.of_status && failure.until > now => {
            is_silent = true;
            plan.steps.clear();
            plan.more = false;
            plan.look_again(until(now, failure.until));
        }
        Some(_) if plan.steps.is_empty() => plan.forgive = true,
        Some(failure) => {
            trouble = trouble.or_else(|| {
                Some(Trouble {
                    reason: failure.reason,
                    message: failure.message.clone(),
                })
            });
            if failure.until > now {
                plan.steps.clear();
                plan.more = false;
                plan.look_again(until(now, failure.until));
            }
        }
        None => {}
    }
    if let Skew::TooLarge(_) = observed.skew {
        let is_held = |step: &Step| matches!(step, Step::Create(_) | Step::Delete(_));
        plan.steps.retain(|step| !is_held(step));
        plan.more = false;
        plan.look_again(SKEWED);
        trouble = trouble.or_else(|| Some(skewed()));
    }
    if let Some(recreation) = &observed.recreation {
        trouble = trouble.or_else(|| Some(ends_early()));
        plan.look_again(until(now, recreation.ends));
    }
    let (wanted, there) = (set.replicas.unwrap_or_default(), members.active.len());
    plan.why = format!("{wanted} Machines are wanted, {there} are there");
    let counts = status::count(set, &members.active, now);
    if let Some(at) = counts.next_available {
        plan.look_again(until(now, at));
    }
    if !is_silent && (plan.steps.is_empty() || observed.status_overdue) {
        let is_news = trouble.is_some() && observed.failure.as_ref().is_some_and(|failure| failure.is_news);
        tell(set, &counts, trouble, is_news, &mut plan);
    }
    if !observed.overlaps.is_empty() {
        plan.steps.push(Step::Event(Event {
            warning: true,
            reason: "SelectorOverlap",
            message: format!(
                "its Machines are selected by MachineSet {} as well, or theirs by it: give each labels of its own, or what one lets go is taken by the other",
                overlap::listed(&observed.overlaps)
            ),
        }));
    }
    plan
}

/// How often a set is looked at while the clocks differ too much.
const SKEWED: Duration = Duration::from_mins(1);

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
fn work(observed: &Observed, members: &Members<'_>, now: Timestamp, plan: &mut Plan) -> Result<(), Trouble> {
    let set = &observed.set;
    if let Some(patch) = set_patch(observed) {
        plan.steps.push(Step::PatchSet(patch));
    }
    if let Some(again) = observed.instancetype_again {
        plan.look_again(again);
    }
    if !observed.rejected.is_empty() {
        plan.steps.push(Step::Delete(observed.rejected.clone()));
    }
    if !members.strayed.is_empty() {
        plan.steps.push(Step::Release(members.strayed.clone()));
    }
    if !observed.orphans.is_empty() {
        plan.steps.push(Step::Adopt(observed.orphans.clone()));
    }
    let scaled = scale::scale(observed, &members.active, now, plan);
    in_place::change(set, &members.active, plan);
    scaled
}

/// The finalizer that makes garbage collection delete what the set owns first; and what the cluster-autoscaler is told of the
/// nodes of a set that stands alone.
fn set_patch(observed: &Observed) -> Option<Value> {
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

/// Writes the status if it says something new, and an Event about trouble that is new, or `is_news`: of an attempt that
/// failed like the one before. Such Events are one, which is counted up.
fn tell(
    set: &StoredMachineSet,
    counts: &status::Counts,
    trouble: Option<Trouble>,
    is_news: bool,
    plan: &mut Plan,
) {
    let patch = status::patch(set, counts, trouble.as_ref());
    plan.steps.extend(patch.map(Step::Status));
    if let Some(trouble) = trouble
        && (is_news || set.status.error_message.as_ref() != Some(&trouble.message))
    {
        plan.steps.push(Step::Event(Event {
            warning: true,
            // Whatever went wrong: that is how machine-controller's users filter.
            reason: "ReconcileError",
            message: trouble.message,
        }));
    }
}

fn until(now: Timestamp, at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or_default()
}
