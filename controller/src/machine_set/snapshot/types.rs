//! Everything known of a MachineSet and its Machines, and nothing else: what a decision is made from.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use machinist_infra::kube::clock::Skew;
use serde_json::Value;

use crate::cache::{StoredMachine, StoredMachineSet};
use crate::runtime::creation_limit::Allowance;
pub use crate::runtime::failure::Failure;
use crate::runtime::recreation::Recreation;

/// A MachineSet and its Machines.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The set.
    pub set: Arc<StoredMachineSet>,
    /// Machines that it controls.
    pub machines: Vec<Member>,
    /// Machines of its namespace without a controller and that its selector selects.
    pub orphans: Vec<Arc<StoredMachine>>,
    /// Machines of its making that are not as they were sent: its selector does not select them, or another controls
    /// them.
    pub rejected: Vec<Arc<StoredMachine>>,
    /// Names of Nodes and VMs that are left without Machines and may be its own, while it may wait for these.
    pub left_behind: Vec<String>,
    /// What it may create.
    pub creations: Allowance,
    /// The write that failed last, unless one of the same kind has succeeded since.
    pub failure: Option<Failure>,
    /// One Machine after another ended before it became a Node.
    pub recreation: Option<Recreation>,
    /// Whether the clocks differ by little enough.
    pub skew: Skew,
    /// Whether its status has not been current for so long that it cannot wait for the Machines to settle.
    pub status_overdue: bool,
    /// `spec` of the template's instancetype, if the set is a node group by itself and it was seen.
    pub instancetype: Option<Value>,
    /// How long until that is asked for again.
    pub instancetype_again: Option<Duration>,
    /// Names of other sets that select its Machines, or whose Machines it selects, unless that was reported already.
    pub overlaps: Vec<String>,
}

/// A Machine of the set.
#[derive(Debug, Clone)]
pub struct Member {
    /// The Machine.
    pub machine: Arc<StoredMachine>,
    /// Its Node.
    pub node: NodeState,
}

/// A Machine's Node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// None has joined, or it is gone.
    Absent,
    /// It is there and not Ready.
    NotReady,
    /// It is Ready.
    Ready {
        /// Since when, if its kubelet says so.
        since: Option<Timestamp>,
    },
}

impl Member {
    /// Whether it failed permanently.
    pub fn has_failed(&self) -> bool {
        let status = &self.machine.status;
        let said = [
            &status.error_reason,
            &status.error_message,
            &status.failure_message,
        ];
        said.into_iter().flatten().any(|text| !text.is_empty()) || status.phase.as_deref() == Some("Failed")
    }

    /// Whether its VM has not been made yet.
    pub fn waits_for_vm(&self) -> bool {
        let record = self.machine.record.as_ref();
        self.machine.status.node_ref.is_none()
            && self.node == NodeState::Absent
            && record.is_none_or(|record| record.vm_uid.is_none())
    }

    /// Whether its Node is Ready.
    pub fn is_ready(&self) -> bool {
        matches!(self.node, NodeState::Ready { .. })
    }

    /// From when on it counts as available; nothing if that cannot be reported.
    pub fn available_at(&self, min_ready_seconds: i32) -> Option<Timestamp> {
        match self.node {
            NodeState::Ready { .. } if min_ready_seconds <= 0 => Some(Timestamp::MIN),
            NodeState::Ready { since } => since?
                .checked_add(SignedDuration::from_secs(min_ready_seconds.into()))
                .ok(),
            NodeState::Absent | NodeState::NotReady => None,
        }
    }
}
