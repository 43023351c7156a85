//! What is seen of a place and its instances, and what is given to them.

use std::sync::Arc;
use std::time::Duration;

use kube::core::ObjectMeta;

use crate::cache::key::Key;
use crate::kube::error::RemoteError;

/// Which place, by the facets that are always known. What is shared between Machines is shared by it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InfraKey {
    /// URL of the server.
    pub server: String,
    /// SHA-256 of its CA, or how it is trusted without one.
    pub ca_digest: String,
    /// Namespace of the instances.
    pub namespace: String,
}

/// Something happened at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InfraEvent {
    /// Something of the instance of that name changed.
    Vm {
        /// Name of the instance, and so of the Machine.
        name: String,
    },
    /// The place became reachable, unreachable, or a credential's rights became known.
    State {
        /// The Machines that this concerns.
        machines: Vec<Key>,
    },
}

/// What is seen under a Machine's name.
#[derive(Debug, Clone, Default)]
pub struct InstanceView {
    /// The instance of that name, whosever it is.
    pub instance: Option<Arc<Instance>>,
    /// The guest of that name, if there is one. It may outlive its instance for a moment.
    pub guest: Option<Guest>,
    /// What bears the names of its disks, and would be taken by an instance that is made now.
    pub disks: Vec<Disk>,
    /// What the credential may not watch.
    pub unwatched: Option<Unwatched>,
    /// When to look again at what no watch tells of.
    pub again: Option<Duration>,
}

/// Nothing could be seen.
#[derive(Debug, Clone)]
pub struct Unavailable {
    /// Why, for a person.
    pub why: String,
    /// When to look again.
    pub again: Duration,
}

/// An instance: what becomes a Node.
#[derive(Debug, Clone, Default)]
pub struct Instance {
    /// Name, UID, version, labels, when it was made, and whether it is on its way out.
    pub metadata: ObjectMeta,
    /// Name of the user data that it was made to start with.
    pub user_data: Option<String>,
    /// It looks like one that machine-controller made for the Machine of its name, in a cluster called so.
    pub made_by_peer_for: Option<String>,
    /// What the guest's kubelet reports as its system UUID.
    pub system_uuid: Option<String>,
    /// What keeps it from running.
    pub state: InstanceState,
}

/// An instance whose guest has an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressOwner {
    /// Its name.
    pub name: String,
    /// It is one of [`Guest::proven_addresses`].
    pub proven: bool,
}

/// What runs in an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guest {
    /// It has run: its user data may have been read. Until then it waits for a host, or for its disks.
    pub started: bool,
    /// Its own addresses, each as `IpAddr` writes it: those by which others reach it, and none that only the guest itself
    /// claims to have on interfaces of its own making.
    pub addresses: Vec<String>,
    /// Those of them that the guest itself has no say in.
    pub proven_addresses: Vec<String>,
    /// Whether its host wants it to leave.
    pub eviction: Eviction,
    /// UID of the instance that it belongs to; `None` if it does not say.
    pub instance: Option<String>,
}

/// What is left of a Machine that is gone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Orphan {
    /// What it is.
    pub kind: &'static str,
    /// Its place: the server.
    pub server: String,
    /// Its namespace there.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// How a guest leaves a host that is being drained.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Eviction {
    /// Nobody has asked it to.
    #[default]
    None,
    /// The host waits for it to go, and nothing moves it: its instance must be deleted.
    Wanted {
        /// UID of the guest.
        uid: String,
        /// The host.
        host: String,
    },
    /// It is being moved to another host, by others.
    Moving {
        /// The host that it leaves.
        host: String,
    },
    /// It would be asked in vain: it should be moved, and cannot be; why.
    Impossible(String),
}

/// What keeps an instance from running.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InstanceState {
    /// It runs.
    pub ready: bool,
    /// It cannot heal.
    pub terminal: bool,
    /// Mere progress.
    pub progress: bool,
    /// CamelCase reason.
    pub reason: String,
    /// For a person.
    pub message: String,
}

/// Something that bears the name of an instance's disk.
#[derive(Debug, Clone)]
pub struct Disk {
    /// What it is, for a person.
    pub kind: &'static str,
    /// Its metadata.
    pub metadata: ObjectMeta,
}

/// Why the objects of an infra cluster are looked at one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotWatched {
    /// The credential may not; the missing verbs, by resource.
    Forbidden(String),
    /// There are too many of them.
    TooLarge,
}

/// That objects are not watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unwatched {
    /// Why not.
    pub why: NotWatched,
    /// Kinds of disks that it may not even get: nobody can tell whether an instance's disks would be somebody's.
    pub unseen_disks: Vec<&'static str>,
}

/// User data for an instance.
#[derive(Clone, Copy)]
pub struct BootstrapData<'a> {
    /// The name that the instance was made with. It is bound to one Machine and one token: what bears it already is the
    /// same user data, delivered before a crash.
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

/// Labels for an instance.
#[derive(Debug, Clone, Copy)]
pub struct AdoptParams<'a> {
    /// UID that the instance must have.
    pub uid: &'a str,
    /// Version that it must have.
    pub resource_version: &'a str,
    /// The labels.
    pub labels: &'a [(&'a str, &'a str)],
}

/// Why a fact could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FactError {
    /// It names something that does not exist.
    #[error("{kind} {name} does not exist on the infra cluster")]
    NotFound {
        /// Kind.
        kind: &'static str,
        /// Name.
        name: String,
    },
    /// It could not be asked for.
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
