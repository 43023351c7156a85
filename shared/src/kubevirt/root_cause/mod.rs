//! Why a VM does not run: one reason from a closed list, and a human-readable message.
//!
//! The search for the root cause checks in this order: the VM's own failure, its disks, the launcher pod, the guest.
//! The first one with an error provides the message, in that object's own words. A transient cause ends when
//! its own cause goes away; a terminal one does not.

mod disks;
mod guest;
mod launcher;
mod stage;
#[cfg(test)]
mod tests;

use super::observed::{Condition, DataVolumeStatus, VmStatus, VmiStatus, find};

/// Why a VM does not run, or that it runs. The variants' names are the reasons in the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the texts of the API")]
pub enum Reason {
    VMRunning,
    // In progress.
    VMStarting,
    ImportingDisk,
    WaitingForDisk,
    WaitingForAddress,
    VMStopping,
    // Failing, but it can recover.
    VMFailure,
    InstancetypeNotFound,
    PreferenceNotFound,
    QuotaExceeded,
    VMRecoveryRequired,
    DiskImportFailing,
    DiskImageNotFound,
    DiskQuotaExceeded,
    DiskUnschedulable,
    DiskClaimFailing,
    Unschedulable,
    DiskNotFound,
    LauncherImageFailed,
    LauncherFailed,
    StartFailing,
    VMPaused,
    GuestAgentUnsupported,
    VMUnknown,
    VMHalted,
    // Terminal.
    DiskFailed,
    GuestEnded,
}

impl Reason {
    /// All of them, in their order.
    pub const ALL: [Self; 27] = [
        Self::VMRunning,
        Self::VMStarting,
        Self::ImportingDisk,
        Self::WaitingForDisk,
        Self::WaitingForAddress,
        Self::VMStopping,
        Self::VMFailure,
        Self::InstancetypeNotFound,
        Self::PreferenceNotFound,
        Self::QuotaExceeded,
        Self::VMRecoveryRequired,
        Self::DiskImportFailing,
        Self::DiskImageNotFound,
        Self::DiskQuotaExceeded,
        Self::DiskUnschedulable,
        Self::DiskClaimFailing,
        Self::Unschedulable,
        Self::DiskNotFound,
        Self::LauncherImageFailed,
        Self::LauncherFailed,
        Self::StartFailing,
        Self::VMPaused,
        Self::GuestAgentUnsupported,
        Self::VMUnknown,
        Self::VMHalted,
        Self::DiskFailed,
        Self::GuestEnded,
    ];
}

/// The state of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InfraState {
    /// The reason.
    pub reason: Reason,
    /// Human-readable message: the object, and its own text.
    pub message: String,
    /// A failed import is tried again: the cause of the failure, reported before, still holds.
    pub is_retry: bool,
    /// It is reported for a moment where nothing is wrong, too: a cause once it has lasted.
    pub is_unconfirmed: bool,
}

impl InfraState {
    fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            is_retry: false,
            is_unconfirmed: false,
        }
    }

    fn unconfirmed(self, is_unconfirmed: bool) -> Self {
        Self {
            is_unconfirmed,
            ..self
        }
    }

    fn retry(self, is_retry: bool) -> Self {
        Self { is_retry, ..self }
    }

    /// It runs.
    pub fn is_ready(&self) -> bool {
        self.reason == Reason::VMRunning
    }

    /// Whether it cannot recover.
    pub fn is_terminal(&self) -> bool {
        matches!(self.reason, Reason::DiskFailed | Reason::GuestEnded)
    }

    /// Whether it is a stage that every VM passes.
    pub fn is_progress(&self) -> bool {
        matches!(
            self.reason,
            Reason::VMStarting
                | Reason::ImportingDisk
                | Reason::WaitingForDisk
                | Reason::WaitingForAddress
                | Reason::VMStopping
        )
    }
}

/// The observed objects of a VM.
#[derive(Debug, Clone, Copy)]
pub struct VmView<'a> {
    /// Its name.
    pub name: &'a str,
    /// `spec.runStrategy`.
    pub run_strategy: &'a str,
    /// The VM's status.
    pub vm: &'a VmStatus,
    /// The VMI's status, if there is a VMI.
    pub vmi: Option<&'a VmiStatus>,
    /// The VMI is being deleted: its end is not that of the VM, which KubeVirt starts again.
    pub is_vmi_deleting: bool,
    /// Its DataVolumes, by name.
    pub disks: &'a [(&'a str, &'a DataVolumeStatus)],
}

impl<'a> VmView<'a> {
    /// The condition of that type and status, on the VMI or mirrored on the VM.
    fn condition(&self, kind: &str, status: &str) -> Option<&'a Condition> {
        let conditions = self.vmi.map(|vmi| vmi.conditions.as_slice()).unwrap_or_default();
        find(conditions, kind, status).or_else(|| find(&self.vm.conditions, kind, status))
    }

    fn is_running(&self) -> bool {
        self.vmi.is_some_and(|vmi| vmi.phase == "Running")
    }
}

/// The root cause why a VM does not run.
pub fn root_cause(view: VmView<'_>) -> InfraState {
    if let Some(stopping) = stage::stopping(view) {
        return stopping;
    }
    let in_the_way = vm_failure(view)
        .or_else(|| disks::trouble(view))
        .or_else(|| disks::progress(view))
        .or_else(|| launcher::trouble(view));
    if let Some(end) = guest::ended(view) {
        // The guest does not start again, whatever else is wrong; but that may be why it ended.
        return match in_the_way.filter(|cause| !cause.is_progress()) {
            Some(cause) if cause.is_terminal() => cause,
            Some(cause) => InfraState::new(
                end.reason,
                format!("{}; before that, {}", end.message, cause.message),
            ),
            None => end,
        };
    }
    in_the_way
        .or_else(|| guest::paused(view))
        .unwrap_or_else(|| stage::stage(view))
}

/// A condition's reason and message.
fn reason_and_message(condition: &Condition) -> String {
    match (condition.reason.as_str(), condition.message.as_str()) {
        ("", message) => message.to_owned(),
        (reason, "") => reason.to_owned(),
        (reason, message) => format!("{reason}: {message}"),
    }
}

/// Whether a message is the API server's for a ResourceQuota.
fn is_about_quota(condition: &Condition) -> bool {
    condition.reason == "ErrExceededQuota" || condition.message.contains("exceeded quota")
}

fn vm_failure(view: VmView<'_>) -> Option<InfraState> {
    let conditions = &view.vm.conditions;
    let (condition, reason) = match find(conditions, "Failure", "True") {
        Some(failure) => {
            let reason = match failure.reason.as_str() {
                "FailedFindInstancetype" => Reason::InstancetypeNotFound,
                "FailedFindPreference" => Reason::PreferenceNotFound,
                _ if is_about_quota(failure) => Reason::QuotaExceeded,
                _ => Reason::VMFailure,
            };
            (failure, reason)
        }
        // It prevents a VM from starting, not from running.
        None if view.is_running() => return None,
        None => (
            find(conditions, "ManualRecoveryRequired", "True")?,
            Reason::VMRecoveryRequired,
        ),
    };
    Some(InfraState::new(
        reason,
        format!("VirtualMachine {}: {}", view.name, reason_and_message(condition)),
    ))
}
