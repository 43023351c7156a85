//! The infra clusters in use: one entry per (server, CA, namespace), with its watches, and one access per credential.
//!
//! Stores are pooled, rights are not. A Machine reads an entry's stores only through an [`Access`], which it gets for
//! its own credential, and only after that credential has been seen to work there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::client::{ClientOptions, RemoteError, infra_client};
use crate::facts::FactsCache;
use crate::kubeconfig::InfraKubeconfig;
use crate::objects::{Claim, DataVolume, Vm, Vmi};
use crate::reflect::{Signal, reflect};
use crate::store::Store;

/// Which infra cluster and namespace: what pooled stores are keyed by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InfraKey {
    /// URL of the API server.
    pub server: String,
    /// SHA-256 of its CA, or how it is trusted without one.
    pub ca_digest: String,
    /// Namespace of the VMs.
    pub namespace: String,
}

/// Something happened on an infra cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InfraEvent {
    /// An object of the VM of that name changed.
    Vm {
        /// Where.
        key: InfraKey,
        /// Name of the VM, and so of the Machine.
        name: String,
    },
    /// The cluster became reachable, unreachable, or a credential's rights became known.
    State {
        /// Where.
        key: InfraKey,
    },
}

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

    /// UID of the VMs' namespace, where the credential may read it.
    pub fn namespace_uid(&self) -> Option<String> {
        self.entry.namespace_uid.get().cloned()
    }

    /// VirtualMachines of the namespace.
    pub fn vms(&self) -> &Store<Vm> {
        &self.entry.vms
    }

    /// VirtualMachineInstances of the namespace.
    pub fn vmis(&self) -> &Store<Vmi> {
        &self.entry.vmis
    }

    /// DataVolumes of the namespace.
    pub fn data_volumes(&self) -> &Store<DataVolume> {
        &self.entry.data_volumes
    }

    /// PersistentVolumeClaims of the namespace.
    pub fn claims(&self) -> &Store<Claim> {
        &self.entry.claims
    }

    /// Cached answers about StorageClasses, instancetypes and the like.
    pub fn facts(&self) -> &FactsCache {
        &self.entry.facts
    }

    /// The last watch failure, while it lasts: the stores may be behind.
    pub fn trouble(&self) -> Option<RemoteError> {
        self.entry
            .trouble
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

struct Entry {
    key: InfraKey,
    vms: Arc<Store<Vm>>,
    vmis: Arc<Store<Vmi>>,
    data_volumes: Arc<Store<DataVolume>>,
    claims: Arc<Store<Claim>>,
    facts: FactsCache,
    namespace_uid: OnceLock<String>,
    trouble: RwLock<Option<RemoteError>>,
    credentials: Mutex<HashMap<String, Credential>>,
    watching: OnceLock<()>,
    tasks: Mutex<JoinSet<()>>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

#[derive(Clone)]
enum Credential {
    Checking,
    Works(Client),
    Failed(RemoteError),
}

/// All infra clusters in use.
pub struct InfraPool {
    options: ClientOptions,
    events: mpsc::UnboundedSender<InfraEvent>,
    entries: Mutex<HashMap<InfraKey, Arc<Entry>>>,
}

impl std::fmt::Debug for InfraPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InfraPool").finish_non_exhaustive()
    }
}

/// First and longest pause between two tries to open an infra cluster.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

impl InfraPool {
    /// An empty pool that tells of everything through `events`.
    pub fn new(options: ClientOptions, events: mpsc::UnboundedSender<InfraEvent>) -> Self {
        Self {
            options,
            events,
            entries: Mutex::new(HashMap::new()),
        }
    }

    /// The infra cluster of `kubeconfig`, as far as its credential is known to work. Never blocks: what is not known
    /// is being found out, and an [`InfraEvent::State`] tells when.
    pub fn access(&self, kubeconfig: &InfraKubeconfig, namespace: &str) -> Access {
        let key = InfraKey {
            server: kubeconfig.server().to_owned(),
            ca_digest: kubeconfig.ca_digest(),
            namespace: namespace.to_owned(),
        };
        let entry = self.entry(&key);
        let digest = kubeconfig.credential_digest();
        let mut credentials = entry.credentials.lock().unwrap_or_else(PoisonError::into_inner);
        match credentials.get(&digest) {
            Some(Credential::Works(client)) if entry.is_synced() => Access::Open(OpenInfra {
                entry: entry.clone(),
                client: client.clone(),
            }),
            Some(Credential::Failed(error)) => Access::Failed(error.clone()),
            Some(_) => match entry
                .trouble
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .clone()
            {
                Some(error) => Access::Failed(error),
                None => Access::Opening,
            },
            None => {
                credentials.insert(digest.clone(), Credential::Checking);
                drop(credentials);
                let task = open(
                    entry.clone(),
                    kubeconfig.clone(),
                    digest,
                    self.options.clone(),
                    self.events.clone(),
                );
                entry.spawn(task);
                Access::Opening
            }
        }
    }

    fn entry(&self, key: &InfraKey) -> Arc<Entry> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            Arc::new(Entry {
                key: key.clone(),
                vms: Arc::new(Store::new(|_| Vec::new())),
                vmis: Arc::new(Store::new(|_| Vec::new())),
                data_volumes: Arc::new(Store::new(|_| Vec::new())),
                claims: Arc::new(Store::new(|_| Vec::new())),
                facts: FactsCache::default(),
                namespace_uid: OnceLock::new(),
                trouble: RwLock::new(None),
                credentials: Mutex::new(HashMap::new()),
                watching: OnceLock::new(),
                tasks: Mutex::new(JoinSet::new()),
            })
        };
        entries.entry(key.clone()).or_insert_with(new).clone()
    }
}

impl Entry {
    fn is_synced(&self) -> bool {
        self.vms.is_synced()
            && self.vmis.is_synced()
            && self.data_volumes.is_synced()
            && self.claims.is_synced()
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .spawn(task);
    }

    fn set_credential(&self, digest: &str, state: Credential) {
        self.credentials
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(digest.to_owned(), state);
    }

    fn set_trouble(&self, trouble: Option<RemoteError>) -> bool {
        let mut now = self.trouble.write().unwrap_or_else(PoisonError::into_inner);
        let changed = now.is_some() != trouble.is_some();
        *now = trouble;
        changed
    }
}

/// Finds out whether a credential works at an infra cluster, for as long as it does not; the first that does starts
/// the watches.
async fn open(
    entry: Arc<Entry>,
    kubeconfig: InfraKubeconfig,
    digest: String,
    options: ClientOptions,
    events: mpsc::UnboundedSender<InfraEvent>,
) {
    let mut pause = RETRY.0;
    loop {
        match check(&entry, &kubeconfig, &options).await {
            Ok(client) => {
                entry.set_credential(&digest, Credential::Works(client.clone()));
                if entry.watching.set(()).is_ok() {
                    watch_all(&entry, &client, &events);
                }
                // Nobody listens any more only when the process is ending.
                let _ = events.send(InfraEvent::State {
                    key: entry.key.clone(),
                });
                return;
            }
            Err(error) => {
                tracing::warn!(server = entry.key.server, namespace = entry.key.namespace, %error, "infra cluster cannot be opened");
                entry.set_credential(&digest, Credential::Failed(error));
                let _ = events.send(InfraEvent::State {
                    key: entry.key.clone(),
                });
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

/// One small request with the credential itself; what it may do beyond that shows when it is done.
async fn check(
    entry: &Entry,
    kubeconfig: &InfraKubeconfig,
    options: &ClientOptions,
) -> Result<Client, RemoteError> {
    let client = infra_client(kubeconfig, options)
        .await
        .map_err(|error| RemoteError::other(error.to_string()))?;
    let vms: Api<Vm> = Api::namespaced(client.clone(), &entry.key.namespace);
    vms.list_metadata(&ListParams::default().limit(1))
        .await
        .map_err(|error| RemoteError::from(&error))?;
    if entry.namespace_uid.get().is_none() {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        // Not every credential may read it; the server and CA then tell clusters apart.
        if let Ok(namespace) = namespaces.get_metadata(&entry.key.namespace).await
            && let Some(uid) = namespace.metadata.uid
        {
            let _ = entry.namespace_uid.set(uid);
        }
    }
    Ok(client)
}

fn watch_all(entry: &Arc<Entry>, client: &Client, events: &mpsc::UnboundedSender<InfraEvent>) {
    watch(entry, client, entry.vms.clone(), events, |vm: &Vm| {
        vm.metadata.name.clone()
    });
    watch(entry, client, entry.vmis.clone(), events, |vmi: &Vmi| {
        vmi.metadata.name.clone()
    });
    watch(
        entry,
        client,
        entry.data_volumes.clone(),
        events,
        |dv: &DataVolume| {
            dv.metadata
                .name
                .as_deref()
                .map(|name| vm_of_disk(name).to_owned())
        },
    );
    watch(entry, client, entry.claims.clone(), events, |claim: &Claim| {
        claim
            .metadata
            .name
            .as_deref()
            .map(|name| vm_of_disk(name).to_owned())
    });
}

fn watch<K>(
    entry: &Arc<Entry>,
    client: &Client,
    store: Arc<Store<K>>,
    events: &mpsc::UnboundedSender<InfraEvent>,
    name: fn(&K) -> Option<String>,
) where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug
        + Send
        + Sync
        + 'static,
{
    let api: Api<K> = Api::namespaced(client.clone(), &entry.key.namespace);
    let (owner, events) = (Arc::downgrade(entry), events.clone());
    let key = entry.key.clone();
    let on = move |signal: Signal<'_, K>| {
        let Some(entry) = owner.upgrade() else { return };
        match signal {
            Signal::Changed(change) => {
                let Some(name) = change.versions().find_map(|object| name(object)) else {
                    return;
                };
                let _ = events.send(InfraEvent::Vm {
                    key: key.clone(),
                    name,
                });
            }
            Signal::Synced => {
                entry.set_trouble(None);
                if entry.is_synced() {
                    let _ = events.send(InfraEvent::State { key: key.clone() });
                }
            }
            Signal::Failed(error) => {
                let error = RemoteError::from_watch(error);
                tracing::warn!(server = key.server, kind = %K::kind(&()), %error, "watch of the infra cluster failed");
                if entry.set_trouble(Some(error)) {
                    let _ = events.send(InfraEvent::State { key: key.clone() });
                }
            }
        }
    };
    entry.spawn(reflect(api, watcher::Config::default(), store, on));
}

/// `web-1-secondarydisk0` belongs to the VM `web-1`; other names are the VM's own.
fn vm_of_disk(name: &str) -> &str {
    match name.rsplit_once("-secondarydisk") {
        Some((vm, index)) if !index.is_empty() && index.bytes().all(|b| b.is_ascii_digit()) => vm,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::vm_of_disk;
    use rstest::rstest;

    #[rstest]
    #[case("web-1", "web-1")]
    #[case("web-1-secondarydisk0", "web-1")]
    #[case("web-1-secondarydisk12", "web-1")]
    #[case("web-1-secondarydisk", "web-1-secondarydisk")]
    #[case("web-1-secondarydiskx", "web-1-secondarydiskx")]
    fn disks_are_named_after_their_vm(#[case] disk: &str, #[case] vm: &str) {
        assert_eq!(vm_of_disk(disk), vm);
    }
}
