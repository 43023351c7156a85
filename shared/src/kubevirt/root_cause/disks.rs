//! DataVolumes: errors and progress of their import.

use super::{InfraState, Reason, VmView, is_about_quota, reason_and_message};
use crate::api::count::times;
use crate::kubevirt::observed::{Condition, DataVolumeStatus, find};

/// CDI could not create the importer's pod. It says so as well when its cache does not show yet that it just did.
const POD_NOT_CREATED: &str = "ErrStartingPod";

/// An importer with this many restarts is failing, even while it runs.
const RESTARTS: i64 = 3;

/// The first disk with an error; a permanent failure comes first.
pub(super) fn trouble(view: VmView<'_>) -> Option<InfraState> {
    let failed = view.disks.iter().find(|(_, status)| status.phase == "Failed");
    if let Some((name, status)) = failed {
        let why = why_failed(status)
            .map(reason_and_message)
            .filter(|why| !why.is_empty())
            .map(|why| format!(": {why}"))
            .unwrap_or_default();
        return Some(InfraState::new(
            Reason::DiskFailed,
            format!("DataVolume {name} failed permanently{why}"),
        ));
    }
    view.disks
        .iter()
        .find_map(|(name, status)| is_transient(name, status))
}

/// The condition with the cause: that of the importer's pod or the claim with an error; otherwise any with a message.
fn why_failed(status: &DataVolumeStatus) -> Option<&Condition> {
    let (running, bound) = (not_true(status, "Running"), not_true(status, "Bound"));
    let either = || [running, bound].into_iter().flatten();
    running
        .filter(|running| importer(running).is_some())
        .or(bound.filter(|bound| is_claim_failing(bound)))
        .or_else(|| either().find(|c| is_about_quota(c)))
        .or_else(|| either().find(|c| c.status == "False"))
}

fn not_true<'a>(status: &'a DataVolumeStatus, kind: &str) -> Option<&'a Condition> {
    let mut conditions = status.conditions.iter();
    conditions.find(|c| c.kind == kind && c.status != "True")
}

/// Whether an unbound claim is failing rather than pending. CDI has no information about a claim that it could not
/// create.
fn is_claim_failing(bound: &Condition) -> bool {
    let pending = ["", "Pending", "Claim Pending", "NotFound"];
    match bound.status.as_str() {
        "False" => !pending.contains(&bound.reason.as_str()),
        _ => bound.reason.starts_with("Err"),
    }
}

/// An error that CDI retries.
fn is_transient(name: &str, status: &DataVolumeStatus) -> Option<InfraState> {
    let restarts = restarts(status);
    let state = |reason, what: &str| {
        Some(InfraState::new(
            reason,
            format!("DataVolume {name}: {what}{restarts}"),
        ))
    };
    let (bound, running) = (not_true(status, "Bound"), not_true(status, "Running"));
    if let Some(quota) = [bound, running].into_iter().flatten().find(|c| is_about_quota(c)) {
        return state(Reason::DiskQuotaExceeded, &reason_and_message(quota));
    }
    if let Some((reason, running)) = running.and_then(|c| Some((importer(c)?, c))) {
        let failing = state(reason, &reason_and_message(running));
        return failing.map(|failing| failing.unconfirmed(running.reason == POD_NOT_CREATED));
    }
    if let Some(bound) = bound.filter(|c| is_claim_failing(c)) {
        return state(Reason::DiskClaimFailing, &reason_and_message(bound));
    }
    if status.restart_count >= RESTARTS && is_on_the_way(status) {
        let failing = state(Reason::DiskImportFailing, &format!("is {}", phase(status)));
        return failing.map(|failing| failing.retry(is_retry(status)));
    }
    None
}

fn restarts(status: &DataVolumeStatus) -> String {
    match status.restart_count {
        0 => String::new(),
        count => format!(" (the importer was restarted {})", times(count)),
    }
}

/// The error of the importer's pod, if any. CDI passes on whatever reason the kubelet gives for a container that
/// waits or has ended; for a clone it joins the reasons of the source's and the target's pod by "and".
fn importer(running: &Condition) -> Option<Reason> {
    running.reason.split(" and ").find_map(|reason| match reason {
        // Stages of a pod, and of a populator.
        ""
        | "ContainerCreating"
        | "PodInitializing"
        | "Pod is running"
        | "Scratch space required"
        | "Completed"
        | "Pending"
        | "Populator is running"
        | "TransferRunning" => None,
        "ImagePullFailed"
        | "ErrImagePull"
        | "ImagePullBackOff"
        | "ErrImageNeverPull"
        | "InvalidImageName"
        | "ImageInspectError"
        | "RegistryUnavailable"
        | "SignatureValidationFailed" => Some(Reason::DiskImageNotFound),
        "Unschedulable" => Some(Reason::DiskUnschedulable),
        _ => Some(Reason::DiskImportFailing),
    })
}

/// The importer runs again after a failure and has copied nothing yet. CDI does not keep the cause of the failure.
fn is_retry(status: &DataVolumeStatus) -> bool {
    let progress = status.progress.trim_end_matches('%').parse::<f64>();
    status.restart_count > 0 && is_on_the_way(status) && progress.unwrap_or_default() <= 0.0
}

/// The first disk that is not ready. A disk that waits for its VM does not count.
pub(super) fn progress(view: VmView<'_>) -> Option<InfraState> {
    if view.is_running() {
        return None;
    }
    let (name, status) = view.disks.iter().find(|(_, status)| is_on_the_way(status))?;
    let phase = phase(status);
    let done = match status.progress.as_str() {
        "" | "N/A" => String::new(),
        progress => format!(", {} done", rounded_percent(progress)),
    };
    let moving = phase.ends_with("InProgress") || phase.ends_with("Scheduled");
    if moving {
        let importing = InfraState::new(
            Reason::ImportingDisk,
            format!("DataVolume {name} is {phase}{done}{}", restarts(status)),
        );
        return Some(importing.retry(is_retry(status)));
    }
    let claim = find(&status.conditions, "Bound", "False")
        .map(reason_and_message)
        .filter(|reason_and_message| !reason_and_message.is_empty())
        .map(|reason_and_message| format!(": {reason_and_message}"))
        .unwrap_or_default();
    Some(InfraState::new(
        Reason::WaitingForDisk,
        format!("DataVolume {name} is {phase}{claim}"),
    ))
}

fn is_on_the_way(status: &DataVolumeStatus) -> bool {
    !matches!(
        status.phase.as_str(),
        "Succeeded" | "WaitForFirstConsumer" | "PendingPopulation"
    )
}

fn phase(status: &DataVolumeStatus) -> &str {
    if status.phase.is_empty() {
        "Pending"
    } else {
        &status.phase
    }
}

/// `42.31%` → `40 %`: progress is reported in steps of ten.
fn rounded_percent(progress: &str) -> String {
    let percent: f64 = progress.trim_end_matches('%').parse().unwrap_or_default();
    format!("{:.0} %", (percent / 10.0).floor() * 10.0)
}
