//! The infra clusters in use: one entry per (server, CA, namespace), with its watches, and one access per credential.
//!
//! Stores are pooled, permissions are not. A Machine reads an entry's stores only through an [`Access`] for its own
//! credential, and only after that credential has been verified.

mod budget;
mod check;
mod credential;
mod entry;
mod kind;
mod kubeconfig_cache;
mod orphans;
mod poll;
mod probe;
mod watches;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use self::budget::Budget;
use self::credential::{Credential, CredentialState};
pub use self::entry::PoolOptions;
use self::entry::{Entry, SyncState};
use self::kind::Objects;
pub use self::kind::{Kind, Missing};
use self::kubeconfig_cache::KubeconfigCache;
pub use self::poll::PollResult;
use self::poll::PollTarget;
pub(crate) use self::poll::read_one;
use crate::cache::store::{Key, Store};
use crate::kube::error::RemoteError;
use crate::kube::kubeconfig::{InfraKubeconfig, KubeconfigError};
use crate::kubevirt::facts::FactsCache;
use crate::kubevirt::objects::{Claim, DataVolume, Vm, Vmi};
use crate::provider::concurrency_limit::ConcurrencyLimit;
use crate::provider::{InfraEvent, InfraKey, Orphan};

/// The state of the access to an infra cluster with one credential.
#[derive(Debug, Clone)]
pub enum Access {
    /// Unknown; an [`InfraEvent::State`] follows.
    Opening,
    /// The cluster responds and the stores are complete.
    Open(OpenInfra),
    /// The cluster does not respond, or rejects the credential; it is retried.
    Failed(RemoteError),
}

/// An infra cluster, accessed with one verified credential.
#[derive(Clone)]
pub struct OpenInfra {
    entry: Arc<Entry>,
    credential: Arc<Credential>,
    missing: Arc<Missing>,
    client: Client,
}

impl std::fmt::Debug for OpenInfra {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenInfra")
            .field("key", &self.entry.key)
            .finish_non_exhaustive()
    }
}

impl OpenInfra {
    /// Client with the Machine's own credential.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Cluster and namespace.
    pub fn key(&self) -> &InfraKey {
        &self.entry.key
    }

    /// Digest of the credential, as a cache key.
    pub fn credential_digest(&self) -> &str {
        &self.credential.digest
    }

    /// The API server rejected the credential: it must be checked again.
    pub fn recheck_credential(&self) {
        self.credential.recheck_credential();
        self.entry.emit_for_credential(&self.credential);
    }

    /// UID of the VMs' namespace, if the credential may read it.
    pub fn namespace_uid(&self) -> Option<String> {
        self.entry.namespace_uid()
    }

    /// The kinds that the credential may not watch. Their stores contain the results of [`OpenInfra::poll`].
    pub fn missing(&self) -> &Missing {
        &self.missing
    }

    /// Polls the VM with that name, its instance and disks, if they cannot be watched and the next poll is due; also
    /// returns the time until the next poll.
    pub async fn poll(&self, name: &str, disks: &[String]) -> (Result<PollResult, RemoteError>, Duration) {
        let sight = PollTarget {
            client: &self.client,
            namespace: &self.entry.key.namespace,
            name,
            disks,
            missing: &self.missing,
        };
        self.credential.polls.take(sight).await
    }

    /// Whether the absence of the VM with that name is conclusive: VMs are watched, or it has been polled.
    pub fn is_absence_conclusive(&self, name: &str) -> bool {
        let is_seen = !self.missing.has(Kind::Vm) || self.credential.polls.has(name);
        is_seen && !self.is_unreadable(name)
    }

    /// Whether a VM with that name exists that cannot be decoded.
    pub fn is_unreadable(&self, name: &str) -> bool {
        let key = Key::new(&self.entry.key.namespace, name);
        self.vms().get(&key).is_none() && self.vms().is_unreadable(&key)
    }

    /// VirtualMachines of the namespace.
    pub fn vms(&self) -> &Store<Vm> {
        &self.objects(Kind::Vm).vms
    }

    /// VirtualMachineInstances of the namespace.
    pub fn vmis(&self) -> &Store<Vmi> {
        &self.objects(Kind::Vmi).vmis
    }

    /// DataVolumes of the namespace.
    pub fn data_volumes(&self) -> &Store<DataVolume> {
        &self.objects(Kind::DataVolume).data_volumes
    }

    /// PersistentVolumeClaims of the namespace.
    pub fn claims(&self) -> &Store<Claim> {
        &self.objects(Kind::Claim).claims
    }

    /// Cached facts about StorageClasses, instancetypes and similar objects.
    pub fn facts(&self) -> &FactsCache {
        &self.entry.facts
    }

    /// The shared stores, or the credential's own.
    fn objects(&self, kind: Kind) -> &Objects {
        if self.missing.has(kind) {
            &self.credential.polls.objects
        } else {
            &self.entry.objects
        }
    }
}

/// An entry, and a credential for it.
type EntryAndCredential = (InfraKey, String);

/// The credentials that a Machine uses: as of its last reconcile, and so far in the current one.
#[derive(Debug, Default)]
struct MachineAccess {
    settled: Vec<EntryAndCredential>,
    now: Vec<EntryAndCredential>,
}

/// All infra clusters in use.
pub struct InfraPool {
    options: PoolOptions,
    budget: Arc<Budget>,
    events: mpsc::UnboundedSender<InfraEvent>,
    entries: Mutex<HashMap<InfraKey, Arc<Entry>>>,
    accesses: Mutex<HashMap<Key, MachineAccess>>,
    kubeconfigs: KubeconfigCache,
}

impl std::fmt::Debug for InfraPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InfraPool").finish_non_exhaustive()
    }
}

/// How long the watches of an infra cluster that no Machine uses stay open, in case one comes back.
const IDLE_TTL: Duration = Duration::from_mins(5);

impl InfraPool {
    /// An empty pool that sends its events to `events`.
    pub fn new(options: PoolOptions, events: mpsc::UnboundedSender<InfraEvent>) -> Self {
        Self {
            budget: Arc::new(Budget::new(options.cache_bytes)),
            options,
            events,
            entries: Mutex::default(),
            accesses: Mutex::default(),
            kubeconfigs: KubeconfigCache::default(),
        }
    }

    /// Parses a kubeconfig, or returns the cached result.
    pub(crate) fn read(&self, kubeconfig: &str) -> Arc<Result<InfraKubeconfig, KubeconfigError>> {
        self.kubeconfigs.read(kubeconfig, self.options.client.addresses)
    }

    /// Access to the infra cluster of `kubeconfig` for the Machine `user`. Never blocks: unknown state is checked in
    /// the background, and an [`InfraEvent::State`] follows.
    pub fn access(&self, user: &Key, kubeconfig: &InfraKubeconfig, namespace: &str) -> Access {
        let key = InfraKey {
            server: kubeconfig.server().to_owned(),
            ca_digest: kubeconfig.ca_digest(),
            namespace: namespace.to_owned(),
        };
        let entry = self.entry(&key);
        let credential = entry.credential(kubeconfig, user, |credential| check::start(&entry, credential));
        let place = (key, credential.digest.clone());
        let mut accesses = self.accesses.lock();
        let accesses = accesses.entry(user.clone()).or_default();
        if !accesses.now.contains(&place) {
            accesses.now.push(place);
        }
        if let Some(cause) = entry.breaker.cause() {
            return Access::Failed(cause);
        }
        match (credential.state(), credential.client()) {
            (CredentialState::Refused(error), _) => Access::Failed(error),
            (CredentialState::Works(missing), Some(client)) => {
                let missing = if entry.share.is_over() {
                    Arc::new(missing.and_all())
                } else {
                    missing
                };
                match entry.sync_state(&missing) {
                    SyncState::Current => Access::Open(OpenInfra {
                        entry,
                        credential,
                        missing,
                        client,
                    }),
                    SyncState::Syncing => Access::Opening,
                    SyncState::Trouble(error) => Access::Failed(error),
                }
            }
            _ => Access::Opening,
        }
    }

    /// Releases the accesses that the Machine `user` has not requested since the last call. A Machine without requests
    /// keeps its accesses, because its kubeconfig may reappear.
    pub fn release_unused(&self, user: &Key) {
        let given_up: Vec<EntryAndCredential> = {
            let mut accesses = self.accesses.lock();
            let Some(accesses) = accesses.get_mut(user).filter(|accesses| !accesses.now.is_empty()) else {
                return;
            };
            let now = std::mem::take(&mut accesses.now);
            let before = std::mem::replace(&mut accesses.settled, now);
            before
                .into_iter()
                .filter(|place| !accesses.settled.contains(place))
                .collect()
        };
        self.give_up(user, given_up);
    }

    /// Releases everything of the deleted Machine `user`.
    pub fn release(&self, user: &Key) {
        let accesses = self.accesses.lock().remove(user).unwrap_or_default();
        self.give_up(user, accesses.settled.into_iter().chain(accesses.now).collect());
    }

    /// The concurrency limit for the Machine `user`, if its infra cluster is known: each cluster has its own, so that a
    /// slow one does not delay others.
    pub fn concurrency_limit(&self, user: &Key) -> Option<Arc<ConcurrencyLimit>> {
        let (key, _) = self.accesses.lock().get(user)?.settled.first()?.clone();
        let entry = self.entries.lock().get(&key).cloned()?;
        Some(Arc::clone(&entry.concurrency_limit))
    }

    /// The Machines that use that infra cluster.
    pub fn users(&self, key: &InfraKey) -> Vec<Key> {
        let entry = self.entries.lock().get(key).cloned();
        entry.map(|entry| entry.users()).unwrap_or_default()
    }

    /// Whether the Machine `user` uses another entry than `but`, perhaps the same cluster at another address, that has
    /// its VM with that UID.
    pub fn has_instance_elsewhere(&self, user: &Key, but: &InfraKey, vm_uid: &str) -> bool {
        let settled = self
            .accesses
            .lock()
            .get(user)
            .map(|accesses| accesses.settled.clone())
            .unwrap_or_default();
        let others = settled.iter().map(|(key, _)| key).filter(|key| *key != but);
        others.into_iter().any(|key| {
            let entry = self.entries.lock().get(key).cloned();
            entry.is_some_and(|entry| {
                let usable = entry.breaker.cause().is_none()
                    && entry.sync_state(&Missing::default()) == SyncState::Current;
                let vm = entry.objects.vms.get(&Key::new(&key.namespace, &user.name));
                usable && vm.is_some_and(|vm| vm.metadata.uid.as_deref() == Some(vm_uid))
            })
        })
    }

    /// See [`crate::provider::Provider::orphans`].
    pub(crate) fn orphans(&self, cluster_uid: &str, lives: &dyn Fn(&str) -> bool) -> Vec<Orphan> {
        let entries: Vec<_> = self.entries.lock().values().cloned().collect();
        let all = entries.iter();
        all.flat_map(|entry| orphans::of(&entry.key, &entry.objects, cluster_uid, lives))
            .collect()
    }

    /// Number of infra clusters in use, and of unreachable ones.
    pub fn count(&self) -> (usize, usize) {
        let entries = self.entries.lock();
        let used = entries.values().filter(|entry| entry.idle().is_none());
        let broken = used.clone().filter(|entry| entry.breaker.cause().is_some());
        (used.count(), broken.count())
    }

    fn give_up(&self, user: &Key, accesses: Vec<EntryAndCredential>) {
        for (key, digest) in accesses {
            let entry = self.entries.lock().get(&key).cloned();
            if let Some(entry) = entry {
                entry.release(&digest, user);
            }
        }
        self.entries.lock().retain(|_, entry| {
            let idle = entry.idle().is_some_and(|idle| idle > IDLE_TTL);
            if idle {
                entry.end();
            }
            !idle
        });
    }

    fn entry(&self, key: &InfraKey) -> Arc<Entry> {
        let mut entries = self.entries.lock();
        let new = || {
            let budget = Arc::clone(&self.budget);
            let entry = Entry::new(key.clone(), self.options.clone(), budget, self.events.clone());
            let entry = Arc::new(entry);
            entry.own(watches::start(&entry));
            entry.own(vec![probe::start(&entry)]);
            entry
        };
        Arc::clone(entries.entry(key.clone()).or_insert_with(new))
    }
}
