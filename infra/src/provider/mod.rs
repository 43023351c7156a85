//! The I/O half of a provider: watches an infra cluster, and reads, creates, labels and deletes instances.
//!
//! A [`Provider`] exists once per process. An [`InfraClient`] accesses the instances of some Machines with one
//! Machine's own credential. The controller knows nothing else about a provider. The controller alone decides which
//! Machine owns an instance. The pure half is `machinist_shared::provider`.

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

/// A provider, for all Machines that name it.
pub trait Provider: Debug + Send + Sync {
    /// Its name in `cloudProvider`.
    fn name(&self) -> &'static str;

    /// Watches the infra cluster of `credential` for the Machine `user`, until [`Provider::release_unused`] or
    /// [`Provider::release`], and reports changes as [`InfraEvent`]s. Never blocks; returns the current state.
    ///
    /// Data that one credential can read is never returned for another credential that has not been verified itself.
    fn watch(&self, user: &Key, credential: &Secret, namespace: &str) -> WatchStatus;

    /// Releases the infra clusters that the Machine `user` has not requested since the last call. A Machine without
    /// requests keeps them.
    fn release_unused(&self, user: &Key);

    /// Releases everything of the deleted Machine `user`.
    fn release(&self, user: &Key);

    /// The Machines that use that infra cluster.
    fn users(&self, place: &InfraKey) -> Vec<Key>;

    /// All reasons that the state of an instance can have.
    fn state_reasons(&self) -> Vec<String> {
        Vec::new()
    }

    /// The concurrency limit for the Machine `user`, if infra clusters have separate limits, so that a slow one does
    /// not delay others.
    fn concurrency_limit(&self, _user: &Key) -> Option<Arc<ConcurrencyLimit>> {
        None
    }

    /// Whether the Machine `user` watches another infra cluster than `but`, perhaps the same at another address, that
    /// has its instance with that UID.
    fn has_instance_elsewhere(&self, _user: &Key, _but: &InfraKey, _uid: &str) -> bool {
        false
    }

    /// Cached instances with the label of the cluster with that UID but without a living Machine, and their disks.
    fn orphans(&self, _cluster_uid: &str, _lives: &dyn Fn(&str) -> bool) -> Vec<Orphan> {
        Vec::new()
    }

    /// Number of infra clusters in use, and of unreachable ones.
    fn count(&self) -> (usize, usize) {
        (0, 0)
    }
}

/// The state of an infra cluster.
#[derive(Debug, Clone)]
pub enum WatchStatus {
    /// Being found out; an [`InfraEvent::InstanceState`] follows.
    Opening,
    /// Reachable, with complete caches.
    Open(Arc<dyn InfraClient>),
    /// It does not answer, or does not take the credential; it is being retried, and an [`InfraEvent::InstanceState`]
    /// tells when that changes.
    Failed {
        /// Human-readable: the infra cluster and the error.
        why: String,
        /// It responds, but rejects this credential.
        refused: bool,
    },
    /// The credential is malformed; the error, with the field.
    Unusable(String),
}

/// Access to instances on an infra cluster with one verified credential.
///
/// An `Err` means that the state is unknown, never that something is absent. Users see the text of an error, and it
/// contains no secret. Writes are idempotent. A write that conflicts with another one returns an error with code 409.
pub trait InfraClient: Debug + Send + Sync {
    /// Identifies the infra cluster.
    fn key(&self) -> &InfraKey;

    /// UID of the namespace, if known, which distinguishes clusters at the same address.
    fn namespace_uid(&self) -> Option<String>;

    /// The instance with that name and all objects with the names of its disks, with any owner. It comes from the
    /// cache of the watch, or from requests if the credential may not watch.
    fn get<'a>(
        &'a self,
        name: &'a str,
        disks: &'a [String],
    ) -> BoxFuture<'a, Result<InstanceView, Unavailable>>;

    /// UID of the cached instance with that name.
    fn uid_of(&self, name: &str) -> Option<String>;

    /// Names of the cached instances with that address: more than one is a conflict. The address has the format of
    /// [`Guest::addresses`].
    fn instances_at_address(&self, address: &str) -> Vec<AddressOwner>;

    /// Whether the instance with that name does not exist if it is not cached.
    fn is_absence_conclusive(&self, name: &str) -> bool;

    /// Whether everything is watched, so that the absence of any name is conclusive.
    fn is_watched(&self) -> bool;

    /// Number of removed instances so far: while it is unchanged, every instance still exists.
    fn removals(&self) -> u64;

    /// Reads the facts that `ResolvedProviderSpec::facts_needed` requests.
    fn facts<'a>(&'a self, needed: &'a Opaque) -> BoxFuture<'a, Result<Opaque, FactError>>;

    /// Creates the instance that `ResolvedProviderSpec::render` returned. If an instance with its name exists, nothing
    /// is changed, whatever its owner.
    fn create(&self, instance: Value) -> BoxFuture<'_, Result<(), RemoteError>>;

    /// Reads the instance with that name from the API server, not from the cache, and adds it to the cache if it
    /// exists. A provider with an always current cache can skip the request.
    fn find<'a>(&'a self, _name: &'a str) -> BoxFuture<'a, Result<(), RemoteError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Whether a deletion event for the instance with that name was received, rather than the instance missing from a
    /// list.
    fn saw_deletion(&self, _name: &str) -> bool {
        true
    }

    /// Reads the instance with that name and its guest from the API server into the cache; returns whether the cache
    /// was current.
    fn verify_cached<'a>(&'a self, _name: &'a str) -> BoxFuture<'a, Result<bool, RemoteError>> {
        Box::pin(std::future::ready(Ok(true)))
    }

    /// Creates the user data of an instance, which the instance requires to start and which is deleted with it.
    fn create_user_data<'a>(&'a self, user_data: BootstrapData<'a>)
    -> BoxFuture<'a, Result<(), RemoteError>>;

    /// Deletes the user data with that name after its instance is gone, if it still exists. Does nothing if it cannot
    /// outlive the instance, or the credential lacks the permission.
    fn delete_user_data<'a>(&'a self, _user_data: &'a str) -> BoxFuture<'a, Result<(), RemoteError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Labels the instance with that name, UID and version, to adopt an instance that another controller created for
    /// the Machine.
    fn label<'a>(&'a self, name: &'a str, label: AdoptParams<'a>) -> BoxFuture<'a, Result<(), RemoteError>>;

    /// Starts the deletion of the instance with that name and UID. A missing instance counts as deleted.
    fn delete<'a>(&'a self, name: &'a str, uid: &'a str) -> BoxFuture<'a, Result<(), RemoteError>>;

    /// Checks with the API server, not the cache, whether the guest with that name and UID is still on that host, which
    /// waits until it leaves.
    fn confirm_eviction<'a>(
        &'a self,
        _name: &'a str,
        _uid: &'a str,
        _host: &'a str,
    ) -> BoxFuture<'a, Result<bool, RemoteError>> {
        Box::pin(std::future::ready(Ok(false)))
    }

    /// The API server rejected the credential in a write: it must be checked again.
    fn recheck_credential(&self);
}
