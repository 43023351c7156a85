//! What takes time in a Machine's life: when it began, and what is reserved for the Machine meanwhile. Written to
//! `status.providerStatus` beside the record, in the patch that writes the conditions which show it.

use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The reason of a disk whose import fails, as the root cause has it.
pub const IMPORT_FAILING: &str = "DiskImportFailing";

/// What a Machine waits for, and since when.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Progress {
    /// Its deletion, once it has begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion: Option<Box<Deletion>>,
    /// Its replacement because its VM's host is being drained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evacuation: Option<Evacuation>,
    /// The loss of its VM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm_loss: Option<VmLoss>,
    /// Why the import of a disk failed, as its condition shows it, until the import copies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub import_failure: Option<String>,
    /// The loss of its node, in a MachineSet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_loss: Option<NodeLoss>,
    /// It was read from conditions (see [`super::legacy`]), and is not written yet.
    #[serde(skip)]
    pub is_converted: bool,
}

/// How far a deletion has got.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Deletion {
    /// What must come before its Node is drained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<WaitingFor>,
    /// The wait for the annotations that hold up the drain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pre_drain_hook_started_at: Option<Timestamp>,
    /// The drain that goes on, or was skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_started_at: Option<Timestamp>,
    /// The end of the drain, or that it was skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_ended_at: Option<Timestamp>,
    /// The wait for volumes to be detached from the Node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_detach_started_at: Option<Timestamp>,
    /// The wait for the annotations that hold up the end of the VM: drain and volumes are over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pre_terminate_hook_started_at: Option<Timestamp>,
    /// The wait for volumes that are attached to the Node of a VM that is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_release_started_at: Option<Timestamp>,
    /// The deletion of the Node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_deletion_started_at: Option<Timestamp>,
}

/// What must come before a Node is drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WaitingFor {
    /// The infra cluster, without which nothing can be done for the VM.
    Infrastructure,
    /// One of the drain slots of the MachineDeployment.
    DrainSlot,
}

/// A host that is being drained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evacuation {
    /// When the host was first seen to wait for the VM to go.
    pub started_at: Timestamp,
    /// What is reserved for the Machine meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved: Option<Reservation>,
}

/// What is reserved for a Machine that is to be replaced. It does not count, and no other goes in its stead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reservation {
    /// One Machine more than there shall be, which is made in its place first.
    Surge,
    /// Its deletion: one Machine less than there shall be.
    Deletion,
}

/// A VM that is gone without our doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VmLoss {
    /// `metadata.uid` of the VM.
    #[serde(rename = "vmUID")]
    pub vm_uid: String,
    /// When it was first missed.
    pub missed_at: Timestamp,
}

/// A node that had joined, and whose guest has ended or whose Node is deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeLoss {
    /// When it was first missed.
    pub missed_at: Timestamp,
}

impl Progress {
    /// What a `providerStatus` has of it, if it has any.
    pub fn read(provider_status: &Value) -> Option<Self> {
        let progress = Self::deserialize(provider_status).ok()?;
        (progress != Self::default()).then_some(progress)
    }

    /// The deletion, as far as it has got.
    pub fn deletion(&self) -> Deletion {
        self.deletion.as_deref().cloned().unwrap_or_default()
    }

    /// The same, with the deletion as far as that.
    #[must_use]
    pub fn with_deletion(&self, deletion: Deletion) -> Self {
        Self {
            deletion: Some(Box::new(deletion)),
            ..self.clone()
        }
    }

    /// What is reserved for a Machine whose host is being drained.
    pub fn reservation(&self) -> Option<Reservation> {
        self.evacuation.as_ref()?.reserved
    }

    /// What the deletion waits for before the drain.
    pub fn waits_for(&self) -> Option<WaitingFor> {
        self.deletion.as_ref()?.waiting_for
    }
}

impl Deletion {
    /// Whether the Node is being drained.
    pub fn is_draining(&self) -> bool {
        self.drain_started_at.is_some() && self.drain_ended_at.is_none()
    }

    /// Drain and volumes are over: what holds the deletion up now may have pods on the Node that must see it.
    pub fn is_drain_final(&self) -> bool {
        self.pre_terminate_hook_started_at.is_some()
    }
}
