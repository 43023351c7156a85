//! What of a rollout has to survive a restart: when it last made progress, and whether it was completed.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use machinist_shared::api::{MachineDeploymentStatus, RolloutStatus};

use super::conditions::{self, PROGRESSING, Reason};

/// The state of a rollout, as `status.rollout` has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rollout {
    /// When it last made progress; nothing while it does not go on: paused, halted, or faulty.
    pub last_progress: Option<Timestamp>,
    /// The generation whose rollout was completed.
    pub completed_generation: Option<i64>,
}

impl Rollout {
    /// What is stored; what can be concluded, if the version that wrote the status knew no such field.
    pub fn of(status: &MachineDeploymentStatus) -> Self {
        match &status.rollout {
            Some(stored) => Self {
                last_progress: stored.last_progress_time.as_ref().map(|time| time.0),
                completed_generation: stored.completed_generation,
            },
            None => legacy(status),
        }
    }

    /// That generation, if its rollout was completed.
    pub fn completed(&self, generation: i64) -> Option<i64> {
        self.completed_generation
            .filter(|completed| *completed == generation)
    }

    /// As it is stored.
    pub fn status(&self) -> RolloutStatus {
        RolloutStatus {
            last_progress_time: self.last_progress.map(Time),
            completed_generation: self.completed_generation,
        }
    }
}

/// What the condition `Progressing` says of a rollout, as versions wrote it that had nothing else to go by.
fn legacy(status: &MachineDeploymentStatus) -> Rollout {
    let stored = status.conditions.as_deref().unwrap_or_default();
    let is = |reason: &Reason| conditions::has_reason(stored, PROGRESSING, *reason);
    let goes_on = [
        Reason::NewMachineSetCreated,
        Reason::MachineSetUpdated,
        Reason::NewMachineSetAvailable,
        Reason::ProgressDeadlineExceeded,
    ]
    .iter()
    .any(is);
    let updated = conditions::find(stored, PROGRESSING).and_then(|found| found.last_update_time.as_ref());
    Rollout {
        last_progress: updated.filter(|_| goes_on).map(|time| time.0),
        completed_generation: status
            .observed_generation
            .filter(|_| is(&Reason::NewMachineSetAvailable)),
    }
}
