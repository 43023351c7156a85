//! The snapshot that a decision is made from: everything known of one Machine, taken from memory.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::jiff::Timestamp;
use kube::core::ObjectMeta;
use machinist_infra::kube::clock::Skew;
use machinist_infra::provider::Instance;
pub use machinist_infra::provider::{Disk, Eviction, InstanceState as VmState, NotWatched, Unwatched};

use super::super::disruption_budget::DisruptionBudget;
use super::super::drain::Seen;
use super::super::drain::slots::DrainSlot;
pub use super::super::mass_loss_guard::{Losses, MassLoss};
use super::super::node_conflicts::Waits;
use super::super::record::{CredentialSource, FailureDomain, Infrastructure};
use super::super::replacement_pace::Pace;
use super::super::start_limiter::Start;
use super::super::vm_creations::Creation;
use crate::bootstrap::token::TokenView;
use crate::cache::{Node, StoredMachine};
pub use crate::config::Settings;
use crate::csr::request::StoredRequest;
use crate::csr::serving::Contested;
use crate::runtime::recreation::Recreation;

/// Everything known of one Machine.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The Machine.
    pub machine: Arc<StoredMachine>,
    /// What holds for all Machines.
    pub settings: Arc<Settings>,
    /// The Machine that wins the name, if it is another.
    pub name_winner: Option<String>,
    /// What its spec asks for.
    pub spec: Spec,
    /// The cluster name that it renders to, whatever else is wrong with its spec.
    pub cluster_name: ClusterName,
    /// Its infra cluster.
    pub infra: Infra,
    /// The Node of its name.
    pub node: Option<Arc<Node>>,
    /// What must wait before it is put onto that Node again.
    pub waits: Waits,
    /// Where its user data comes from.
    pub bootstrap: Bootstrap,
    /// Whether its VM may still appear.
    pub creation: Creation,
    /// Its bootstrap token.
    pub token: Option<TokenView>,
    /// Whether others are bound to it, because the answer to the creation of one was lost.
    pub has_spare_tokens: bool,
    /// The pending request for its node's first client certificate.
    pub request_to_join: Option<RequestToJoin>,
    /// Pending requests for its node's serving certificate, the newest first.
    pub requests: Vec<Asked>,
    /// Whether its VM may be made now, if it has none.
    pub start: Start,
    /// One VM after another was created for it and did not become a Node.
    pub recreation: Option<Recreation>,
    /// Whether it may be replaced, if its host is being drained.
    pub disruption_budget: DisruptionBudget,
    /// Whether it may be replaced, if its node is lost.
    pub replacement_pace: Pace,
    /// What there is on its Node; only polled while it is being deleted.
    pub workload: NodeWorkload,
    /// Since when this process leads: what waited for a leader has waited until then.
    pub leading_since: Timestamp,
    /// Whether the clocks differ by little enough.
    pub skew: Skew,
    /// Since when the cause is seen that its infra cluster reports, where it may pass within a moment.
    pub unconfirmed_since: Timestamp,
    /// The last write that failed, until it may be tried again.
    pub failure: Option<Failure>,
}

/// What there is on a deleting Machine's Node.
#[derive(Debug, Clone)]
pub struct NodeWorkload {
    /// Its pods.
    pub pods: Seen,
    /// Names of the volumes that are attached to it.
    pub volumes: Vec<String>,
    /// Whether its pods have somewhere to go.
    pub schedulable_targets: SchedulableTargets,
    /// Whose turn it is, if its MachineDeployment limits drains.
    pub drain_slot: Option<DrainSlot>,
}

/// Whether the pods of a deleting Machine's Node have somewhere to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchedulableTargets {
    /// Another Node takes pods, or a Machine is on its way to become one.
    Some,
    /// All other Nodes are cordoned: this is the end of the cluster.
    None,
}

/// A pending request for the first client certificate of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestToJoin {
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
}

/// A pending signing request.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The request.
    pub request: Arc<StoredRequest>,
    /// What was reported it: these reasons not to approve it are known already.
    pub reported: Vec<String>,
}

/// Where a Machine's user data comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bootstrap {
    /// From us, with a token of its own.
    Builtin,
    /// From operating-system-manager, whose Secret is there; its revision, or empty.
    Osm(String),
    /// From operating-system-manager, whose Secret is not there or of no use; or it cannot be determined yet. Why.
    Waiting(String),
    /// From operating-system-manager, whose Secret is of another revision; which.
    OtherRevision(String),
    /// There can be none, as things are; why.
    Invalid(String),
}

/// What a Machine's spec asks for.
#[derive(Debug, Clone)]
pub enum Spec {
    /// It can be rendered.
    Usable(Box<Usable>),
    /// A referenced object is not yet known.
    Waiting(String),
    /// A referenced object or key does not exist; which.
    ReferenceNotFound(String),
    /// It cannot be rendered; why.
    Invalid(String),
}

/// The cluster name that a Machine renders to: VMs of machine-controller are known by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterName {
    /// It is this.
    Known(String),
    /// The object that it is in is being read.
    Pending,
    /// It cannot be read; why.
    Unreadable(String),
}

/// The parts of a usable spec that decisions need.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Usable {
    /// Value of the cluster-name label.
    pub cluster_name: String,
    /// Names of the disks that the VM will have.
    pub disks: Vec<String>,
    /// Where the credential comes from.
    pub credential: Option<CredentialSource>,
    /// Labels and annotations for the Node.
    pub node_metadata: ObjectMeta,
    /// Taints for the Node.
    pub taints: Vec<Taint>,
}

/// A Machine's infra cluster.
#[derive(Debug, Clone)]
pub enum Infra {
    /// There is no credential to reach one; what is missing.
    NoCredential(String),
    /// Being connected to.
    Connecting,
    /// It does not answer; how.
    Unreachable(String),
    /// It refuses the Machine's credential; how.
    Refused(String),
    /// Open.
    Open(Box<Open>),
}

/// What is known of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GuestView {
    /// It has run: its user data may have been read.
    pub started: bool,
    /// UID of the VM that it belongs to, if it says so.
    pub instance: Option<String>,
    /// The host that it runs on, if that is known.
    pub host: Option<String>,
}

/// An infra cluster that answers.
#[derive(Debug, Clone)]
pub struct Open {
    /// Which cluster and namespace it is.
    pub infrastructure: Infrastructure,
    /// What the credential may not watch, so that the Machine is polled now and then instead.
    pub unwatched: Option<Unwatched>,
    /// Whether too many VMs are missing at the same time to believe it.
    pub mass_loss: MassLoss,
    /// The VM of the Machine's name.
    pub vm: Option<Arc<Instance>>,
    /// The credential is not known to be forbidden to label the VM.
    pub may_label: bool,
    /// The Machine that the VM's label names exists, and is another.
    pub labeled_machine_exists: bool,
    /// Another Machine of this name that has the VM on record.
    pub recorded_by: Option<String>,
    /// The guest of the Machine's name, if there is one: a VMI.
    pub guest: Option<GuestView>,
    /// UUID of the VM's firmware.
    pub firmware_uuid: Option<String>,
    /// Whether its host wants the guest to leave.
    pub eviction: Eviction,
    /// Addresses of the VMI's own interfaces.
    pub addresses: Vec<String>,
    /// Those of them that the guest has no say in.
    pub proven_addresses: Vec<String>,
    /// Those of `addresses` that others have, too; only looked for while a serving certificate is asked for.
    pub address_conflicts: Vec<Contested>,
    /// The root cause of what keeps the VM from running.
    pub state: VmState,
    /// DataVolumes and claims that bear the names of the Machine's disks.
    pub disks: Vec<Disk>,
    /// What rendering needs to know of the cluster; only asked for when the VM is to be made.
    pub facts: Facts,
}

impl Open {
    /// Whether a guest has run: its user data may have been read.
    pub fn guest_started(&self) -> bool {
        self.guest.as_ref().is_some_and(|guest| guest.started)
    }

    /// Whether there is a guest of the VM of that UID. One that does not tell whose it is can be no other's, for the VM had the
    /// name.
    pub fn has_guest_of(&self, vm_uid: &str) -> bool {
        let guest = self.guest.as_ref();
        guest.is_some_and(|guest| guest.instance.as_deref().is_none_or(|of| of == vm_uid))
    }
}

/// What rendering needs to know of the infra cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Facts {
    /// Not asked for: the VM is there.
    NotNeeded,
    /// Known.
    Known(FailureDomain),
    /// They name something that does not exist; what.
    Missing(String),
    /// They could not be had; why.
    Unavailable(String),
}

/// A write that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Which question of the status it is about.
    pub scope: FailureScope,
    /// What was tried and what the answer was, for a person.
    pub message: String,
    /// Not to be tried again before.
    pub until: Timestamp,
    /// No pass was shown it before.
    pub is_news: bool,
}

/// Which question of the status a failed write is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureScope {
    /// The VM.
    Infrastructure,
    /// Token and user data.
    Bootstrap,
    /// The Node.
    Node,
    /// The deletion of the Node.
    NodeDeletion,
    /// Certificates of the Node.
    Certificate,
    /// The deletion of the Machine because its host is drained.
    Evacuation,
    /// The deletion of the Machine for its MachineSet to replace it.
    Replacement,
    /// The Machine itself, which cannot be reported then.
    Machine,
}
