//! The I/O half of a provider: watches the place where instances are, shows them, makes, labels and deletes them.
//!
//! A [`Provider`] is one for the whole process; a [`Place`] is where the instances of some Machines are, seen through one
//! Machine's own credential. The controller knows nothing else of any provider, and whose an instance is, it decides by
//! itself. The pure half is `machinist_shared::provider`.

pub mod lane;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use kube::core::ObjectMeta;
use machinist_shared::provider::{Opaque, Secret};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::cache::store::Key;
use crate::kube::client::RemoteError;
use crate::kubevirt::facts::FactError;
use crate::kubevirt::pool::{InfraPool, PoolOptions};
use crate::provider::lane::Lane;

/// The providers that ship, by what `cloudProvider` calls them. A new one is a line here.
pub fn shipped(options: PoolOptions, events: mpsc::UnboundedSender<InfraEvent>) -> Providers {
    Providers::new(vec![Arc::new(InfraPool::new(options, events))])
}

/// One provider, for all Machines that name it.
pub trait Provider: Debug + Send + Sync {
    /// What `cloudProvider` calls it.
    fn name(&self) -> &'static str;

    /// Watches the place that `credential` leads to, for the Machine `user`, from now until [`Provider::settle`] or
    /// [`Provider::release`]: whatever changes there is told as an [`InfraEvent`]. Never blocks; gives what is known so
    /// far.
    ///
    /// What one credential may see is shown to no other that has not been seen to work there itself.
    fn watch(&self, user: &Key, credential: &Secret, namespace: &str) -> Watched;

    /// The Machine `user` has asked for all that it needs: places that it watched before and not since the last call are
    /// given up. One that asked for none keeps what it has.
    fn settle(&self, user: &Key);

    /// The Machine `user` is gone.
    fn release(&self, user: &Key);

    /// The Machines that watch that place.
    fn users(&self, place: &InfraKey) -> Vec<Key>;

    /// The lane of the Machine `user`, where places have lanes of their own, so that one that is slow slows no other.
    fn lane(&self, _user: &Key) -> Option<Arc<Lane>> {
        None
    }

    /// Whether the Machine `user` watches another place than `but`, perhaps the same by another address, and its instance
    /// of that UID is there.
    fn sees_elsewhere(&self, _user: &Key, _but: &InfraKey, _uid: &str) -> bool {
        false
    }

    /// Instances labelled as made for the cluster of that UID, for a Machine that does not live, and their disks; as far as
    /// they are in memory.
    fn orphans(&self, _cluster_uid: &str, _lives: &dyn Fn(&str) -> bool) -> Vec<Orphan> {
        Vec::new()
    }

    /// How many places are in use, and how many of them do not answer.
    fn count(&self) -> (usize, usize) {
        (0, 0)
    }
}

/// What is known of a place.
#[derive(Debug, Clone)]
pub enum Watched {
    /// Being found out; an [`InfraEvent::State`] follows.
    Opening,
    /// It answers, and everything there is known.
    Open(Arc<dyn Place>),
    /// It does not answer, or does not take the credential; it is being retried, and an [`InfraEvent::State`] tells when
    /// that changes.
    Failed {
        /// Which place and what is wrong, for a person.
        why: String,
        /// It answers, but does not take this credential.
        refused: bool,
    },
    /// The credential can be used for nothing; why, with the field.
    Unusable(String),
}

/// Where instances are, seen through one credential that works there.
///
/// An `Err` means that nobody knows, never that something is absent. The text of an error is shown to people and holds no
/// secret. Writes are safe to repeat. A write that meets another one is an error whose code is 409.
pub trait Place: Debug + Send + Sync {
    /// Which place it is.
    fn key(&self) -> &InfraKey;

    /// What tells the place from another at the same address, if that is known: UID of the namespace.
    fn namespace_uid(&self) -> Option<String>;

    /// The instance of that name and whatever bears the names of its disks, whosever they are. From memory, as the watch
    /// filled it; asked for only where the credential may not watch.
    fn get<'a>(&'a self, name: &'a str, disks: &'a [String]) -> BoxFuture<'a, Result<Sight, Blind>>;

    /// UID of the instance of that name, as far as it is in memory.
    fn uid_of(&self, name: &str) -> Option<String>;

    /// Names of the instances that have that address, as far as it is in memory: more than one is trouble. The address is
    /// written as in [`Guest::addresses`].
    fn named_at(&self, address: &str) -> Vec<NamedAt>;

    /// Whether the absence of the instance of that name from memory means that it is not there.
    fn knows(&self, name: &str) -> bool;

    /// Whether everything is watched, so that absence of any name means something.
    fn is_watched(&self) -> bool;

    /// How many instances have gone so far: while it is the same, whatever was there still is.
    fn removals(&self) -> u64;

    /// Answers what `Blueprint::facts_needed` asks.
    fn facts<'a>(&'a self, needed: &'a Opaque) -> BoxFuture<'a, Result<Opaque, FactError>>;

    /// Makes the instance that `Blueprint::render` gave. If one of its name is there, whosever, nothing is changed.
    fn create(&self, instance: Value) -> BoxFuture<'_, Result<(), RemoteError>>;

    /// Asks anew, not from memory, whether an instance of that name is there, and takes it into memory if so. Whose memory
    /// is never behind need not ask.
    fn find<'a>(&'a self, _name: &'a str) -> BoxFuture<'a, Result<(), RemoteError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Whether it was told that the instance of that name is gone, rather than not shown any more.
    fn saw_end(&self, _name: &str) -> bool {
        true
    }

    /// Asks anew, not from memory, for the instance of that name and its guest, and takes them into memory; whether they were
    /// there so.
    fn is_as_seen<'a>(&'a self, _name: &'a str) -> BoxFuture<'a, Result<bool, RemoteError>> {
        Box::pin(std::future::ready(Ok(true)))
    }

    /// Gives an instance its user data, which it does not start without, and which goes with it.
    fn deliver<'a>(&'a self, user_data: Delivery<'a>) -> BoxFuture<'a, Result<(), RemoteError>>;

    /// Takes back the user data of that name, once its instance is gone, if it is still there. A place where it cannot outlive
    /// the instance has nothing to do, nor has one whose credential may not.
    fn take_back<'a>(&'a self, _user_data: &'a str) -> BoxFuture<'a, Result<(), RemoteError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Labels the instance of that name, UID and version: how one that somebody else made for the Machine is taken over.
    fn label<'a>(&'a self, name: &'a str, label: Labelling<'a>) -> BoxFuture<'a, Result<(), RemoteError>>;

    /// Begins to delete the instance of that name, if it has that UID. One that is gone is deleted.
    fn delete<'a>(&'a self, name: &'a str, uid: &'a str) -> BoxFuture<'a, Result<(), RemoteError>>;

    /// Asks anew, not from memory, whether the guest of that name and UID is on that host, which waits for it to go.
    fn must_leave<'a>(
        &'a self,
        _name: &'a str,
        _uid: &'a str,
        _host: &'a str,
    ) -> BoxFuture<'a, Result<bool, RemoteError>> {
        Box::pin(std::future::ready(Ok(false)))
    }

    /// The credential was refused in a write: it must be found out anew whether it works.
    fn doubt(&self);
}

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
pub struct Sight {
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
pub struct Blind {
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
    pub state: State,
}

/// An instance whose guest has an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedAt {
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
pub struct State {
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
pub struct Delivery<'a> {
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
pub struct Labelling<'a> {
    /// UID that the instance must have.
    pub uid: &'a str,
    /// Version that it must have.
    pub resource_version: &'a str,
    /// The labels.
    pub labels: &'a [(&'a str, &'a str)],
}

/// The providers in use.
#[derive(Debug)]
pub struct Providers(Vec<Arc<dyn Provider>>);

impl Providers {
    /// These, the first of which is the one of Machines that name none.
    pub fn new(providers: Vec<Arc<dyn Provider>>) -> Self {
        Self(providers)
    }

    /// The one that `cloudProvider` calls so. Where nobody can tell what it says, the first: only what is being deleted
    /// gets so far, and must be looked for somewhere.
    pub fn get(&self, name: Option<&str>) -> Option<Arc<dyn Provider>> {
        let mut all = self.0.iter();
        let found = match name {
            Some(name) => all.find(|provider| provider.name() == name),
            None => all.next(),
        };
        found.cloned()
    }

    /// See [`Provider::settle`].
    pub fn settle(&self, user: &Key) {
        self.0.iter().for_each(|provider| provider.settle(user));
    }

    /// See [`Provider::release`].
    pub fn release(&self, user: &Key) {
        self.0.iter().for_each(|provider| provider.release(user));
    }

    /// See [`Provider::users`].
    pub fn users(&self, place: &InfraKey) -> Vec<Key> {
        let all = self.0.iter();
        all.flat_map(|provider| provider.users(place)).collect()
    }

    /// See [`Provider::lane`].
    pub fn lane(&self, user: &Key) -> Option<Arc<Lane>> {
        self.0.iter().find_map(|provider| provider.lane(user))
    }

    /// See [`Provider::sees_elsewhere`].
    pub fn sees_elsewhere(&self, user: &Key, but: &InfraKey, uid: &str) -> bool {
        let mut all = self.0.iter();
        all.any(|provider| provider.sees_elsewhere(user, but, uid))
    }

    /// See [`Provider::orphans`].
    pub fn orphans(&self, cluster_uid: &str, lives: &dyn Fn(&str) -> bool) -> Vec<Orphan> {
        let all = self.0.iter();
        all.flat_map(|provider| provider.orphans(cluster_uid, lives))
            .collect()
    }

    /// See [`Provider::count`].
    pub fn count(&self) -> (usize, usize) {
        let counts = self.0.iter().map(|provider| provider.count());
        counts.fold((0, 0), |(used, broken), (u, b)| (used + u, broken + b))
    }
}
