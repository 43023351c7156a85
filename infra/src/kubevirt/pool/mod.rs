//! The infra clusters in use: one entry per (server, CA, namespace), with its watches, and one access per credential.
//!
//! Stores are pooled, rights are not. A Machine reads an entry's stores only through an [`Access`], which it gets for
//! its own credential, and only after that credential has been seen to work there.

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

/// Whether an infra cluster can be worked with, through one credential.
#[derive(Debug, Clone)]
pub enum Access {
    /// Being found out; an [`InfraEvent::State`] follows.
    Opening,
    /// The cluster answers and the stores are complete.
    Open(OpenInfra),
    /// The cluster does not answer, or the credential is refused; it is being retried.
    Failed(RemoteError),
}

/// An infra cluster seen through one credential that works there.
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

    /// Which cluster and namespace.
    pub fn key(&self) -> &InfraKey {
        &self.entry.key
    }

    /// Digest of the credential, by which answers may be kept.
    pub fn credential_digest(&self) -> &str {
        &self.credential.digest
    }

    /// The API server refused the credential: it must be found out anew whether it works.
    pub fn recheck_credential(&self) {
        self.credential.recheck_credential();
        self.entry.emit_for_credential(&self.credential);
    }

    /// UID of the VMs' namespace, where the credential may read it.
    pub fn namespace_uid(&self) -> Option<String> {
        self.entry.namespace_uid()
    }

    /// What the credential may not watch. Of these kinds, the stores hold what [`OpenInfra::poll`] found.
    pub fn missing(&self) -> &Missing {
        &self.missing
    }

    /// Polls at the VM of that name, its instance and disks, where they may not be watched, unless that has been done
    /// lately; gives also how long until the next poll is due.
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

    /// Whether the absence of the VM of that name means something: it is watched, or has been looked at.
    pub fn is_absence_conclusive(&self, name: &str) -> bool {
        let is_seen = !self.missing.has(Kind::Vm) || self.credential.polls.has(name);
        is_seen && !self.is_unreadable(name)
    }

    /// Whether there is a VM of that name that cannot be read.
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

    /// Cached answers about StorageClasses, instancetypes and the like.
    pub fn facts(&self) -> &FactsCache {
        &self.entry.facts
    }

    /// The shared stores, or this credential's own.
    fn objects(&self, kind: Kind) -> &Objects {
        if self.missing.has(kind) {
            &self.credential.polls.objects
        } else {
            &self.entry.objects
        }
    }
}

/// An entry and a credential there.
type EntryAndCredential = (InfraKey, String);

/// The credentials that a Machine uses: as of its last pass, and so far in this one.
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
    /// An empty pool that tells of everything through `events`.
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

    /// The infra cluster of `kubeconfig`, as far as its credential is known to work, for the Machine `user`. Never
    /// blocks: what is not known is being found out, and an [`InfraEvent::State`] tells when.
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

    /// The Machine `user` has asked for all that it needs: what it needed before and not now is given up. One that
    /// asked for nothing keeps what it has, for its kubeconfig may come back.
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

    /// The Machine `user` is gone.
    pub fn release(&self, user: &Key) {
        let accesses = self.accesses.lock().remove(user).unwrap_or_default();
        self.give_up(user, accesses.settled.into_iter().chain(accesses.now).collect());
    }

    /// The concurrency_limit of the Machine `user`, if its infra cluster is known: each has its own, so that one that
    /// is slow slows nobody else's.
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

    /// Whether the Machine `user` works with another entry than `but`, perhaps the same cluster by another address, and
    /// its VM of that UID is there.
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

    /// How many infra clusters are in use, and how many of them do not answer.
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
