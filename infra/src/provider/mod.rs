//! The I/O half of a provider: watches the place where instances are, shows them, makes, labels and deletes them.
//!
//! A [`Provider`] is one for the whole process; a [`InfraClient`] is where the instances of some Machines are, seen
//! through one Machine's own credential. The controller knows nothing else about a provider. The controller alone
//! decides which Machine owns an instance. The pure half is `machinist_shared::provider`.

pub mod adaptive_limit;
pub mod concurrency_limit;
mod types;

use std::fmt::Debug;
use std::sync::Arc;

use futures::future::BoxFuture;
use machinist_shared::provider::{Opaque, Secret};
use serde_json::Value;

use self::concurrency_limit::ConcurrencyLimit;
pub use self::types::{
    AddressOwner, AdoptParams, BootstrapData, Disk, Eviction, FactError, Guest, InfraEvent, InfraKey,
    Instance, InstanceState, InstanceView, NotWatched, Orphan, Unavailable, Unwatched,
};
use crate::cache::key::Key;
use crate::kube::error::RemoteError;

/// One provider, for all Machines that name it.
pub trait Provider: Debug + Send + Sync {
    /// What `cloudProvider` calls it.
    fn name(&self) -> &'static str;

    /// Watches the place that `credential` leads to, for the Machine `user`, from now until [`Provider::release_unused`] or
    /// [`Provider::release`]: whatever changes there is told as an [`InfraEvent`]. Never blocks; gives what is known so
    /// far.
    ///
    /// What one credential may see is shown to no other that has not been seen to work there itself.
    fn watch(&self, user: &Key, credential: &Secret, namespace: &str) -> WatchStatus;

    /// The Machine `user` has asked for all that it needs: places that it watched before and not since the last call
    /// are given up. One that asked for none keeps what it has.
    fn release_unused(&self, user: &Key);

    /// The Machine `user` is gone.
    fn release(&self, user: &Key);

    /// The Machines that watch that place.
    fn users(&self, place: &InfraKey) -> Vec<Key>;

    /// The concurrency_limit of the Machine `user`, where places have lanes of their own, so that one that is slow
    /// slows no other.
    fn concurrency_limit(&self, _user: &Key) -> Option<Arc<ConcurrencyLimit>> {
        None
    }

    /// Whether the Machine `user` watches another place than `but`, perhaps the same by another address, and its
    /// instance of that UID is there.
    fn has_instance_elsewhere(&self, _user: &Key, _but: &InfraKey, _uid: &str) -> bool {
        false
    }

    /// Instances labelled as made for the cluster of that UID, for a Machine that does not live, and their disks; as
    /// far as they are in memory.
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
pub enum WatchStatus {
    /// Being found out; an [`InfraEvent::InstanceState`] follows.
    Opening,
    /// It answers, and everything there is known.
    Open(Arc<dyn InfraClient>),
    /// It does not answer, or does not take the credential; it is being retried, and an [`InfraEvent::InstanceState`] tells
    /// when that changes.
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
/// An `Err` means that the state is unknown, never that something is absent. The text of an error is shown to people
/// and holds no secret. Writes are safe to repeat. A write that meets another one is an error whose code is 409.
pub trait InfraClient: Debug + Send + Sync {
    /// Which place it is.
    fn key(&self) -> &InfraKey;

    /// What tells the place from another at the same address, if that is known: UID of the namespace.
    fn namespace_uid(&self) -> Option<String>;

    /// The instance of that name and whatever bears the names of its disks, whosever they are. From memory, as the
    /// watch filled it; asked for only where the credential may not watch.
    fn get<'a>(
        &'a self,
        name: &'a str,
        disks: &'a [String],
    ) -> BoxFuture<'a, Result<InstanceView, Unavailable>>;

    /// UID of the instance of that name, as far as it is in memory.
    fn uid_of(&self, name: &str) -> Option<String>;

    /// Names of the instances that have that address, as far as it is in memory: more than one is trouble. The address
    /// is written as in [`Guest::addresses`].
    fn instances_at_address(&self, address: &str) -> Vec<AddressOwner>;

    /// Whether the absence of the instance of that name from memory means that it is not there.
    fn is_absence_conclusive(&self, name: &str) -> bool;

    /// Whether everything is watched, so that absence of any name means something.
    fn is_watched(&self) -> bool;

    /// How many instances have gone so far: while it is the same, whatever was there still is.
    fn removals(&self) -> u64;

    /// Answers what `ResolvedProviderSpec::facts_needed` asks.
    fn facts<'a>(&'a self, needed: &'a Opaque) -> BoxFuture<'a, Result<Opaque, FactError>>;

    /// Makes the instance that `ResolvedProviderSpec::render` gave. If one of its name is there, whosever, nothing is changed.
    fn create(&self, instance: Value) -> BoxFuture<'_, Result<(), RemoteError>>;

    /// Asks anew, not from memory, whether an instance of that name is there, and takes it into memory if so. Whose
    /// memory is never behind need not ask.
    fn find<'a>(&'a self, _name: &'a str) -> BoxFuture<'a, Result<(), RemoteError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Whether it was told that the instance of that name is gone, rather than not shown any more.
    fn saw_deletion(&self, _name: &str) -> bool {
        true
    }

    /// Asks anew, not from memory, for the instance of that name and its guest, and takes them into memory; whether
    /// they were there so.
    fn verify_cached<'a>(&'a self, _name: &'a str) -> BoxFuture<'a, Result<bool, RemoteError>> {
        Box::pin(std::future::ready(Ok(true)))
    }

    /// Gives an instance its user data, which it does not start without, and which goes with it.
    fn create_user_data<'a>(&'a self, user_data: BootstrapData<'a>)
    -> BoxFuture<'a, Result<(), RemoteError>>;

    /// Takes back the user data of that name, once its instance is gone, if it is still there. A place where it cannot
    /// outlive the instance has nothing to do, nor has one whose credential may not.
    fn delete_user_data<'a>(&'a self, _user_data: &'a str) -> BoxFuture<'a, Result<(), RemoteError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Labels the instance of that name, UID and version: how one that somebody else made for the Machine is taken
    /// over.
    fn label<'a>(&'a self, name: &'a str, label: AdoptParams<'a>) -> BoxFuture<'a, Result<(), RemoteError>>;

    /// Begins to delete the instance of that name, if it has that UID. One that is gone is deleted.
    fn delete<'a>(&'a self, name: &'a str, uid: &'a str) -> BoxFuture<'a, Result<(), RemoteError>>;

    /// Asks anew, not from memory, whether the guest of that name and UID is on that host, which waits for it to go.
    fn confirm_eviction<'a>(
        &'a self,
        _name: &'a str,
        _uid: &'a str,
        _host: &'a str,
    ) -> BoxFuture<'a, Result<bool, RemoteError>> {
        Box::pin(std::future::ready(Ok(false)))
    }

    /// The credential was refused in a write: it must be found out anew whether it works.
    fn recheck_credential(&self);
}
