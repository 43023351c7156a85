//! KubeVirt's and CDI's tables of states, row by row.

use super::{Row, With, always, phase, printed, row, running};
use crate::kubevirt::root_cause::Reason;
use serde_json::{Value, json};

/// The tables. A reason that is named in a row is a row of its own here.
pub(super) const TABLES: &[(&str, &[&str])] = &[
    (
        "11.1",
        &[
            "Terminating",
            "Stopping",
            "Migrating",
            "Paused",
            "Running",
            "ErrorPvcNotFound",
            "DataVolumeError",
            "ErrorUnschedulable",
            "Provisioning",
            "WaitingForVolumeBinding",
            "ErrImagePull",
            "ImagePullBackOff",
            "Starting",
            "CrashLoopBackOff-Always",
            "CrashLoopBackOff-tried-again",
            "CrashLoopBackOff-in-between",
            "CrashLoopBackOff-Once",
            "Stopped-young",
            "Stopped-after-a-run",
            "WaitingForReceiver",
            "Unknown",
        ],
    ),
    (
        "11.2",
        &[
            "Ready-VMINotExists",
            "Ready-VMIConditionMissing",
            "Failure-FailedCreate",
            "Failure-FailedCreate-quota",
            "Failure-FailedDelete",
            "Failure-FailedFindInstancetype",
            "Failure-FailedFindPreference",
            "Failure-FailedUpdateError",
            "Failure-HotPlugCPUError",
            "RestartRequired",
            "ManualRecoveryRequired",
            "mirrored",
        ],
    ),
    (
        "11.3",
        &[
            "none",
            "Pending",
            "Scheduling",
            "Scheduled",
            "Running",
            "Succeeded-Once",
            "Succeeded-Always",
            "Failed-Once",
            "Failed-Always",
            "WaitingForSync",
            "Unknown",
        ],
    ),
    (
        "11.4",
        &[
            "Ready-PodNotExists",
            "Ready-PodTerminating",
            "Ready-GuestNotRunning",
            "Ready-PodConditionMissing",
            "Synchronized-FailedCreate",
            "Synchronized-FailedCreate-quota",
            "Synchronized-FailedDelete",
            "Synchronized-FailedPvcNotFound",
            "Synchronized-FailedDataVolumeImport",
            "Synchronized-ErrImagePull",
            "Synchronized-ImagePullBackOff",
            "Synchronized-FailedBackendStorageCreate",
            "Synchronized-BackendStorageNotReady",
            "Synchronized-FailedGuaranteeResources",
            "Synchronized-FailedCreateValidation",
            "Synchronized-FailedHotplugSync",
            "PodScheduled",
            "Provisioning",
            "DataVolumesReady-AllDVsReady",
            "DataVolumesReady-NotAllDVsReady",
            "Paused-PausedByUser",
            "Paused-PausedByMigrationMonitor",
            "Paused-PausedIOError",
            "AgentConnected",
            "AgentVersionNotSupported",
            "AccessCredentialsSynchronized",
            "LiveMigratable",
            "informational",
            "EvictionRequested",
        ],
    ),
    (
        "11.5",
        &[
            "none",
            "Pending",
            "PVCBound",
            "WaitForFirstConsumer",
            "PendingPopulation",
            "ImportScheduled",
            "ImportInProgress",
            "CloneScheduled",
            "CloneInProgress",
            "SnapshotForSmartCloneInProgress",
            "CloneFromSnapshotSourceInProgress",
            "SmartClonePVCInProgress",
            "CSICloneInProgress",
            "ExpansionInProgress",
            "NamespaceTransferInProgress",
            "PrepClaimInProgress",
            "RebindInProgress",
            "UploadScheduled",
            "UploadReady",
            "Paused",
            "Succeeded",
            "Failed",
            "Unknown",
            "Bound-True",
            "Bound-Pending",
            "Bound-Claim-Pending",
            "Bound-ErrExceededQuota",
            "Bound-ErrClaimNotValid",
            "Bound-ClaimLost",
            "Bound-NotFound",
            "Running-True",
            "Running-Unschedulable",
            "Running-ImagePullFailed",
            "Running-Error",
            "Running-ChecksumError",
            "Running-Scratch-space-required",
            "Running-ContainerCreating",
            "Running-Completed",
            "Running-OOMKilled",
            "Running-ErrExceededQuota",
            "Ready",
            "restartCount",
        ],
    ),
];

pub(super) fn rows() -> Vec<Row> {
    let tables = [
        printable_statuses(),
        later_printable_statuses(),
        vm_conditions(),
        vmi_phases(),
        vmi_conditions(),
        more_vmi_conditions(),
        data_volumes(),
        data_volume_conditions(),
    ];
    tables.into_iter().flatten().collect()
}

fn printable_statuses() -> Vec<Row> {
    let none = || json!(null);
    let alone = |id, status: &str, reason| row(id, printed(status), json!(null), json!(null), reason);
    vec![
        row(
            "11.1/Terminating",
            printed("Terminating"),
            running(),
            none(),
            Reason::VMStopping,
        ),
        row(
            "11.1/Stopping",
            printed("Stopping"),
            phase("Scheduling"),
            none(),
            Reason::VMStopping,
        ),
        row(
            "11.1/Migrating",
            printed("Migrating"),
            running(),
            none(),
            Reason::VMRunning,
        ),
        row(
            "11.1/Paused",
            printed("Paused").with("Paused", "True", "PausedByUser", "VMI was paused by user"),
            running(),
            none(),
            Reason::VMPaused,
        ),
        row(
            "11.1/Running",
            printed("Running"),
            running(),
            none(),
            Reason::VMRunning,
        ),
        alone("11.1/ErrorPvcNotFound", "ErrorPvcNotFound", Reason::DiskNotFound),
        alone(
            "11.1/DataVolumeError",
            "DataVolumeError",
            Reason::DiskImportFailing,
        ),
        row(
            "11.1/ErrorUnschedulable",
            printed("ErrorUnschedulable"),
            phase("Scheduling"),
            none(),
            Reason::Unschedulable,
        ),
        alone("11.1/Provisioning", "Provisioning", Reason::WaitingForDisk),
        always(row(
            "11.1/WaitingForVolumeBinding",
            printed("WaitingForVolumeBinding"),
            phase("Pending"),
            phase("WaitForFirstConsumer"),
            Reason::WaitingForDisk,
        )),
    ]
}

fn later_printable_statuses() -> Vec<Row> {
    let none = || json!(null);
    let alone = |id, status: &str, reason| row(id, printed(status), json!(null), json!(null), reason);
    vec![
        row(
            "11.1/ErrImagePull",
            printed("ErrImagePull"),
            phase("Scheduling"),
            none(),
            Reason::LauncherImageFailed,
        ),
        row(
            "11.1/ImagePullBackOff",
            printed("ImagePullBackOff"),
            phase("Scheduling"),
            none(),
            Reason::LauncherImageFailed,
        ),
        alone("11.1/Starting", "Starting", Reason::VMStarting),
        always(row(
            "11.1/CrashLoopBackOff-Always",
            json!({"printableStatus": "CrashLoopBackOff", "startFailure": {"consecutiveFailCount": 3}}),
            none(),
            none(),
            Reason::StartFailing,
        )),
        always(row(
            "11.1/CrashLoopBackOff-tried-again",
            json!({"printableStatus": "Starting", "startFailure": {"consecutiveFailCount": 3}}),
            phase("Scheduling"),
            none(),
            Reason::StartFailing,
        )),
        always(row(
            "11.1/CrashLoopBackOff-in-between",
            json!({"printableStatus": "Stopped", "startFailure": {"consecutiveFailCount": 3}}),
            none(),
            none(),
            Reason::StartFailing,
        )),
        alone(
            "11.1/CrashLoopBackOff-Once",
            "CrashLoopBackOff",
            Reason::GuestEnded,
        ),
        alone("11.1/Stopped-young", "Stopped", Reason::VMStarting),
        row(
            "11.1/Stopped-after-a-run",
            printed("Stopped"),
            phase("Succeeded"),
            none(),
            Reason::GuestEnded,
        ),
        alone(
            "11.1/WaitingForReceiver",
            "WaitingForReceiver",
            Reason::VMStarting,
        ),
        alone("11.1/Unknown", "Unknown", Reason::VMUnknown),
    ]
}

fn vm_conditions() -> Vec<Row> {
    let alone = |id, vm: Value, reason| row(id, vm, json!(null), json!(null), reason);
    let stopped = || printed("Stopped").with("Ready", "False", "VMINotExists", "VMI does not exist");
    let failure = |id, reason: &str, message: &str, want| {
        alone(id, stopped().with("Failure", "True", reason, message), want)
    };
    vec![
        alone("11.2/Ready-VMINotExists", stopped(), Reason::VMStarting),
        row(
            "11.2/Ready-VMIConditionMissing",
            printed("Starting").with("Ready", "False", "VMIConditionMissing", ""),
            phase("Pending"),
            json!(null),
            Reason::VMStarting,
        ),
        failure(
            "11.2/Failure-FailedCreate",
            "FailedCreate",
            "spec.source Invalid source URL: ubuntu.img",
            Reason::VMFailure,
        ),
        failure(
            "11.2/Failure-FailedCreate-quota",
            "FailedCreate",
            "persistentvolumeclaims \"web-1\" is forbidden: exceeded quota: disks, requested: requests.storage=10Gi",
            Reason::QuotaExceeded,
        ),
        failure(
            "11.2/Failure-FailedDelete",
            "FailedDelete",
            "no",
            Reason::VMFailure,
        ),
        failure(
            "11.2/Failure-FailedFindInstancetype",
            "FailedFindInstancetype",
            "virtualmachineinstancetypes.instancetype.kubevirt.io \"nope\" not found",
            Reason::InstancetypeNotFound,
        ),
        failure(
            "11.2/Failure-FailedFindPreference",
            "FailedFindPreference",
            "virtualmachinepreferences.instancetype.kubevirt.io \"nope\" not found",
            Reason::PreferenceNotFound,
        ),
        failure(
            "11.2/Failure-FailedUpdateError",
            "FailedUpdateError",
            "no",
            Reason::VMFailure,
        ),
        failure(
            "11.2/Failure-HotPlugCPUError",
            "HotPlugCPUError",
            "no",
            Reason::VMFailure,
        ),
        row(
            "11.2/RestartRequired",
            printed("Running").with(
                "RestartRequired",
                "True",
                "RestartRequired",
                "a field was changed",
            ),
            running(),
            json!(null),
            Reason::VMRunning,
        ),
        alone(
            "11.2/ManualRecoveryRequired",
            stopped().with(
                "ManualRecoveryRequired",
                "True",
                "VolumesUpdateError",
                "recover the volume",
            ),
            Reason::VMRecoveryRequired,
        ),
        row(
            "11.2/mirrored",
            printed("ErrorUnschedulable").with(
                "PodScheduled",
                "False",
                "Unschedulable",
                "0/1 nodes are available",
            ),
            phase("Scheduling"),
            phase("Succeeded"),
            Reason::Unschedulable,
        ),
    ]
}

fn vmi_phases() -> Vec<Row> {
    let of = |id, vmi: Value, reason| row(id, json!({}), vmi, phase("Succeeded"), reason);
    vec![
        of("11.3/none", json!({}), Reason::VMStarting),
        of("11.3/Pending", phase("Pending"), Reason::VMStarting),
        of("11.3/Scheduling", phase("Scheduling"), Reason::VMStarting),
        of("11.3/Scheduled", phase("Scheduled"), Reason::VMStarting),
        of("11.3/Running", running(), Reason::VMRunning),
        of("11.3/Succeeded-Once", phase("Succeeded"), Reason::GuestEnded),
        always(of(
            "11.3/Succeeded-Always",
            phase("Succeeded"),
            Reason::StartFailing,
        )),
        of(
            "11.3/Failed-Once",
            json!({"phase": "Failed", "reason": "NodeUnresponsive"}),
            Reason::GuestEnded,
        ),
        always(of("11.3/Failed-Always", phase("Failed"), Reason::StartFailing)),
        of("11.3/WaitingForSync", phase("WaitingForSync"), Reason::VMStarting),
        of("11.3/Unknown", phase("Unknown"), Reason::VMUnknown),
    ]
}

fn vmi_conditions() -> Vec<Row> {
    let of = |id, vmi: Value, reason| row(id, json!({}), vmi, phase("Succeeded"), reason);
    let not_ready = |id, reason: &str| {
        of(
            id,
            phase("Scheduling").with("Ready", "False", reason, ""),
            Reason::VMStarting,
        )
    };
    let unsynchronized = |id, reason: &str, message: &str, want| {
        of(
            id,
            phase("Pending").with("Synchronized", "False", reason, message),
            want,
        )
    };
    let noted = |id, kind: &str, status: &str, reason: &str| {
        of(id, running().with(kind, status, reason, ""), Reason::VMRunning)
    };
    vec![
        not_ready("11.4/Ready-PodNotExists", "PodNotExists"),
        noted("11.4/Ready-PodTerminating", "Ready", "False", "PodTerminating"),
        not_ready("11.4/Ready-GuestNotRunning", "GuestNotRunning"),
        not_ready("11.4/Ready-PodConditionMissing", "PodConditionMissing"),
        unsynchronized(
            "11.4/Synchronized-FailedCreate",
            "FailedCreate",
            "violates PodSecurity",
            Reason::LauncherFailed,
        ),
        unsynchronized(
            "11.4/Synchronized-FailedCreate-quota",
            "FailedCreate",
            "pods \"virt-launcher-web-1-x\" is forbidden: exceeded quota: cpus, requested: limits.cpu=2",
            Reason::QuotaExceeded,
        ),
        unsynchronized(
            "11.4/Synchronized-FailedDelete",
            "FailedDelete",
            "no",
            Reason::LauncherFailed,
        ),
        unsynchronized(
            "11.4/Synchronized-FailedPvcNotFound",
            "FailedPvcNotFound",
            "PVC a/b does not exist",
            Reason::DiskNotFound,
        )
        .also("PodScheduled", "Unschedulable"),
        unsynchronized(
            "11.4/Synchronized-FailedDataVolumeImport",
            "FailedDataVolumeImport",
            "no",
            Reason::DiskImportFailing,
        ),
        unsynchronized(
            "11.4/Synchronized-ErrImagePull",
            "ErrImagePull",
            "rpc error: not found",
            Reason::LauncherImageFailed,
        ),
        unsynchronized(
            "11.4/Synchronized-ImagePullBackOff",
            "ImagePullBackOff",
            "back-off",
            Reason::LauncherImageFailed,
        ),
        unsynchronized(
            "11.4/Synchronized-FailedBackendStorageCreate",
            "FailedBackendStorageCreate",
            "no",
            Reason::LauncherFailed,
        ),
        unsynchronized(
            "11.4/Synchronized-BackendStorageNotReady",
            "BackendStorageNotReady",
            "no",
            Reason::LauncherFailed,
        ),
        unsynchronized(
            "11.4/Synchronized-FailedGuaranteeResources",
            "FailedGuaranteeResources",
            "no",
            Reason::LauncherFailed,
        ),
        unsynchronized(
            "11.4/Synchronized-FailedCreateValidation",
            "FailedCreateValidation",
            "no",
            Reason::LauncherFailed,
        ),
        unsynchronized(
            "11.4/Synchronized-FailedHotplugSync",
            "FailedHotplugSync",
            "no",
            Reason::LauncherFailed,
        ),
    ]
}

fn more_vmi_conditions() -> Vec<Row> {
    let of = |id, vmi: Value, reason| row(id, json!({}), vmi, phase("Succeeded"), reason);
    let paused = |id, reason: &str| of(id, running().with("Paused", "True", reason, ""), Reason::VMPaused);
    let noted = |id, kind: &str, status: &str, reason: &str| {
        of(id, running().with(kind, status, reason, ""), Reason::VMRunning)
    };
    vec![
        of(
            "11.4/PodScheduled",
            phase("Scheduling").with(
                "PodScheduled",
                "False",
                "Unschedulable",
                "0/1 nodes are available",
            ),
            Reason::Unschedulable,
        ),
        row(
            "11.4/Provisioning",
            json!({}),
            phase("Pending").with("Provisioning", "True", "", ""),
            phase("WaitForFirstConsumer"),
            Reason::VMStarting,
        ),
        noted(
            "11.4/DataVolumesReady-AllDVsReady",
            "DataVolumesReady",
            "True",
            "AllDVsReady",
        ),
        row(
            "11.4/DataVolumesReady-NotAllDVsReady",
            json!({}),
            phase("Pending").with("DataVolumesReady", "False", "NotAllDVsReady", ""),
            phase("PendingPopulation"),
            Reason::VMStarting,
        ),
        paused("11.4/Paused-PausedByUser", "PausedByUser"),
        paused("11.4/Paused-PausedByMigrationMonitor", "PausedByMigrationMonitor"),
        paused("11.4/Paused-PausedIOError", "PausedIOError"),
        of(
            "11.4/AgentConnected",
            phase("Running").with("AgentConnected", "True", "", ""),
            Reason::WaitingForAddress,
        ),
        of(
            "11.4/AgentVersionNotSupported",
            phase("Running").with(
                "AgentVersionNotSupported",
                "True",
                "",
                "guest agent 1.0 is too old",
            ),
            Reason::GuestAgentUnsupported,
        ),
        noted(
            "11.4/AccessCredentialsSynchronized",
            "AccessCredentialsSynchronized",
            "False",
            "",
        ),
        noted(
            "11.4/LiveMigratable",
            "LiveMigratable",
            "False",
            "DisksNotLiveMigratable",
        ),
        noted("11.4/informational", "SoftwareEmulation", "True", ""),
        noted(
            "11.4/EvictionRequested",
            "EvictionRequested",
            "True",
            "EvictionRequested",
        ),
    ]
}

fn data_volumes() -> Vec<Row> {
    let of = |id, disk: Value, reason| row(id, printed("Provisioning"), json!(null), disk, reason);
    let importing = |id, name: &str| of(id, phase(name), Reason::ImportingDisk);
    let waiting = |id, name: &str| of(id, phase(name), Reason::WaitingForDisk);
    let starting = |id, name: &str| {
        row(
            id,
            printed("Starting"),
            phase("Pending"),
            phase(name),
            Reason::VMStarting,
        )
    };
    vec![
        of("11.5/none", json!({}), Reason::WaitingForDisk),
        waiting("11.5/Pending", "Pending"),
        waiting("11.5/PVCBound", "PVCBound"),
        starting("11.5/WaitForFirstConsumer", "WaitForFirstConsumer"),
        starting("11.5/PendingPopulation", "PendingPopulation"),
        importing("11.5/ImportScheduled", "ImportScheduled"),
        importing("11.5/ImportInProgress", "ImportInProgress"),
        importing("11.5/CloneScheduled", "CloneScheduled"),
        importing("11.5/CloneInProgress", "CloneInProgress"),
        importing(
            "11.5/SnapshotForSmartCloneInProgress",
            "SnapshotForSmartCloneInProgress",
        ),
        importing(
            "11.5/CloneFromSnapshotSourceInProgress",
            "CloneFromSnapshotSourceInProgress",
        ),
        importing("11.5/SmartClonePVCInProgress", "SmartClonePVCInProgress"),
        importing("11.5/CSICloneInProgress", "CSICloneInProgress"),
        importing("11.5/ExpansionInProgress", "ExpansionInProgress"),
        importing("11.5/NamespaceTransferInProgress", "NamespaceTransferInProgress"),
        importing("11.5/PrepClaimInProgress", "PrepClaimInProgress"),
        importing("11.5/RebindInProgress", "RebindInProgress"),
        importing("11.5/UploadScheduled", "UploadScheduled"),
        waiting("11.5/UploadReady", "UploadReady"),
        waiting("11.5/Paused", "Paused"),
        starting("11.5/Succeeded", "Succeeded"),
        of("11.5/Failed", phase("Failed"), Reason::DiskFailed),
        waiting("11.5/Unknown", "Unknown"),
    ]
}

fn data_volume_conditions() -> Vec<Row> {
    let of = |id, disk: Value, reason| row(id, printed("Provisioning"), json!(null), disk, reason);
    let bound = |id, reason: &str, want| of(id, phase("Pending").with("Bound", "False", reason, "no"), want);
    let running = |id, reason: &str, want| {
        of(
            id,
            phase("ImportInProgress").with("Running", "False", reason, "no"),
            want,
        )
    };
    vec![
        of(
            "11.5/Bound-True",
            phase("ImportInProgress").with("Bound", "True", "Bound", ""),
            Reason::ImportingDisk,
        ),
        bound("11.5/Bound-Pending", "Pending", Reason::WaitingForDisk),
        bound(
            "11.5/Bound-Claim-Pending",
            "Claim Pending",
            Reason::WaitingForDisk,
        ),
        of(
            "11.5/Bound-ErrExceededQuota",
            phase("Pending").with("Bound", "Unknown", "ErrExceededQuota", "exceeded quota"),
            Reason::DiskQuotaExceeded,
        ),
        bound(
            "11.5/Bound-ErrClaimNotValid",
            "ErrClaimNotValid",
            Reason::DiskClaimFailing,
        ),
        bound("11.5/Bound-ClaimLost", "ClaimLost", Reason::DiskClaimFailing),
        bound("11.5/Bound-NotFound", "NotFound", Reason::WaitingForDisk),
        of(
            "11.5/Running-True",
            phase("ImportInProgress").with("Running", "True", "Pod is running", ""),
            Reason::ImportingDisk,
        ),
        running(
            "11.5/Running-Unschedulable",
            "Unschedulable",
            Reason::DiskUnschedulable,
        ),
        running(
            "11.5/Running-ImagePullFailed",
            "ImagePullFailed",
            Reason::DiskImageNotFound,
        ),
        running("11.5/Running-Error", "Error", Reason::DiskImportFailing),
        running(
            "11.5/Running-ChecksumError",
            "ChecksumError",
            Reason::DiskImportFailing,
        ),
        running(
            "11.5/Running-Scratch-space-required",
            "Scratch space required",
            Reason::ImportingDisk,
        ),
        running(
            "11.5/Running-ContainerCreating",
            "ContainerCreating",
            Reason::ImportingDisk,
        ),
        running("11.5/Running-Completed", "Completed", Reason::ImportingDisk),
        running("11.5/Running-OOMKilled", "OOMKilled", Reason::DiskImportFailing),
        running(
            "11.5/Running-ErrExceededQuota",
            "ErrExceededQuota",
            Reason::DiskQuotaExceeded,
        ),
        of(
            "11.5/Ready",
            phase("ImportInProgress").with("Ready", "False", "TransferRunning", ""),
            Reason::ImportingDisk,
        ),
        of(
            "11.5/restartCount",
            json!({"phase": "ImportInProgress", "restartCount": 3}),
            Reason::DiskImportFailing,
        ),
    ]
}
