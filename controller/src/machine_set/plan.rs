//! A plan: which writes to make for a MachineSet, in order, and when to reconcile again.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::cache::StoredMachine;
use crate::telemetry::events::Event;

/// One kind of write. Each is safe to repeat, and guarded by the UID or resourceVersion of what it was decided from.
#[derive(Debug, Clone)]
pub enum Step {
    /// Merge-patch the set, on condition of its resourceVersion.
    PatchSet(Value),
    /// Let go of Machines that the selector no longer selects.
    Release(Vec<Arc<StoredMachine>>),
    /// Take Machines without a controller.
    Adopt(Vec<Arc<StoredMachine>>),
    /// Make so many Machines.
    Create(usize),
    /// Delete these Machines.
    Delete(Vec<Arc<StoredMachine>>),
    /// Merge-patch these Machines: what is only on their Nodes is another.
    ChangeInPlace(Vec<(Arc<StoredMachine>, Value)>),
    /// Merge-patch the set's status.
    Status(Value),
    /// Tell a person.
    Event(Event),
}

impl Step {
    /// What one write of it does, for logs and messages.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::PatchSet(_) => "patch the MachineSet",
            Self::Release(_) => "release the Machine",
            Self::Adopt(_) => "adopt the Machine",
            Self::Create(_) => "create the Machine",
            Self::Delete(_) => "delete the Machine",
            Self::ChangeInPlace(_) => "change the Machine in place",
            Self::Status(_) => "patch the status of the MachineSet",
            Self::Event(_) => "record an Event",
        }
    }

    /// How `status.errorReason` shows that it failed.
    pub fn failure(&self) -> &'static str {
        match self {
            Self::Create(_) => "CreateError",
            Self::Delete(_) => "DeleteError",
            _ => "UpdateError",
        }
    }

    /// Whether it changes Machines or the set itself, and not only what is shown.
    pub fn is_work(&self) -> bool {
        !matches!(self, Self::Status(_) | Self::Event(_))
    }
}

/// What to do for one MachineSet.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Writes, in order.
    pub steps: Vec<Step>,
    /// When to reconcile again, if nothing happens before.
    pub again: Option<Duration>,
    /// Whether more is known to be done than one plan holds.
    pub more: bool,
    /// Whether a failure that was observed no longer matters.
    pub forgive: bool,
    /// How many Machines there shall be and how many there are while these writes are made, for the log.
    pub why: String,
}
