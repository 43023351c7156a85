//! Why a condition of a Machine has its status: a closed list, with the texts that are part of the API.

use k8s_openapi::api::core::v1::NodeCondition;

reasons! {
/// Why a condition has its status. KubeVirt's root causes are in `machinist_shared::kubevirt::root_cause`.
#[allow(missing_docs, reason = "the texts say it")]
pub enum Reason {
    // Ready
    NodeReady = "NodeReady",
    // InfrastructureReachable
    Reachable = "Reachable",
    Connecting = "Connecting",
    Unreachable = "Unreachable",
    WatchForbidden = "WatchForbidden",
    CacheFull = "CacheFull",
    // InfrastructureReady
    NameTaken = "NameTaken",
    NodeNameTaken = "NodeNameTaken",
    VMNameTaken = "VMNameTaken",
    DiskNameTaken = "DiskNameTaken",
    WaitingForDisks = "WaitingForDisks",
    InvalidSpec = "InvalidSpec",
    ReferenceNotFound = "ReferenceNotFound",
    WaitingForReference = "WaitingForReference",
    WaitingForInfrastructure = "WaitingForInfrastructure",
    WaitingToStart = "WaitingToStart",
    ClockSkew = "ClockSkew",
    RecreationBackOff = "RecreationBackOff",
    InfrastructureChanged = "InfrastructureChanged",
    PlacementUnknown = "PlacementUnknown",
    FactsUnavailable = "FactsUnavailable",
    Creating = "Creating",
    CreateFailed = "CreateFailed",
    VMTerminating = "VMTerminating",
    VMVanished = "VMVanished",
    VMDeleted = "VMDeleted",
    // BootstrapReady
    DataReady = "DataReady",
    Joined = "Joined",
    WaitingForVM = "WaitingForVM",
    WaitingForBootstrapSecret = "WaitingForBootstrapSecret",
    BootstrapSecretRevision = "BootstrapSecretRevision",
    BootstrapFailed = "BootstrapFailed",
    BootstrapTokenExpired = "BootstrapTokenExpired",
    // NodeReady
    NodeNotReady = "NodeNotReady",
    NodeDeleted = "NodeDeleted",
    WaitingForNode = "WaitingForNode",
    JoinTimeout = "JoinTimeout",
    DecorationFailed = "DecorationFailed",
    ProvisioningTimeout = "ProvisioningTimeout",
    // ServingCertificate
    CertificatePending = "CertificatePending",
    CertificateRefused = "CertificateRefused",
    ApprovalFailed = "ApprovalFailed",
    // Evacuating
    HostDraining = "HostDraining",
    WaitingForReplacement = "WaitingForReplacement",
    HostDrained = "HostDrained",
    LiveMigrating = "LiveMigrating",
    NotMigratable = "NotMigratable",
    // Drained
    NodeDrained = "NodeDrained",
    Draining = "Draining",
    EvictionBlocked = "EvictionBlocked",
    DrainSkipped = "DrainSkipped",
    // VolumesDetached
    VolumesDetached = "VolumesDetached",
    VolumesAttached = "VolumesAttached",
    VolumeDetachSkipped = "VolumeDetachSkipped",
    // Deleting
    WaitingForPreDrainHook = "WaitingForPreDrainHook",
    WaitingForOtherDrains = "WaitingForOtherDrains",
    DrainingNode = "DrainingNode",
    WaitingForVolumeDetach = "WaitingForVolumeDetach",
    WaitingForPreTerminateHook = "WaitingForPreTerminateHook",
    WaitingForVMDeletion = "WaitingForVMDeletion",
    ReleasingVolumes = "ReleasingVolumes",
    DeletingNode = "DeletingNode",
    DeletionBlocked = "DeletionBlocked",
    DeleteFailed = "DeleteFailed",
}
}

impl Reason {
    /// The reason of a stored condition, if it is one of these.
    pub fn of(stored: &NodeCondition) -> Option<Self> {
        let stored = stored.reason.as_deref()?;
        Self::ALL.iter().copied().find(|reason| reason.as_str() == stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Alerts, dashboards and scripts match these, and so does the version before.
    #[test]
    fn the_texts_are_part_of_the_api() {
        let texts: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        insta::assert_snapshot!(texts.join("\n"));
    }
}
