//! Data types for infra clusters and their instances.

use std::sync::Arc;
use std::time::Duration;

use kube::core::ObjectMeta;

use crate::cache::key::Key;
use crate::kube::error::RemoteError;

/// Identifies an infra cluster by properties that are always known. Machines share caches by this key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InfraKey {
    /// URL of the server.
    pub server: String,
    /// SHA-256 of its CA, or how it is verified without one.
    pub ca_digest: String,
    /// Namespace of the instances.
    pub namespace: String,
}

/// An event of an infra cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InfraEvent {
    /// The instance with that name, or its objects, changed.
    Vm {
        /// Name of the instance, and so of the Machine.
        name: String,
    },
    /// The infra cluster became reachable or unreachable, or a credential's permissions changed.
    State {
        /// The affected Machines.
        machines: Vec<Key>,
    },
}

/// The objects of a Machine on the infra cluster.
#[derive(Debug, Clone, Default)]
pub struct InstanceView {
    /// The instance with that name, with any owner.
    pub instance: Option<Arc<Instance>>,
    /// The guest with that name, if any. It may outlive its instance briefly.
    pub guest: Option<Guest>,
    /// Objects with the names of its disks, which a new instance would use.
    pub disks: Vec<Disk>,
    /// The kinds that the credential may not watch.
    pub unwatched: Option<Unwatched>,
    /// When to poll the unwatched objects again.
    pub again: Option<Duration>,
}

/// The objects could not be read.
#[derive(Debug, Clone)]
pub struct Unavailable {
    /// Human-readable cause.
    pub why: String,
    /// When to retry.
    pub again: Duration,
}

/// An instance, which becomes a Node.
#[derive(Debug, Clone, Default)]
pub struct Instance {
    /// Name, UID, version, labels, and times of creation and deletion.
    pub metadata: ObjectMeta,
    /// Name of the user data that it requires to start.
    pub user_data: Option<String>,
    /// It has the form of an instance that machine-controller created for the Machine with its name; the cluster's
    /// name.
    pub made_by_peer_for: Option<String>,
    /// The system UUID that the guest's kubelet reports.
    pub system_uuid: Option<String>,
    /// Its state, with the cause if it does not run.
    pub state: InstanceState,
}

/// An instance with an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressOwner {
    /// Its name.
    pub name: String,
    /// Whether it is one of [`Guest::proven_addresses`].
    pub proven: bool,
}

/// The running guest of an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guest {
    /// Whether it has run, and may have read its user data. Until then it waits for a host or for its disks.
    pub started: bool,
    /// Its addresses in the format of `IpAddr`: those that are reachable from outside, without those that only the
    /// guest reports on its own interfaces.
    pub addresses: Vec<String>,
    /// The addresses that the guest does not control.
    pub proven_addresses: Vec<String>,
    /// Whether its host evicts it.
    pub eviction: Eviction,
    /// UID of its instance; `None` if it is unknown.
    pub instance: Option<String>,
    /// The host that it runs on; `None` if it is unknown.
    pub host: Option<String>,
}

/// An object left behind by a deleted Machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Orphan {
    /// Its kind.
    pub kind: &'static str,
    /// Its infra cluster's server.
    pub server: String,
    /// Its namespace there.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// How a guest leaves a host during its drain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Eviction {
    /// No eviction is requested.
    #[default]
    None,
    /// The host waits for it to leave, and it is not migrated: its instance must be deleted.
    Wanted {
        /// UID of the guest.
        uid: String,
        /// The host.
        host: String,
    },
    /// Another component migrates it to another host.
    Moving {
        /// The host that it leaves.
        host: String,
    },
    /// It cannot leave: it requires a migration, which is impossible; why.
    Impossible(String),
}

/// The state of an instance.
#[allow(clippy::struct_excessive_bools, reason = "each answers a question of its own")]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InstanceState {
    /// Whether it runs.
    pub ready: bool,
    /// Whether it cannot recover.
    pub terminal: bool,
    /// Whether it is a normal stage.
    pub progress: bool,
    /// A failed preparation is tried again: the cause reported before still holds.
    pub is_retry: bool,
    /// It is reported for a moment where nothing is wrong, too: a cause once it has lasted.
    pub is_unconfirmed: bool,
    /// CamelCase reason.
    pub reason: String,
    /// Human-readable message.
    pub message: String,
}

/// An object with the name of an instance's disk.
#[derive(Debug, Clone)]
pub struct Disk {
    /// Human-readable kind.
    pub kind: &'static str,
    /// Its metadata.
    pub metadata: ObjectMeta,
}

/// Why the objects of an infra cluster are polled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotWatched {
    /// The credential lacks these verbs, by resource.
    Forbidden(String),
    /// There are too many objects.
    TooLarge,
}

/// Details about unwatched objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unwatched {
    /// Why not.
    pub why: NotWatched,
    /// Kinds of disks that it cannot even get: whether their names are free is unknown.
    pub unseen_disks: Vec<&'static str>,
}

/// User data for an instance.
#[derive(Clone, Copy)]
pub struct BootstrapData<'a> {
    /// The name that the instance references. It is bound to one Machine and one token: an existing object with this
    /// name is the same user data, created before a crash.
    pub name: &'a str,
    /// Name of the instance.
    pub instance: &'a str,
    /// UID of the instance.
    pub uid: &'a str,
    /// UID of the Machine.
    pub machine_uid: &'a str,
    /// UID of the user cluster.
    pub cluster_uid: &'a str,
    /// The user data, a secret.
    pub data: &'a [u8],
}

/// Labels for adopting an instance.
#[derive(Debug, Clone, Copy)]
pub struct AdoptParams<'a> {
    /// Required UID of the instance.
    pub uid: &'a str,
    /// Required version of the instance.
    pub resource_version: &'a str,
    /// The labels.
    pub labels: &'a [(&'a str, &'a str)],
}

/// Why a fact could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FactError {
    /// The object does not exist.
    #[error("{kind} {name} does not exist on the infra cluster")]
    NotFound {
        /// Kind.
        kind: &'static str,
        /// Name.
        name: String,
    },
    /// The object could not be read.
    #[error("{kind} {name} cannot be read from the infra cluster: {error}")]
    Remote {
        /// Kind.
        kind: &'static str,
        /// Name.
        name: String,
        /// Why.
        error: RemoteError,
    },
}
