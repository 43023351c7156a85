//! Secrets and ConfigMaps that specs refer to: one watch per referenced object, for as long as it is needed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::convert::identity;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client, Resource};
use machinist_infra::cache::reflect::{Signal, reflect};
use machinist_infra::cache::store::{Key, Store};
use machinist_infra::cache::watch::Selector;
use machinist_shared::api::config_var::{KeyRef, LookupError, RefKind};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// A referenced object of the user cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Secret or ConfigMap.
    pub kind: RefKind,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl From<&KeyRef> for Reference {
    fn from(key: &KeyRef) -> Self {
        Self {
            kind: key.kind,
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        }
    }
}

/// An object that refers to others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Referrer {
    /// A Machine.
    Machine(Key),
    /// A node group of the cluster-autoscaler.
    NodeGroup(NodeGroup),
}

/// What the cluster-autoscaler may take for a node group.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NodeGroup {
    /// A MachineDeployment.
    Deployment(Key),
    /// A MachineSet that stands alone.
    Set(Key),
}

/// What is known of a referenced object.
#[derive(Clone, PartialEq, Eq)]
pub enum Looked<T> {
    /// Not yet known; the referrer is reported when it is.
    Pending,
    /// It does not exist.
    Absent,
    /// It exists.
    Found(T),
}

/// Text of [`LookupError::Unavailable`] for an object that is not yet known.
const PENDING: &str = "it is being read";

/// Whether the value is not yet known: the referrer is reconciled when it is.
pub fn is_pending(error: &LookupError) -> bool {
    matches!(error, LookupError::Unavailable(text) if text == PENDING)
}

/// Data of a Secret or ConfigMap, as text; keys that are no text are left out.
type Data = BTreeMap<String, String>;

struct Watch {
    store: Stored,
    /// What it held when it was deleted, until it is there again.
    parting: Option<Data>,
    users: HashSet<Referrer>,
    task: AbortHandle,
}

#[derive(Clone)]
enum Stored {
    Secret(Arc<Store<Secret>>),
    ConfigMap(Arc<Store<ConfigMap>>),
}

/// The watches of referenced objects.
pub struct References {
    client: Client,
    changed: mpsc::UnboundedSender<Referrer>,
    watches: Arc<Mutex<HashMap<Reference, Watch>>>,
}

impl std::fmt::Debug for References {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("References").finish_non_exhaustive()
    }
}

impl References {
    /// No watches yet; whenever a referenced object changes, its referrers are sent to `changed`.
    pub fn new(client: Client, changed: mpsc::UnboundedSender<Referrer>) -> Self {
        Self {
            client,
            changed,
            watches: Arc::default(),
        }
    }

    /// The value of a key, on behalf of `user`; opens the watch if there is none.
    pub fn value(&self, key: &KeyRef, user: &Referrer) -> Result<String, LookupError> {
        let reference = Reference::from(key);
        let name = Key::new(&reference.namespace, &reference.name);
        let looked = match self.store(&reference, user) {
            Stored::Secret(store) => look(&store, &name, |secret| of_secret(&secret)),
            Stored::ConfigMap(store) => look(&store, &name, |map| of_config_map(&map)),
        };
        match looked {
            Looked::Pending => Err(LookupError::Unavailable(PENDING.to_owned())),
            Looked::Absent => Err(LookupError::NoObject),
            Looked::Found(mut data) => data.remove(&key.key).ok_or(LookupError::NoKey),
        }
    }

    /// What is known of the Secret with that name, on behalf of `user`; opens the watch if there is none.
    pub fn secret(&self, reference: &Reference, user: &Referrer) -> Looked<Arc<Secret>> {
        match self.store(reference, user) {
            Stored::Secret(store) => look(&store, &Key::new(&reference.namespace, &reference.name), identity),
            Stored::ConfigMap(_) => Looked::Absent,
        }
    }

    fn store(&self, reference: &Reference, user: &Referrer) -> Stored {
        let mut watches = self.watches.lock();
        let watch = watches
            .entry(reference.clone())
            .or_insert_with(|| self.open(reference));
        watch.users.insert(user.clone());
        watch.store.clone()
    }

    /// What `reference` held when it was deleted, if that was seen while an object referred to it.
    pub fn parting(&self, reference: &Reference) -> Option<Data> {
        let watches = self.watches.lock();
        watches.get(reference)?.parting.clone()
    }

    /// `user` now needs `references` only; watches that are not needed any more end.
    pub fn keep(&self, user: &Referrer, references: &HashSet<Reference>) {
        let mut watches = self.watches.lock();
        watches.retain(|reference, watch| {
            if !references.contains(reference) {
                watch.users.remove(user);
            }
            if watch.users.is_empty() {
                watch.task.abort();
            }
            !watch.users.is_empty()
        });
    }

    fn open(&self, reference: &Reference) -> Watch {
        let config = Selector::default().fields(&format!("metadata.name={}", reference.name));
        let (client, namespace) = (self.client.clone(), reference.namespace.as_str());
        let (store, task) = match reference.kind {
            RefKind::Secret => {
                let store = Arc::new(Store::new(|_: &Secret| Vec::new()));
                let run = reflect(
                    Api::namespaced(client, namespace),
                    config,
                    store.clone(),
                    self.tell(reference, of_secret),
                );
                (Stored::Secret(store), tokio::spawn(run))
            }
            RefKind::ConfigMap => {
                let store = Arc::new(Store::new(|_: &ConfigMap| Vec::new()));
                let run = reflect(
                    Api::namespaced(client, namespace),
                    config,
                    store.clone(),
                    self.tell(reference, of_config_map),
                );
                (Stored::ConfigMap(store), tokio::spawn(run))
            }
        };
        Watch {
            store,
            parting: None,
            users: HashSet::new(),
            task: task.abort_handle(),
        }
    }

    fn tell<K>(
        &self,
        reference: &Reference,
        data: fn(&K) -> Data,
    ) -> impl FnMut(Signal<'_, K>) + Send + use<K> {
        let (watches, changed, reference) = (
            Arc::downgrade(&self.watches),
            self.changed.clone(),
            reference.clone(),
        );
        let mut synced = false;
        move |signal| {
            if let Signal::Failed(error) = &signal {
                tracing::warn!(namespace = reference.namespace, name = reference.name, %error, "watch of a referenced object failed");
                return;
            }
            let Some(watches) = watches.upgrade() else { return };
            let mut watches = watches.lock();
            let Some(watch) = watches.get_mut(&reference) else {
                return;
            };
            if let Signal::Changed(change) = &signal {
                watch.parting = match (&change.before, &change.after) {
                    (Some(old), None) => Some(data(old)),
                    _ => None,
                };
            }
            // Until then it has no reader; what a later list has changed is reported by itself.
            let tells = matches!(signal, Signal::Synced) != synced;
            synced |= matches!(signal, Signal::Synced);
            for user in watch.users.iter().filter(|_| tells) {
                // There is no listener only when the process is ending.
                let _ = changed.send(user.clone());
            }
        }
    }
}

fn look<K: Resource<DynamicType = ()>, T>(
    store: &Store<K>,
    key: &Key,
    read: impl Fn(Arc<K>) -> T,
) -> Looked<T> {
    if !store.is_synced() {
        return Looked::Pending;
    }
    store
        .get(key)
        .map_or(Looked::Absent, |found| Looked::Found(read(found)))
}

fn of_secret(secret: &Secret) -> Data {
    let data = secret.data.iter().flatten();
    data.filter_map(|(key, value)| Some((key.clone(), String::from_utf8(value.0.clone()).ok()?)))
        .collect()
}

fn of_config_map(map: &ConfigMap) -> Data {
    map.data.clone().unwrap_or_default()
}
