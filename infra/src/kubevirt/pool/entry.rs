//! One infra cluster and namespace: its shared stores, the credentials in use, and its reachability.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::budget::{Budget, Share};
use super::credential::{Credential, CredentialState};
use super::kind::{Kind, Missing, Objects};
use crate::cache::store::Key;
use crate::kube::breaker::Breaker;
use crate::kube::client::ClientOptions;
use crate::kube::error::RemoteError;
use crate::kube::kubeconfig::InfraKubeconfig;
use crate::kubevirt::facts::FactsCache;
use crate::kubevirt::objects::Cached;
use crate::provider::concurrency_limit::ConcurrencyLimit;
use crate::provider::{InfraEvent, InfraKey};

/// Options for all infra clusters.
#[derive(Debug, Clone)]
pub struct PoolOptions {
    /// Limits of each client.
    pub client: ClientOptions,
    /// Maximum number of concurrent reconciles of Machines of one infra cluster.
    pub concurrency_limit: usize,
    /// How often the objects of a Machine are polled if its credential may not watch, and its permissions are checked
    /// again.
    pub poll_interval: Duration,
    /// How long a fact about an infra cluster is cached.
    pub facts_ttl: Duration,
    /// Maximum cache size in bytes for all infra clusters together.
    pub cache_bytes: usize,
    /// UID of the user cluster, a label of its VMs.
    pub cluster_uid: String,
}

/// The state of the shared store of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SyncState {
    /// It is being listed, for the first time or again.
    Syncing,
    /// It follows the watch.
    Current,
    /// The API server does not allow the watch.
    Trouble(RemoteError),
}

/// A credential and the Machines that use it.
struct Held {
    credential: Arc<Credential>,
    users: HashSet<Key>,
    check: AbortHandle,
    /// A higher number is newer.
    number: u64,
}

pub(super) struct Entry {
    pub(super) key: InfraKey,
    pub(super) objects: Objects,
    pub(super) facts: FactsCache,
    pub(super) breaker: Arc<Breaker>,
    pub(super) options: PoolOptions,
    /// The budget of all infra clusters, and whether this one exceeds its share.
    budget: Arc<Budget>,
    pub(super) share: Arc<Share>,
    /// Names of the Machines that use it, with their number of credentials.
    names: Mutex<HashMap<String, usize>>,
    /// Limits concurrent reconciles of Machines of this cluster.
    pub(super) concurrency_limit: Arc<ConcurrencyLimit>,
    namespace_uid: RwLock<Option<String>>,
    sync_state: Mutex<HashMap<Kind, SyncState>>,
    held: Mutex<HashMap<String, Held>>,
    changes: watch::Sender<u64>,
    numbers: AtomicU64,
    events: mpsc::UnboundedSender<InfraEvent>,
    tasks: Mutex<Vec<AbortHandle>>,
    idle_since: Mutex<Option<Instant>>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl Entry {
    /// A new entry without watches.
    pub(super) fn new(
        key: InfraKey,
        options: PoolOptions,
        budget: Arc<Budget>,
        events: mpsc::UnboundedSender<InfraEvent>,
    ) -> Self {
        let entry = Self {
            key,
            objects: Objects::default(),
            facts: FactsCache::new(options.facts_ttl),
            breaker: Arc::new(Breaker::new(options.client.in_flight)),
            concurrency_limit: ConcurrencyLimit::new(options.concurrency_limit),
            options,
            budget,
            share: Share::new(),
            names: Mutex::default(),
            namespace_uid: RwLock::new(None),
            sync_state: Mutex::new(Kind::ALL.map(|kind| (kind, SyncState::Syncing)).into()),
            held: Mutex::default(),
            changes: watch::Sender::new(0),
            numbers: AtomicU64::new(0),
            events,
            tasks: Mutex::default(),
            idle_since: Mutex::new(None),
        };
        entry.budget.admit(&entry.key, &entry.share);
        entry
    }

    /// Tasks that end with it.
    pub(super) fn own(&self, tasks: Vec<AbortHandle>) {
        self.tasks.lock().extend(tasks);
    }

    /// Ends all its tasks. They hold references to it, so it does not end by itself.
    pub(super) fn end(&self) {
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
        for (_, held) in self.held.lock().drain() {
            held.check.abort();
        }
        self.budget.forget(&self.key, &self.share);
    }

    // === Credentials ===

    /// The credential of a kubeconfig, used by that Machine from now on. A new one is checked by the task that `check`
    /// starts.
    pub(super) fn credential(
        &self,
        kubeconfig: &InfraKubeconfig,
        user: &Key,
        check: impl FnOnce(&Arc<Credential>) -> AbortHandle,
    ) -> Arc<Credential> {
        *self.idle_since.lock() = None;
        let mut held = self.held.lock();
        let found = held.entry(kubeconfig.credential_digest()).or_insert_with(|| {
            let credential = Arc::new(Credential::new(kubeconfig.clone(), self.options.poll_interval));
            Held {
                check: check(&credential),
                credential,
                users: HashSet::new(),
                number: self.numbers.fetch_add(1, Ordering::Relaxed),
            }
        });
        if !found.users.contains(user) {
            found.users.insert(user.clone());
            *self.names.lock().entry(user.name.clone()).or_default() += 1;
        }
        Arc::clone(&found.credential)
    }

    /// The Machine no longer uses that credential.
    pub(super) fn release(&self, digest: &str, user: &Key) {
        let mut held = self.held.lock();
        if let Some(found) = held.get_mut(digest) {
            if found.users.remove(user) {
                self.forget_name(&user.name);
            }
            if found.users.is_empty() {
                found.check.abort();
                held.remove(digest);
            }
        }
        if held.is_empty() {
            *self.idle_since.lock() = Some(Instant::now());
        }
        drop(held);
        self.credentials_changed();
    }

    fn forget_name(&self, name: &str) {
        let mut names = self.names.lock();
        if let Some(count) = names.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                names.remove(name);
            }
        }
    }

    /// How long no Machine has used it.
    pub(super) fn idle(&self) -> Option<Duration> {
        self.idle_since.lock().map(|since| since.elapsed())
    }

    /// The newest credential that may watch that kind.
    fn watcher_of(&self, kind: Kind) -> Option<Arc<Credential>> {
        let held = self.held.lock();
        let able = held.values().filter(|held| held.credential.may_watch(kind));
        able.max_by_key(|held| held.number)
            .map(|held| Arc::clone(&held.credential))
    }

    /// Whether some credential may watch that kind.
    pub(super) fn can_watch(&self, kind: Kind) -> bool {
        self.watcher_of(kind).is_some()
    }

    /// Returns the credential to watch that kind with, as soon as there is one.
    pub(super) async fn watcher(&self, kind: Kind) -> Arc<Credential> {
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            if let Some(credential) = self.watcher_of(kind) {
                return credential;
            }
            // The sender lives as long as `self`.
            let _ = changes.changed().await;
        }
    }

    /// Returns when another credential should be used for the watch: no Machine uses this one any more, or its state is
    /// unknown.
    pub(super) async fn superseded(&self, credential: &Credential, kind: Kind) {
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            let used = self.held.lock().contains_key(&credential.digest);
            if !(used && credential.may_watch(kind)) && self.watcher_of(kind).is_some() {
                return;
            }
            let _ = changes.changed().await;
        }
    }

    /// A credential was added, removed, or changed its state.
    pub(super) fn credentials_changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// The newest client, for probes.
    pub(super) fn probing(&self) -> Option<Client> {
        let held = self.held.lock();
        let able = held
            .values()
            .filter_map(|held| Some((held.number, held.credential.client()?)));
        able.max_by_key(|(number, _)| *number).map(|(_, client)| client)
    }

    // === What is known of the cluster ===

    /// UID of the namespace, if a credential may read it.
    pub(super) fn namespace_uid(&self) -> Option<String> {
        self.namespace_uid.read().clone()
    }

    /// Reads the UID of the namespace if it is unknown. Not every credential may; then server and CA identify the
    /// cluster.
    pub(super) async fn learn_namespace(&self, client: &Client) {
        if self.namespace_uid().is_none() {
            let _ = self.verify_namespace(client).await;
        }
    }

    /// Reads the UID of the namespace again: another cluster may now use the same address.
    pub(super) async fn verify_namespace(&self, client: &Client) -> Result<(), RemoteError> {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let uid = match namespaces.get_metadata(&self.key.namespace).await {
            Ok(namespace) => namespace.metadata.uid,
            Err(kube::Error::Api(status)) if status.code == 403 => return Ok(()),
            Err(error) => return Err(RemoteError::from(&error)),
        };
        let mut known = self.namespace_uid.write();
        if known.is_some() && *known != uid {
            tracing::warn!(
                server = self.key.server,
                namespace = self.key.namespace,
                "another cluster answers at this address"
            );
            self.facts.clear();
        }
        *known = uid;
        Ok(())
    }

    /// The state of the shared stores, of all kinds except the polled ones.
    pub(super) fn sync_state(&self, but: &Missing) -> SyncState {
        all_but(&self.sync_state.lock(), but)
    }

    /// Whether the shared store of a kind follows its watch.
    pub(super) fn is_current(&self, kind: Kind) -> bool {
        self.sync_state.lock().get(&kind) == Some(&SyncState::Current)
    }

    /// Sets the state of the shared store of a kind, and notifies the Machines that it affects.
    pub(super) fn set_sync_state(&self, kind: Kind, sync_state: SyncState) {
        let (before, after) = {
            let mut known = self.sync_state.lock();
            let before = known.clone();
            known.insert(kind, sync_state);
            (before, known.clone())
        };
        if before == after {
            return;
        }
        let held: Vec<_> = self
            .held
            .lock()
            .values()
            .map(|held| Arc::clone(&held.credential))
            .collect();
        for credential in held {
            let CredentialState::Works(missing) = credential.state() else {
                continue;
            };
            let now = all_but(&after, &missing);
            // Listing again is usually fast; otherwise the breaker or a failure notifies.
            if now != SyncState::Syncing && now != all_but(&before, &missing) {
                self.emit_for_users(&credential);
            }
        }
    }

    // === Cache size ===

    /// Reduces an object to its identity, if it neither belongs to this user cluster nor has the name of one of its
    /// Machines; `vm` returns the name of the VM that an object with that name belongs to.
    pub(super) fn reduce<K: Cached>(&self, object: &mut K, vm: fn(&str) -> String) {
        let is_ours = object.cluster_uid() == Some(self.options.cluster_uid.as_str());
        let name = vm(object.meta().name.as_deref().unwrap_or_default());
        if !is_ours && !self.names.lock().contains_key(&name) {
            object.reduce();
        }
    }

    /// Reports its cache size to the budget.
    pub(super) fn update_size(&self) {
        let machines = self.names.lock().len();
        self.budget
            .hold(&self.key, self.objects.bytes(), machines, &self.share);
    }

    /// Records that a kind is cached completely; if all are, the cluster fits.
    pub(super) fn fits(&self) {
        let all = Kind::ALL
            .into_iter()
            .all(|kind| self.is_current(kind) || !self.can_watch(kind));
        if all && self.share.fits() {
            self.emit_for_all();
        }
    }

    // === Notifications ===

    pub(super) fn emit(&self, event: InfraEvent) {
        // The receiver is only gone when the process ends.
        let _ = self.events.send(event);
    }

    /// Notifies the Machines of a credential that its state has changed.
    pub(super) fn emit_for_credential(&self, credential: &Credential) {
        self.credentials_changed();
        self.emit_for_users(credential);
    }

    fn emit_for_users(&self, credential: &Credential) {
        let users = self
            .held
            .lock()
            .get(&credential.digest)
            .map(|held| held.users.iter().cloned().collect());
        self.emit(InfraEvent::State {
            machines: users.unwrap_or_default(),
        });
    }

    /// The Machines that use it.
    pub(super) fn users(&self) -> Vec<Key> {
        let held = self.held.lock();
        let users: HashSet<&Key> = held.values().flat_map(|held| &held.users).collect();
        users.into_iter().cloned().collect()
    }

    /// Notifies all Machines.
    pub(super) fn emit_for_all(&self) {
        self.emit(InfraEvent::State {
            machines: self.users(),
        });
    }
}

/// The combined state of the stores, of all kinds except `but`.
fn all_but(sync_state: &HashMap<Kind, SyncState>, but: &Missing) -> SyncState {
    let mut all = SyncState::Current;
    for kind in Kind::ALL.into_iter().filter(|kind| !but.has(*kind)) {
        match sync_state.get(&kind) {
            Some(SyncState::Trouble(error)) => return SyncState::Trouble(error.clone()),
            Some(SyncState::Current) => {}
            _ => all = SyncState::Syncing,
        }
    }
    all
}
