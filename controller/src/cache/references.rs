//! Secrets and ConfigMaps that specs refer to: one watch per referenced object, for as long as it is needed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};
use machinist_infra::cache::reflect::{Signal, reflect};
use machinist_infra::cache::store::{Key, Store};
use machinist_infra::cache::watch::Selector;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// What kind of object is referred to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReferenceKind {
    /// A Secret.
    Secret,
    /// A ConfigMap.
    ConfigMap,
}

/// A referenced object of the user cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Secret or ConfigMap.
    pub kind: ReferenceKind,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// What is known of a referenced object.
#[derive(Clone, PartialEq, Eq)]
pub enum Looked {
    /// Not yet known; the Machine is reported when it is.
    Pending,
    /// It does not exist.
    Absent,
    /// Its data, as text; keys that are no text are left out.
    Found(Data),
}

/// Data of a Secret or ConfigMap, as text; keys that are no text are left out.
type Data = BTreeMap<String, String>;

struct Watch {
    store: Stored,
    /// What it held when it was deleted, until it is there again.
    parting: Option<Data>,
    users: HashSet<Key>,
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
    changed: mpsc::UnboundedSender<Key>,
    watches: Arc<Mutex<HashMap<Reference, Watch>>>,
}

impl std::fmt::Debug for References {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("References").finish_non_exhaustive()
    }
}

/// What is known of a referenced Secret, with its metadata.
pub enum LookedSecret {
    /// Not yet known; the Machine is reported when it is.
    Pending,
    /// It does not exist.
    Absent,
    /// It exists.
    Found(Arc<Secret>),
}

impl References {
    /// No watches yet; whenever a referenced object changes, its Machines' keys are sent to `changed`.
    pub fn new(client: Client, changed: mpsc::UnboundedSender<Key>) -> Self {
        Self {
            client,
            changed,
            watches: Arc::default(),
        }
    }

    /// What is known of `reference`, on behalf of the Machine `user`; opens the watch if there is none.
    pub fn look(&self, reference: &Reference, user: &Key) -> Looked {
        let mut watches = self.watches.lock();
        let watch = watches
            .entry(reference.clone())
            .or_insert_with(|| self.open(reference));
        watch.users.insert(user.clone());
        let key = Key::new(&reference.namespace, &reference.name);
        match &watch.store {
            Stored::Secret(store) if store.is_synced() => store
                .get(&key)
                .map_or(Looked::Absent, |secret| Looked::Found(of_secret(&secret))),
            Stored::ConfigMap(store) if store.is_synced() => store
                .get(&key)
                .map_or(Looked::Absent, |map| Looked::Found(of_config_map(&map))),
            _ => Looked::Pending,
        }
    }

    /// What `reference` held when it was deleted, if that was seen while a Machine referred to it.
    pub fn parting(&self, reference: &Reference) -> Option<Data> {
        let watches = self.watches.lock();
        watches.get(reference)?.parting.clone()
    }

    /// What is known of the Secret `namespace/name`, on behalf of the Machine `user`; opens the watch if there is none.
    pub fn look_secret(&self, reference: &Reference, user: &Key) -> LookedSecret {
        let mut watches = self.watches.lock();
        let watch = watches
            .entry(reference.clone())
            .or_insert_with(|| self.open(reference));
        watch.users.insert(user.clone());
        match &watch.store {
            Stored::Secret(store) if store.is_synced() => {
                let found = store.get(&Key::new(&reference.namespace, &reference.name));
                found.map_or(LookedSecret::Absent, LookedSecret::Found)
            }
            _ => LookedSecret::Pending,
        }
    }

    /// The Machine `user` now needs `references` only; watches that are not needed any more end.
    pub fn keep(&self, user: &Key, references: &HashSet<Reference>) {
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
            ReferenceKind::Secret => {
                let store = Arc::new(Store::new(|_: &Secret| Vec::new()));
                let run = reflect(
                    Api::namespaced(client, namespace),
                    config,
                    store.clone(),
                    self.tell(reference, of_secret),
                );
                (Stored::Secret(store), tokio::spawn(run))
            }
            ReferenceKind::ConfigMap => {
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

fn of_secret(secret: &Secret) -> Data {
    let data = secret.data.iter().flatten();
    data.filter_map(|(key, value)| Some((key.clone(), String::from_utf8(value.0.clone()).ok()?)))
        .collect()
}

fn of_config_map(map: &ConfigMap) -> Data {
    map.data.clone().unwrap_or_default()
}
