//! The pod that the guest runs in.

use super::{InfraState, Reason, VmView, is_about_quota, reason_and_message};

/// What keeps the pod from being made, or from finding a node.
pub(super) fn trouble(sight: VmView<'_>) -> Option<InfraState> {
    if let Some(synchronized) = sight.condition("Synchronized", "False") {
        let reason = match synchronized.reason.as_str() {
            "ErrImagePull" | "ImagePullBackOff" => Reason::LauncherImageFailed,
            "FailedPvcNotFound" => Reason::DiskNotFound,
            "FailedDataVolumeImport" => Reason::DiskImportFailing,
            _ if is_about_quota(synchronized) => Reason::QuotaExceeded,
            _ => Reason::LauncherFailed,
        };
        let message = format!(
            "VirtualMachineInstance {}: {}",
            sight.name,
            reason_and_message(synchronized)
        );
        return Some(InfraState::new(reason, message));
    }
    let unscheduled = sight
        .condition("PodScheduled", "False")
        .filter(|condition| condition.reason == "Unschedulable")?;
    Some(InfraState::new(
        Reason::Unschedulable,
        format!("VirtualMachineInstance {}: {}", sight.name, unscheduled.message),
    ))
}
