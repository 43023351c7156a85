//! What the status says: counts, whether enough Machines are available, and how the rollout goes.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::super::conditions::{self, AVAILABLE, PROGRESSING, Reason, SELECTOR_OVERLAP, Verdict};
use super::super::observed::{Machines, Set, Status, Strategy, Trouble};
use super::draft::Draft;
use super::limits::Limits;
use crate::cache::overlap;

/// Decides the status; whether the rollout is complete.
pub(super) fn decide(draft: &mut Draft<'_>) -> bool {
    let mut status = counts(draft);
    let limits = Limits::of(&draft.observed.deployment);
    let complete = [status.replicas, status.updated, status.available]
        .iter()
        .all(|count| *count == limits.desired);
    let complete =
        complete && draft.new.is_some() && !draft.is_creating() && draft.old().all(|set| set.replicas == 0);
    let now = draft.now;
    let verdict = available(&status, limits);
    conditions::put(&mut status.conditions, AVAILABLE, &verdict, None, now);
    let (verdict, updated) = progressing(draft, &status, complete);
    conditions::put(&mut status.conditions, PROGRESSING, &verdict, Some(updated), now);
    overlap(draft, &mut status);
    draft.status = Some(status);
    complete
}

/// Says while others select the same Machines; nothing is done about it.
fn overlap(draft: &mut Draft<'_>, status: &mut Status) {
    let overlaps = &draft.observed.overlaps;
    if overlaps.is_empty() {
        status.conditions.retain(|found| found.type_ != SELECTOR_OVERLAP);
        return;
    }
    let message = format!(
        "its Machines are selected by MachineDeployment {} as well, or theirs by it: give each labels of its own, or the \
         cluster-autoscaler counts Machines twice",
        overlap::listed(overlaps)
    );
    let verdict = Verdict::new("True", Reason::SelectorOverlap, message);
    conditions::put(
        &mut status.conditions,
        SELECTOR_OVERLAP,
        &verdict,
        None,
        draft.now,
    );
}

fn counts(draft: &Draft<'_>) -> Status {
    let deployment = &draft.observed.deployment;
    let mut status = Status {
        observed_generation: deployment.generation,
        updated: draft.new_set().map_or(0, |set| set.existing),
        label_selector: deployment.selector_text.clone(),
        conditions: deployment.status.conditions.clone(),
        ..Status::default()
    };
    for (_, set) in draft.members() {
        status.replicas = status.replicas.saturating_add(set.existing);
        status.ready = status.ready.saturating_add(set.ready);
        status.available = status.available.saturating_add(set.available);
    }
    status.unavailable = (draft.spec_sum() - status.available).max(0);
    status
}

fn available(status: &Status, limits: Limits) -> Verdict {
    let (have, desired, least) = (status.available, limits.desired, limits.least_available);
    let message = format!("{have} of {desired} Machines are available; at least {least} must be");
    if have >= least {
        Verdict::new("True", Reason::MinimumReplicasAvailable, message)
    } else {
        Verdict::new("False", Reason::MinimumReplicasUnavailable, message)
    }
}

/// How the rollout goes, and when it last made progress.
fn progressing(draft: &mut Draft<'_>, status: &Status, complete: bool) -> (Verdict, Timestamp) {
    let now = draft.now;
    let deployment = &draft.observed.deployment;
    let stored = conditions::find(&deployment.status.conditions, PROGRESSING);
    let last = stored.and_then(|stored| stored.last_update_time.as_ref());
    let last = last.map_or(now, |time| time.0);
    // The time at which this was first said.
    let since = |verdict: Verdict| {
        let said = stored.and_then(|stored| stored.reason.as_deref()) == Some(verdict.reason.as_str());
        (verdict, if said { last } else { now })
    };
    if let Some(fault) = &deployment.fault {
        return since(Verdict::new("False", Reason::InvalidSpec, fault.clone()));
    }
    if let Some(annotation) = deployment.held_by {
        let message = format!("left alone because of the annotation {annotation}");
        return since(Verdict::new("Unknown", Reason::DeploymentPaused, message));
    }
    if let Some(failure) = &draft.observed.failure {
        return since(Verdict::new(
            "False",
            Reason::WriteFailed,
            failure.message.clone(),
        ));
    }
    if let Some((reason, message)) = &draft.held {
        return since(Verdict::new("False", *reason, message.clone()));
    }
    if deployment.paused {
        let message = "paused by spec.paused: it is scaled, but nothing is rolled";
        return since(Verdict::new("Unknown", Reason::DeploymentPaused, message));
    }
    let desired = deployment.replicas.max(0);
    if complete {
        let message = format!("all {desired} Machines are of the current template and available");
        return since(Verdict::new("True", Reason::NewMachineSetAvailable, message));
    }
    if let Some(cause) = &draft.halted {
        let set = draft.new_set().map(|set| set.name.clone()).unwrap_or_default();
        let message = format!(
            "no Machine of MachineSet {set} has become available, and nothing more is replaced until one does: {cause}. Mend the \
             template, or go back with the annotation machinist.dev/rollback-to"
        );
        return since(Verdict::new("False", Reason::RolloutHalted, message));
    }
    let so_far = format!(
        "{} of {desired} Machines are of the current template, {} available",
        status.updated, status.available
    );
    let waiting = draft.spec_sum() == status.available && draft.old().any(|set| set.replicas > 0);
    if deployment.strategy == Strategy::OnDelete && waiting {
        let message =
            format!("{so_far}; each of the others is replaced when it is deleted (strategy OnDelete)");
        return since(Verdict::new("True", Reason::WaitingForDeletion, message));
    }
    if draft.is_creating() {
        return (Verdict::new("True", Reason::NewMachineSetCreated, so_far), now);
    }
    if moved(&deployment.status, status) || !is_running(draft) {
        // A rollout that was done stays done when a Machine is lost: only a changed spec starts another.
        let done = conditions::has_reason(
            &deployment.status.conditions,
            PROGRESSING,
            Reason::NewMachineSetAvailable,
        );
        if !(done && deployment.status.observed_generation == deployment.generation) {
            let verdict = Verdict::new("True", Reason::MachineSetUpdated, so_far);
            draft.plan.look_again(std_duration(deployment.progress_deadline));
            return (verdict, now);
        }
    }
    still(draft, so_far, last)
}

/// Nothing has moved in this pass.
fn still(draft: &mut Draft<'_>, so_far: String, last: Timestamp) -> (Verdict, Timestamp) {
    let deployment = &draft.observed.deployment;
    let is = |reason| conditions::has_reason(&deployment.status.conditions, PROGRESSING, reason);
    if is(Reason::NewMachineSetAvailable) {
        return (Verdict::new("True", Reason::NewMachineSetAvailable, so_far), last);
    }
    let deadline = deployment.progress_deadline;
    let due = last.checked_add(deadline).unwrap_or(Timestamp::MAX);
    if due <= draft.now || is(Reason::ProgressDeadlineExceeded) {
        let cause = blocking(draft).map_or_else(String::new, |trouble| format!("; {trouble}"));
        let message = format!("no progress for {} s: {so_far}{cause}", deadline.as_secs());
        return (
            Verdict::new("False", Reason::ProgressDeadlineExceeded, message),
            last,
        );
    }
    let reason = if is(Reason::NewMachineSetCreated) {
        Reason::NewMachineSetCreated
    } else {
        Reason::MachineSetUpdated
    };
    let wait = draft.until(due);
    draft.plan.look_again(wait);
    // What does not pass by itself is told at once; a Machine that is on its way is not worth a word.
    let obstacle = draft.new_set().and_then(obstacle);
    let obstacle = obstacle.or_else(|| draft.old().find_map(self::obstacle));
    let cause = obstacle.map_or_else(String::new, |trouble| format!("; {trouble}"));
    (Verdict::new("True", reason, so_far + &cause), last)
}

/// Whether there is more of what is wanted, or less of what is not, than the stored status tells; or something else is
/// wanted.
fn moved(old: &Status, new: &Status) -> bool {
    // Any client may have written the stored one.
    let outdated = |status: &Status| status.replicas.saturating_sub(status.updated);
    old.observed_generation != new.observed_generation
        || new.updated > old.updated
        || outdated(new) < outdated(old)
        || new.ready > old.ready
        || new.available > old.available
}

/// Whether the stored condition tells of a rollout that was going on.
fn is_running(draft: &Draft<'_>) -> bool {
    let stored = &draft.observed.deployment.status.conditions;
    [
        Reason::NewMachineSetCreated,
        Reason::MachineSetUpdated,
        Reason::NewMachineSetAvailable,
        Reason::ProgressDeadlineExceeded,
    ]
    .iter()
    .any(|reason| conditions::has_reason(stored, PROGRESSING, *reason))
}

/// What keeps the rollout: of the new set, else of any.
fn blocking(draft: &Draft<'_>) -> Option<Trouble> {
    let new = draft.new_set().and_then(trouble);
    new.or_else(|| draft.old().find_map(trouble))
}

/// What keeps a set from what it is asked for.
fn trouble(set: &Set) -> Option<Trouble> {
    let Machines { failed, blocking, .. } = &set.machines;
    obstacle(set)
        .or_else(|| failed.clone())
        .or_else(|| blocking.clone())
}

/// What keeps it, whatever its Machines do: that nobody works on it, or that its writes are refused.
fn obstacle(set: &Set) -> Option<Trouble> {
    let own = |message: String| Trouble {
        whose: format!("MachineSet {}", set.name),
        message,
    };
    if set.deleting {
        let message = "it is being deleted, and its Machines with it; another is made when it is gone";
        return Some(own(message.to_owned()));
    }
    if let Some(annotation) = set.held_by() {
        return Some(own(format!("left alone because of the annotation {annotation}")));
    }
    set.error.clone().map(own)
}

fn std_duration(duration: SignedDuration) -> std::time::Duration {
    duration.try_into().unwrap_or_default()
}
