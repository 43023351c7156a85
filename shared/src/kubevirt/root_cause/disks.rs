//! DataVolumes: what keeps them from being filled, and how far they are.

use super::{InfraState, Reason, VmView, is_about_quota, reason_and_message};
use crate::kubevirt::observed::{Condition, DataVolumeStatus, find};

/// An importer that was started again this often is failing, even while it runs.
const RESTARTS: i64 = 3;

/// The first disk with trouble; one that has failed for good before all others.
pub(super) fn trouble(sight: VmView<'_>) -> Option<InfraState> {
    let failed = sight.disks.iter().find(|(_, status)| status.phase == "Failed");
    if let Some((name, status)) = failed {
        let why = why_failed(status)
            .map(reason_and_message)
            .filter(|why| !why.is_empty())
            .map(|why| format!(": {why}"))
            .unwrap_or_default();
        return Some(InfraState::new(
            Reason::DiskFailed,
            format!("DataVolume {name} has failed for good{why}"),
        ));
    }
    sight
        .disks
        .iter()
        .find_map(|(name, status)| is_transient(name, status))
}

/// The condition that says why: the importer's pod and the claim, whichever is in trouble; else whichever says anything.
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

/// Whether a claim that is not bound is more than not bound yet. Of a claim that CDI could not even make, it knows nothing.
fn is_claim_failing(bound: &Condition) -> bool {
    let pending = ["", "Pending", "Claim Pending", "NotFound"];
    match bound.status.as_str() {
        "False" => !pending.contains(&bound.reason.as_str()),
        _ => bound.reason.starts_with("Err"),
    }
}

/// Trouble that CDI goes on trying to overcome.
fn is_transient(name: &str, status: &DataVolumeStatus) -> Option<InfraState> {
    let restarts = match status.restart_count {
        0 => String::new(),
        1 => " (the importer was restarted once)".to_owned(),
        count => format!(" (the importer was restarted {count} times)"),
    };
    let tell = |reason, what: &str| {
        Some(InfraState::new(
            reason,
            format!("DataVolume {name}: {what}{restarts}"),
        ))
    };
    let (bound, running) = (not_true(status, "Bound"), not_true(status, "Running"));
    if let Some(quota) = [bound, running].into_iter().flatten().find(|c| is_about_quota(c)) {
        return tell(Reason::DiskQuotaExceeded, &reason_and_message(quota));
    }
    if let Some((reason, running)) = running.and_then(|c| Some((importer(c)?, c))) {
        return tell(reason, &reason_and_message(running));
    }
    if let Some(bound) = bound.filter(|c| is_claim_failing(c)) {
        return tell(Reason::DiskClaimFailing, &reason_and_message(bound));
    }
    if status.restart_count >= RESTARTS && is_on_the_way(status) {
        return tell(Reason::DiskImportFailing, &format!("is {}", phase(status)));
    }
    None
}

/// What is wrong with the importer's pod, if it is that.
fn importer(running: &Condition) -> Option<Reason> {
    match running.reason.as_str() {
        "Error" | "ChecksumError" | "OOMKilled" => Some(Reason::DiskImportFailing),
        "ImagePullFailed" => Some(Reason::DiskImageNotFound),
        "Unschedulable" => Some(Reason::DiskUnschedulable),
        _ => None,
    }
}

/// The first disk that is not there yet. One that waits for its VM is the VM's to wait for.
pub(super) fn progress(sight: VmView<'_>) -> Option<InfraState> {
    if sight.is_running() {
        return None;
    }
    let (name, status) = sight.disks.iter().find(|(_, status)| is_on_the_way(status))?;
    let phase = phase(status);
    let done = match status.progress.as_str() {
        "" | "N/A" => String::new(),
        progress => format!(", {} done", rounded_percent(progress)),
    };
    let moving = phase.ends_with("InProgress") || phase.ends_with("Scheduled");
    if moving {
        return Some(InfraState::new(
            Reason::ImportingDisk,
            format!("DataVolume {name} is {phase}{done}"),
        ));
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

/// `42.31%` → `40 %`: progress is told in steps of ten.
fn rounded_percent(progress: &str) -> String {
    let percent: f64 = progress.trim_end_matches('%').parse().unwrap_or_default();
    format!("{:.0} %", (percent / 10.0).floor() * 10.0)
}
