//! A plan: which writes to make, in order, and when to reconcile again.

use std::time::Duration;

use serde_json::Value;

use super::drain::target::Target;
use super::node_conflicts::Item;
pub use crate::telemetry::events::Event;

/// One write. Each is safe to repeat, and guarded by the UID or resourceVersion of what it was decided from.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Merge-patch the Machine, on condition of its resourceVersion.
    PatchMachine(Value),
    /// Make the Machine's bootstrap token.
    CreateToken,
    /// Give the bootstrap token more time.
    ExtendToken,
    /// Delete the bootstrap token, and all others that are bound to the Machine.
    DeleteToken,
    /// Delete all others that are bound to the Machine.
    DeleteSpareTokens,
    /// Render the user data, so that nothing is made for a guest that could not be given any.
    RenderUserData(UserDataSource),
    /// Create the VirtualMachine.
    CreateVm,
    /// Find out again whether there is a VM of the Machine's name.
    FindVm,
    /// Create the Secret with the user data, owned by the VM of that UID.
    CreateUserData {
        /// UID of the VM.
        vm_uid: String,
    },
    /// Delete the Secret of that name with the user data of a VM that is gone.
    DeleteUserData(String),
    /// Put our labels onto an adopted VM, on condition of its resourceVersion.
    LabelVm {
        /// UID of the VM.
        uid: String,
        /// resourceVersion of the VM.
        resource_version: String,
    },
    /// Delete the VM of that UID.
    DeleteVm {
        /// UID of the VM.
        uid: String,
    },
    /// Merge-patch the Node of that UID.
    PatchNode {
        /// UID of the Node.
        uid: String,
        /// The patch.
        patch: Value,
        /// What the Machine puts onto it.
        puts: Vec<Item>,
    },
    /// Watch the pods of the Machine's Node.
    WatchPods,
    /// Evict these pods; refusals are noted.
    EvictPods(Vec<Target>),
    /// Find out to which claims these volumes belong.
    LookUpVolumes(Vec<String>),
    /// Delete the Node of that UID.
    DeleteNode {
        /// UID of the Node.
        uid: String,
    },
    /// Approve the request of that name and UID for the Node's serving certificate.
    ApproveServing {
        /// Name of the request.
        name: String,
        /// UID of the request.
        uid: String,
    },
    /// Tell once why that request is not approved.
    RefuseServing {
        /// Name of the request.
        name: String,
        /// UID of the request.
        uid: String,
        /// Why, for a person.
        reason: String,
    },
    /// Note on the MachineSet of that UID that this Machine did not join: its MachineDeployment must know that after the
    /// Machine is gone.
    NoteFailure {
        /// Name of the set.
        set: String,
        /// UID of the set.
        uid: String,
        /// Why, for a person.
        message: String,
    },
    /// Delete the Machine, for its MachineSet to replace it, if its VM's guest of that UID still is to leave that host and
    /// enough others are there.
    Evacuate {
        /// UID of the guest.
        uid: String,
        /// The host.
        host: String,
    },
    /// Delete the Machine itself, for its MachineSet to replace it.
    DeleteMachine,
    /// Tell a person.
    Event(Event),
}

/// What user data is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserDataSource {
    /// Our own template and the Machine's token.
    Token,
    /// operating-system-manager's Secret, for the VM whose user data has this ID.
    BootstrapSecret(String),
}

impl Step {
    /// Whether it is counted as a write here: evictions and what is done about signing requests are counted where they are
    /// done, and what only reads or renders writes nothing.
    pub fn is_counted(&self) -> bool {
        !matches!(
            self,
            Self::ApproveServing { .. }
                | Self::RefuseServing { .. }
                | Self::RenderUserData(_)
                | Self::FindVm
                | Self::WatchPods
                | Self::EvictPods(_)
                | Self::LookUpVolumes(_)
        )
    }

    /// What it does, for logs and messages.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::PatchMachine(_) => "patch the Machine",
            Self::CreateToken => "create the bootstrap token",
            Self::ExtendToken => "extend the bootstrap token",
            Self::DeleteToken => "delete the bootstrap token",
            Self::DeleteSpareTokens => "delete spare bootstrap tokens",
            Self::RenderUserData(_) => "render the user data",
            Self::CreateVm => "create the VirtualMachine",
            Self::FindVm => "look for a VirtualMachine",
            Self::CreateUserData { .. } => "create the user-data Secret",
            Self::DeleteUserData(_) => "delete the user-data Secret",
            Self::LabelVm { .. } => "label the adopted VirtualMachine",
            Self::DeleteVm { .. } => "delete the VirtualMachine",
            Self::PatchNode { .. } => "patch the Node",
            Self::WatchPods => "watch the Node's pods",
            Self::EvictPods(_) => "evict pods",
            Self::LookUpVolumes(_) => "look up volumes",
            Self::DeleteNode { .. } => "delete the Node",
            Self::ApproveServing { .. } => "approve a signing request",
            Self::RefuseServing { .. } => "report a signing request",
            Self::NoteFailure { .. } => "note the failure on the MachineSet",
            Self::Evacuate { .. } => "evacuate the host",
            Self::DeleteMachine => "delete the Machine",
            Self::Event(_) => "record an Event",
        }
    }
}

/// What to do for one Machine.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// Writes, in order; the first that fails ends the plan.
    pub steps: Vec<Step>,
    /// When to reconcile again, if nothing happens before.
    pub again: Option<Duration>,
    /// What the Machine's conditions say while these writes are made, for the log.
    pub why: String,
}

impl Plan {
    /// Adds a step.
    pub fn push(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// Tells a person something.
    pub fn tell(&mut self, warning: bool, reason: &'static str, message: impl Into<String>) {
        self.steps.push(Step::Event(Event {
            warning,
            reason,
            message: message.into(),
        }));
    }

    /// Whether it changes what the next decision is made from: an Event does not.
    pub fn changes_something(&self) -> bool {
        self.steps.iter().any(|step| !matches!(step, Step::Event(_)))
    }

    /// Whether a VM is made.
    pub fn makes_vm(&self) -> bool {
        self.steps.contains(&Step::CreateVm)
    }

    /// Reconciles again after `delay`, unless that is planned earlier anyway.
    pub fn requeue_after(&mut self, delay: Duration) {
        self.again = Some(self.again.map_or(delay, |planned| planned.min(delay)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_tells_a_person_changes_nothing() {
        let mut plan = Plan::default();
        plan.tell(true, "VolumesLeft", "web-1");
        assert!(!plan.changes_something());
        plan.push(Step::DeleteToken);
        assert!(plan.changes_something());
    }
}
