//! A plan: which writes to make, in order, and when to reconcile again.

use std::time::Duration;

use serde_json::Value;

use super::snapshot::types::Texts;
use crate::cache::Template;
use crate::telemetry::events::Event;

/// One write. Each is safe to repeat, and guarded by the UID and resourceVersion of what it was decided from.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Merge-patch the deployment.
    PatchDeployment(Value),
    /// Give the deployment this template, and take the annotation away that asked for it.
    RollBack(Template),
    /// Merge-patch the deployment's status.
    PatchStatus(Value),
    /// Make a set.
    CreateSet(Box<NewSet>),
    /// Merge-patch the set of that name and UID.
    PatchSet {
        /// Name of the set.
        name: String,
        /// UID of the set.
        uid: String,
        /// The patch.
        patch: Value,
    },
    /// Give the set this template, byte for byte: it means the same as its own.
    CopyTemplate {
        /// Name of the set.
        name: String,
        /// UID of the set.
        uid: String,
        /// The template.
        template: Template,
    },
    /// Delete the set of that name and UID.
    DeleteSet {
        /// Name of the set.
        name: String,
        /// UID of the set.
        uid: String,
    },
    /// Tell a person.
    Event(Event),
}

impl Step {
    /// What it does, for logs and messages.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::PatchDeployment(_) => "patch the MachineDeployment",
            Self::RollBack(_) => "roll the MachineDeployment back",
            Self::PatchStatus(_) => "patch the MachineDeployment's status",
            Self::CreateSet(_) => "create the MachineSet",
            Self::PatchSet { .. } => "patch the MachineSet",
            Self::CopyTemplate { .. } => "copy the template into the MachineSet",
            Self::DeleteSet { .. } => "delete the old MachineSet",
            Self::Event(_) => "record an Event",
        }
    }

    /// Name of the set that it changes; empty if it is the deployment.
    pub fn object(&self) -> &str {
        match self {
            Self::CreateSet(set) => &set.name,
            Self::PatchSet { name, .. } | Self::CopyTemplate { name, .. } | Self::DeleteSet { name, .. } => {
                name
            }
            Self::PatchDeployment(_) | Self::RollBack(_) | Self::PatchStatus(_) | Self::Event(_) => "",
        }
    }
}

/// A set to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct NewSet {
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: Texts,
    /// Annotations.
    pub annotations: Texts,
    /// Selector.
    pub selector: Value,
    /// Template.
    pub template: Template,
    /// Size.
    pub replicas: i32,
    /// `spec.minReadySeconds`.
    pub min_ready_seconds: i32,
}

/// What to do for one deployment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// Writes, in order; the first that fails ends the plan.
    pub steps: Vec<Step>,
    /// When to reconcile again, if nothing happens before.
    pub again: Option<Duration>,
    /// How its rollout goes while these writes are made, for the log.
    pub why: String,
}

impl Plan {
    /// Reconciles again after `delay`, unless that is planned earlier anyway.
    pub fn requeue_after(&mut self, delay: Duration) {
        self.again = Some(self.again.map_or(delay, |planned| planned.min(delay)));
    }
}
