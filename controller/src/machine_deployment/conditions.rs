//! Conditions of a MachineDeployment: whether it has what it needs, and how its rollout goes.

use k8s_openapi::jiff::Timestamp;
use machinist_shared::api::MachineDeploymentCondition;

use crate::kstatus::{self, Desired};

/// Enough Machines are available.
pub const AVAILABLE: &str = "Available";
/// The rollout goes on, or is done.
pub const PROGRESSING: &str = "Progressing";
/// Others select its Machines, or it theirs. There only while that is so.
pub const SELECTOR_OVERLAP: &str = "SelectorOverlap";
/// How the last rollback that was asked for ended.
pub const ROLLED_BACK: &str = "RolledBack";

reasons! {
/// Why a condition has its status. The texts are part of the API.
pub enum Reason {
    /// At least `replicas` less `maxUnavailable` are available.
    MinimumReplicasAvailable = "MinimumReplicasAvailable",
    /// Fewer are.
    MinimumReplicasUnavailable = "MinimumReplicasUnavailable",
    /// A set for the template has been made.
    NewMachineSetCreated = "NewMachineSetCreated",
    /// Machines come and go.
    MachineSetUpdated = "MachineSetUpdated",
    /// All Machines are of the template, and available.
    NewMachineSetAvailable = "NewMachineSetAvailable",
    /// They were, and some are not available any more.
    MachinesUnavailable = "MachinesUnavailable",
    /// Nothing has moved for `progressDeadlineSeconds`.
    ProgressDeadlineExceeded = "ProgressDeadlineExceeded",
    /// `spec.paused`.
    DeploymentPaused = "DeploymentPaused",
    /// Machines of the template fail to join and none ever has: nothing more is replaced.
    RolloutHalted = "RolloutHalted",
    /// Machines of older templates wait to be deleted by a person (strategy OnDelete).
    WaitingForDeletion = "WaitingForDeletion",
    /// Nothing can be decided from the spec.
    InvalidSpec = "InvalidSpec",
    /// A write was refused or failed.
    WriteFailed = "WriteFailed",
    /// The API server stores its new MachineSets otherwise than it sends them.
    MachineSetChangedAtAdmission = "MachineSetChangedAtAdmission",
    /// Too many MachineSets that it has created are not its own.
    TooManyCreations = "TooManyCreations",
    /// Another MachineDeployment selects the same Machines.
    SelectorOverlap = "SelectorOverlap",
    /// The template of that revision is back.
    RevisionRestored = "RevisionRestored",
    /// There is no such revision.
    RevisionNotFound = "RevisionNotFound",
    /// The template of that revision is not valid any more, or is not allowed.
    RollbackRefused = "RollbackRefused",
}
}

/// A condition as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// `True`, `False` or `Unknown`.
    pub status: &'static str,
    /// Why.
    pub reason: Reason,
    /// For a person. Never holds a secret.
    pub message: String,
}

impl Verdict {
    /// A condition as it should be.
    pub fn new(status: &'static str, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            status,
            reason,
            message: message.into(),
        }
    }
}

/// The condition of that type.
pub fn find<'a>(
    conditions: &'a [MachineDeploymentCondition],
    kind: &str,
) -> Option<&'a MachineDeploymentCondition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Whether the condition of that type has this reason.
pub fn has_reason(conditions: &[MachineDeploymentCondition], kind: &str, reason: Reason) -> bool {
    find(conditions, kind).is_some_and(|condition| condition.reason.as_deref() == Some(reason.as_str()))
}

/// Puts a verdict into the conditions. `updated` is when something last happened that it reports; by default, the time at
/// which status, reason or message changed.
pub fn put(
    conditions: &mut Vec<MachineDeploymentCondition>,
    kind: &str,
    verdict: &Verdict,
    updated: Option<Timestamp>,
    now: Timestamp,
) {
    let desired = Desired {
        kind,
        status: verdict.status,
        reason: verdict.reason.as_str(),
        message: &verdict.message,
    };
    kstatus::put(conditions, desired, updated, now);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_are_part_of_the_api() {
        let texts: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        insta::assert_snapshot!(texts.join("\n"));
    }
}
