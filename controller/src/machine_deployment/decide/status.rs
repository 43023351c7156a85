//! What the status shows: counts, whether enough Machines are available, and how the rollout goes.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use machinist_shared::api::count::{are, counted};

use super::super::conditions::{self, AVAILABLE, PROGRESSING, Reason, SELECTOR_OVERLAP, Verdict};
use super::super::rollout::Rollout;
use super::super::rollout_limits::Limits;
use super::super::snapshot::types::{Machines, Set, Status, Strategy, Trouble};
use super::new_set::Held;
use super::pool::Pool;
use super::writes::until;
use crate::cache::overlap;
use crate::kstatus::{self, Health};

/// What else holds the rollout up.
#[derive(Default)]
pub(super) struct Findings {
    /// Why no set may be created now.
    pub(super) held: Option<Held>,
    /// Why the rollout is halted.
    pub(super) halted: Option<String>,
}

/// What is shown.
pub(super) struct Shown {
    pub(super) status: Status,
    /// Whether the rollout is complete.
    pub(super) is_complete: bool,
    /// When to reconcile again at the latest.
    pub(super) requeue_after: Option<Duration>,
}

/// How the rollout goes.
struct Progress {
    verdict: Verdict,
    /// When it last made progress, while it goes on.
    last: Option<Timestamp>,
    requeue_after: Option<Duration>,
}

/// Decides the status.
pub(super) fn decide(pool: &Pool<'_>, findings: &Findings, now: Timestamp) -> Shown {
    let deployment = &pool.observed.deployment;
    let limits = Limits::of(deployment);
    let counts = counts(pool);
    let is_complete = [counts.replicas, counts.updated, counts.available]
        .iter()
        .all(|count| *count == limits.desired);
    let is_complete =
        is_complete && pool.new.is_some() && !pool.is_creating() && pool.old().all(|set| set.replicas == 0);
    let progress = progress(pool, findings, &counts, is_complete, now);
    let is_done = progress.verdict.reason == Reason::NewMachineSetAvailable;
    let rollout = Rollout {
        last_progress: progress.last,
        completed_generation: if is_done {
            Some(deployment.generation)
        } else {
            deployment.rollout.completed(deployment.generation)
        },
    };
    let mut conditions = deployment.status.conditions.clone();
    conditions::put(&mut conditions, AVAILABLE, &available(&counts, limits), None, now);
    conditions::put(
        &mut conditions,
        PROGRESSING,
        &progress.verdict,
        progress.last,
        now,
    );
    let (health, reason) = health(progress.verdict.reason, &counts, limits, is_complete);
    let why = (reason.as_str(), progress.verdict.message.as_str());
    kstatus::put_health(&mut conditions, health, why, now);
    match overlap(&pool.observed.overlaps) {
        Some(verdict) => conditions::put(&mut conditions, SELECTOR_OVERLAP, &verdict, None, now),
        None => conditions.retain(|found| found.type_ != SELECTOR_OVERLAP),
    }
    Shown {
        status: Status {
            conditions,
            rollout: Some(rollout.status()),
            ..counts
        },
        is_complete,
        requeue_after: progress.requeue_after,
    }
}

/// What a tool that waits for the deployment reads, and why.
fn health(progress: Reason, counts: &Status, limits: Limits, is_complete: bool) -> (Health, Reason) {
    let is_available = counts.available == limits.desired && counts.replicas == limits.desired;
    match progress {
        Reason::InvalidSpec
        | Reason::ProgressDeadlineExceeded
        | Reason::RolloutHalted
        | Reason::MachineSetChangedAtAdmission
        | Reason::TooManyCreations => (Health::Failed, progress),
        Reason::NewMachineSetAvailable if is_complete => (Health::Current, progress),
        // A person wants it so.
        Reason::DeploymentPaused | Reason::WaitingForDeletion if is_available => (Health::Current, progress),
        Reason::NewMachineSetAvailable => (Health::InProgress, Reason::MachinesUnavailable),
        _ => (Health::InProgress, progress),
    }
}

/// Shown while others select the same Machines; nothing is done about it.
fn overlap(overlaps: &[String]) -> Option<Verdict> {
    if overlaps.is_empty() {
        return None;
    }
    let message = format!(
        "its Machines are selected by MachineDeployment {} as well, or theirs by it: give each labels of its own, or the \
         cluster-autoscaler counts Machines twice",
        overlap::listed(overlaps)
    );
    Some(Verdict::new("True", Reason::SelectorOverlap, message))
}

fn counts(pool: &Pool<'_>) -> Status {
    let deployment = &pool.observed.deployment;
    let mut status = Status {
        observed_generation: deployment.generation,
        updated: pool.new_set().map_or(0, |set| set.existing),
        label_selector: deployment.selector_text.clone(),
        ..Status::default()
    };
    for (_, set) in pool.members() {
        status.replicas = status.replicas.saturating_add(set.existing);
        status.ready = status.ready.saturating_add(set.ready);
        status.available = status.available.saturating_add(set.available);
    }
    status.unavailable = (pool.spec_sum() - status.available).max(0);
    status
}

fn available(status: &Status, limits: Limits) -> Verdict {
    let (have, desired, least) = (status.available, limits.desired, limits.least_available);
    let (machines, are) = (counted(desired, "Machine"), are(desired));
    let message = format!("{have} of {machines} {are} available; at least {least} must be");
    if have >= least {
        Verdict::new("True", Reason::MinimumReplicasAvailable, message)
    } else {
        Verdict::new("False", Reason::MinimumReplicasUnavailable, message)
    }
}

/// How the rollout goes, and when it last made progress.
fn progress(
    pool: &Pool<'_>,
    findings: &Findings,
    status: &Status,
    is_complete: bool,
    now: Timestamp,
) -> Progress {
    let deployment = &pool.observed.deployment;
    if let Some(verdict) = stopped(pool, findings, status, is_complete) {
        return Progress {
            verdict,
            last: None,
            requeue_after: None,
        };
    }
    let going_on = |reason, message: String, last, requeue_after| Progress {
        verdict: Verdict::new("True", reason, message),
        last: Some(last),
        requeue_after,
    };
    let rollout = &deployment.rollout;
    let last = rollout.last_progress.unwrap_or(now);
    let is_done = rollout.completed(deployment.generation).is_some();
    let desired = deployment.replicas.max(0);
    if is_complete {
        let whole = match desired {
            1 => "the Machine is".to_owned(),
            desired => format!("all {desired} Machines are"),
        };
        let message = format!("{whole} of the current template and available");
        let since = if is_done { last } else { now };
        return going_on(Reason::NewMachineSetAvailable, message, since, None);
    }
    let so_far = so_far(pool, status);
    if pool.is_creating() {
        return going_on(Reason::NewMachineSetCreated, so_far, now, None);
    }
    if is_done {
        // A rollout that was done stays done when a Machine is lost: only a changed spec starts another.
        return going_on(Reason::NewMachineSetAvailable, so_far, last, None);
    }
    // Until it has its first Machine, the new set is all that there is of the rollout.
    let reason = if status.updated == 0 {
        Reason::NewMachineSetCreated
    } else {
        Reason::MachineSetUpdated
    };
    if moved(&deployment.status, status) || rollout.last_progress.is_none() {
        let deadline = deployment.progress_deadline.try_into().unwrap_or_default();
        return going_on(reason, so_far, now, Some(deadline));
    }
    let deadline = deployment.progress_deadline;
    let due = last.checked_add(deadline).unwrap_or(Timestamp::MAX);
    if due <= now {
        let cause = blocking(pool).map_or_else(String::new, |trouble| format!("; {trouble}"));
        let message = format!("no progress for {} s: {so_far}{cause}", deadline.as_secs());
        return Progress {
            verdict: Verdict::new("False", Reason::ProgressDeadlineExceeded, message),
            last: Some(last),
            requeue_after: None,
        };
    }
    // What does not pass by itself is shown at once; a Machine that is being created is not worth a message.
    let obstacle = pool.new_set().and_then(obstacle);
    let obstacle = obstacle.or_else(|| pool.old().find_map(self::obstacle));
    let cause = obstacle.map_or_else(String::new, |trouble| format!("; {trouble}"));
    going_on(reason, so_far + &cause, last, Some(until(now, due)))
}

/// Why the rollout does not go on, if that is so.
fn stopped(pool: &Pool<'_>, findings: &Findings, status: &Status, is_complete: bool) -> Option<Verdict> {
    let deployment = &pool.observed.deployment;
    if let Some(fault) = &deployment.fault {
        return Some(Verdict::new("False", Reason::InvalidSpec, fault.clone()));
    }
    if let Some(annotation) = deployment.held_by {
        let message = format!("not reconciled because of the annotation {annotation}");
        return Some(Verdict::new("Unknown", Reason::DeploymentPaused, message));
    }
    if let Some(failure) = &pool.observed.failure {
        return Some(Verdict::new(
            "False",
            Reason::WriteFailed,
            failure.message.clone(),
        ));
    }
    if let Some(held) = &findings.held {
        return Some(Verdict::new("False", held.reason, held.message.clone()));
    }
    if deployment.paused {
        let message = "paused by spec.paused: it is scaled, but nothing is rolled";
        return Some(Verdict::new("Unknown", Reason::DeploymentPaused, message));
    }
    if is_complete {
        return None;
    }
    if let Some(cause) = &findings.halted {
        let set = pool.new_set().map(|set| set.name.clone()).unwrap_or_default();
        let message = format!(
            "no Machine of MachineSet {set} has become available, and no further Machine is replaced until one does: {cause}. Fix \
             the template, or roll back with the annotation machinist.dev/rollback-to"
        );
        return Some(Verdict::new("False", Reason::RolloutHalted, message));
    }
    let waiting = pool.spec_sum() == status.available && pool.old().any(|set| set.replicas > 0);
    if deployment.strategy == Strategy::OnDelete && waiting {
        let message = format!(
            "{}; each of the others is replaced when it is deleted (strategy OnDelete)",
            so_far(pool, status)
        );
        return Some(Verdict::new("True", Reason::WaitingForDeletion, message));
    }
    None
}

fn so_far(pool: &Pool<'_>, status: &Status) -> String {
    let desired = pool.observed.deployment.replicas.max(0);
    format!(
        "{} of {} {} of the current template, {} available",
        status.updated,
        counted(desired, "Machine"),
        are(desired),
        status.available
    )
}

/// Whether there is more of what is desired, or less of what is not, than the stored status shows; or the spec has changed.
fn moved(old: &Status, new: &Status) -> bool {
    // Any client may have written the stored one.
    let outdated = |status: &Status| status.replicas.saturating_sub(status.updated);
    old.observed_generation != new.observed_generation
        || new.updated > old.updated
        || outdated(new) < outdated(old)
        || new.ready > old.ready
        || new.available > old.available
}

/// What keeps the rollout: of the new set, else of any.
fn blocking(pool: &Pool<'_>) -> Option<Trouble> {
    let new = pool.new_set().and_then(trouble);
    new.or_else(|| pool.old().find_map(trouble))
}

/// What keeps a set from what it is asked for.
fn trouble(set: &Set) -> Option<Trouble> {
    let Machines { failed, blocking, .. } = &set.machines;
    obstacle(set)
        .or_else(|| failed.clone())
        .or_else(|| blocking.clone())
}

/// What keeps it, whatever its Machines do: that it is not reconciled, or that its writes are refused.
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
        return Some(own(format!(
            "not reconciled because of the annotation {annotation}"
        )));
    }
    set.error.clone().map(own)
}
