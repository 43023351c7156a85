//! The pod that the guest runs in.

use super::{InfraState, Reason, VmView, is_about_quota, reason_and_message};

/// Errors that prevent the pod from being created or scheduled.
pub(super) fn trouble(view: VmView<'_>) -> Option<InfraState> {
    if let Some(synchronized) = view.condition("Synchronized", "False") {
        let reason = match synchronized.reason.as_str() {
            "ErrImagePull" | "ImagePullBackOff" => Reason::LauncherImageFailed,
            "FailedPvcNotFound" => Reason::DiskNotFound,
            "FailedDataVolumeImport" => Reason::DiskImportFailing,
            _ if is_about_quota(synchronized) => Reason::QuotaExceeded,
            _ => Reason::LauncherFailed,
        };
        let message = format!(
            "VirtualMachineInstance {}: {}",
            view.name,
            reason_and_message(synchronized)
        );
        return Some(InfraState::new(reason, message));
    }
    let unscheduled = view
        .condition("PodScheduled", "False")
        .filter(|condition| condition.reason == "Unschedulable")?;
    Some(InfraState::new(
        Reason::Unschedulable,
        format!("VirtualMachineInstance {}: {}", view.name, unscheduled.message),
    ))
}
