//! The wait for volumes to be detached from a Node that has been drained, or is not.

use std::collections::{BTreeMap, BTreeSet};

use machinist_shared::api::names::{annotation, condition};

use super::super::clock::{Deadlines, timeout};
use super::super::conditions::{Condition, Status};
use super::super::drain::sort::sort;
use super::super::drain::watch::{Claim, Seen};
use super::super::plan::Step;
use super::super::reason::Reason;
use super::super::record::Deletion;
use super::drain_timeout::took_too_long;
use super::result::Drained;
use super::{Flow, PhaseResult, View};

pub(super) fn run(view: &View<'_>) -> PhaseResult {
    match &view.before.found.drain {
        Some(Drained::Over(kept)) => wait(view, kept),
        Some(Drained::Skipped) => undrained(view),
        Some(Drained::SkippedWithVolumes) | None => PhaseResult::default(),
    }
}

/// The wait where the Node was not drained: its pods are listed only if that can matter.
fn undrained(view: &View<'_>) -> PhaseResult {
    let workload = &view.observed.workload;
    match &workload.pods {
        Seen::Pods(pods) if !workload.volumes.is_empty() => {
            let sorted = sort(&pods.pods, &pods.answers, &pods.budgets, view.now);
            wait(view, &sorted.kept_claims)
        }
        seen => {
            let result = wait(view, &BTreeSet::new());
            if *seen == Seen::Unwatched && result.flow == Flow::Stop {
                result.step(Step::WatchPods)
            } else {
                result
            }
        }
    }
}

fn shown(status: Status, reason: Reason, message: impl Into<String>) -> Condition {
    Condition::new(condition::VOLUMES_DETACHED, status, reason, message)
}

/// Waits until the Node's volumes are detached, but for those of pods that stay, unless that is not to be waited for.
fn wait(view: &View<'_>, kept: &BTreeSet<String>) -> PhaseResult {
    let nothing_known = BTreeMap::new();
    let claims = match &view.observed.workload.pods {
        Seen::Pods(pods) => &pods.claims,
        _ => &nothing_known,
    };
    let attached = &view.observed.workload.volumes;
    // Only what pods that stay may have is of interest.
    let asked_for: &[String] = if kept.is_empty() { &[] } else { attached };
    let mut result = PhaseResult::default();
    let mut unknown = Vec::new();
    for volume in asked_for {
        match claims.get(volume) {
            Some(Claim::Known(_) | Claim::None) => {}
            Some(Claim::Unread(until)) if *until > view.now => result = result.requeue(view.until(*until)),
            Some(Claim::Unread(_)) | None => unknown.push(volume.clone()),
        }
    }
    let claim = |volume: &String| match claims.get(volume) {
        Some(Claim::Known(claim)) => Some(claim),
        _ => None,
    };
    let awaited: Vec<String> = attached
        .iter()
        .filter(|volume| claim(volume).is_none_or(|claim| !kept.contains(claim)))
        .map(|volume| {
            claim(volume).map_or_else(|| volume.clone(), |claim| format!("{volume} (claim {claim})"))
        })
        .collect();
    let deletion = view.deletion();
    let started_at = deletion.volume_detach_started_at;
    let waits_since = |since| {
        view.progress().with_deletion(Deletion {
            volume_detach_started_at: since,
            ..deletion.clone()
        })
    };
    if awaited.is_empty() {
        if started_at.is_none() {
            return result;
        }
        let message = "no volume of a pod that had to go is attached to the Node any more";
        return result
            .condition(shown(Status::True, Reason::VolumesDetached, message))
            .progress(waits_since(None));
    }
    let result = result.progress(waits_since(started_at.or(Some(view.now))));
    let mut deadlines = Deadlines::default();
    let why_not = why_not(view, &mut deadlines);
    let mut result = result.requeue(deadlines.0);
    if let Some(why) = why_not {
        let message = format!("{}: {why}", awaited.join(", "));
        return result.condition(shown(Status::False, Reason::VolumeDetachSkipped, message));
    }
    if !unknown.is_empty() {
        result = result.step(Step::LookUpVolumes(unknown));
    }
    let message = format!("still attached to the Node: {}", awaited.join(", "));
    result
        .condition(shown(Status::False, Reason::VolumesAttached, message.as_str()).lazy())
        .condition(Condition::deleting(Reason::WaitingForVolumeDetach, message))
        .stopped()
}

/// Why volumes are not waited for, if so.
fn why_not(view: &View<'_>, deadlines: &mut Deadlines) -> Option<String> {
    let machine = view.machine();
    if machine.annotation(annotation::EXCLUDE_DETACH).is_some() {
        return Some(format!(
            "the Machine has the annotation {}",
            annotation::EXCLUDE_DETACH
        ));
    }
    if let Some(why) = took_too_long(view, deadlines) {
        return Some(why);
    }
    let timeout = timeout(machine, annotation::DETACH_TIMEOUT)?;
    let since = view.deletion().volume_detach_started_at.unwrap_or(view.now);
    deadlines
        .is_over(view.wait(since.min(view.now), timeout))
        .then(|| format!("it took longer than {timeout:?} ({})", annotation::DETACH_TIMEOUT))
}
