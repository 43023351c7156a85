//! The pod that the guest runs in.

use super::{InfraState, Reason, Sight, is_about_quota, said};

/// What keeps the pod from being made, or from finding a node.
pub(super) fn trouble(sight: Sight<'_>) -> Option<InfraState> {
    if let Some(synchronized) = sight.condition("Synchronized", "False") {
        let reason = match synchronized.reason.as_str() {
            "ErrImagePull" | "ImagePullBackOff" => Reason::LauncherImageFailed,
            "FailedPvcNotFound" => Reason::DiskNotFound,
            "FailedDataVolumeImport" => Reason::DiskImportFailing,
            _ if is_about_quota(synchronized) => Reason::QuotaExceeded,
            _ => Reason::LauncherFailed,
        };
        let message = format!("VirtualMachineInstance {}: {}", sight.name, said(synchronized));
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
