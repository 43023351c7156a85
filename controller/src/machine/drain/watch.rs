//! One watch of pods per draining Node, and what was answered to evictions there.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use kube::runtime::watcher;
use kube::{Api, Client};
use machinist_infra::reflect::{Signal, reflect};
use machinist_infra::store::{Key, Store};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::pod::Pod;
use super::sort::{Answer, Answers};
use crate::user::Node;

/// What is known of the pods of a draining Node.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    /// Nobody watches them.
    Unwatched,
    /// They are being listed; or cannot be, and why.
    Opening(Option<String>),
    /// These.
    Pods(Pods),
}

/// The pods of a draining Node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pods {
    /// All of them.
    pub pods: Vec<Arc<Pod>>,
    /// What was answered to evictions.
    pub answers: Answers,
    /// Claims of volumes that were looked up, as `namespace/name`; `None` where there is none, or nobody can tell.
    pub claims: BTreeMap<String, Option<String>>,
}

struct Watch {
    node_uid: String,
    store: Arc<Store<Pod>>,
    failed: Option<String>,
    answers: Answers,
    claims: BTreeMap<String, Option<String>>,
    task: AbortHandle,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Watches = Arc<Mutex<HashMap<Key, Watch>>>;

/// The watches of draining Nodes, by their Machines. They tell of a Machine whenever something changes for it.
pub struct Drains {
    client: Client,
    changed: mpsc::UnboundedSender<Key>,
    watches: Watches,
}

impl std::fmt::Debug for Drains {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drains").finish_non_exhaustive()
    }
}

impl Drains {
    /// No watches yet; `changed` is told of Machines to look at.
    pub fn new(client: Client, changed: mpsc::UnboundedSender<Key>) -> Self {
        Self {
            client,
            changed,
            watches: Watches::default(),
        }
    }

    /// Watches the pods of that Node until [`Drains::close`].
    pub fn open(&self, machine: &Key, node: &Node) {
        let mut watches = self.lock();
        if watches
            .get(machine)
            .is_some_and(|watch| watch.node_uid == node.uid())
        {
            return;
        }
        let store = Arc::new(Store::new(|_: &Pod| Vec::new()));
        let config = watcher::Config::default().fields(&format!("spec.nodeName={}", node.name()));
        let run = reflect(
            Api::all(self.client.clone()),
            config,
            store.clone(),
            self.tell(machine),
        );
        let watch = Watch {
            node_uid: node.uid().to_owned(),
            store,
            failed: None,
            answers: Answers::new(),
            claims: BTreeMap::new(),
            task: tokio::spawn(run).abort_handle(),
        };
        watches.insert(machine.clone(), watch);
    }

    /// Ends the Machine's watch, if there is one.
    pub fn close(&self, machine: &Key) {
        self.lock().remove(machine);
    }

    /// What is known of the pods of the Machine's Node of that UID.
    pub fn see(&self, machine: &Key, node_uid: &str) -> Seen {
        let watches = self.lock();
        match watches.get(machine) {
            Some(watch) if watch.node_uid != node_uid => Seen::Unwatched,
            Some(watch) if watch.store.is_synced() => Seen::Pods(Pods {
                pods: watch.store.all(),
                answers: watch.answers.clone(),
                claims: watch.claims.clone(),
            }),
            Some(watch) => Seen::Opening(watch.failed.clone()),
            None => Seen::Unwatched,
        }
    }

    /// Notes what was answered to the eviction of the pod of that UID.
    pub fn answered(&self, machine: &Key, pod_uid: &str, answer: Answer) {
        if let Some(watch) = self.lock().get_mut(machine) {
            watch.answers.insert(pod_uid.to_owned(), answer);
        }
    }

    /// Notes which claim a volume belongs to.
    pub fn claimed(&self, machine: &Key, volume: &str, claim: Option<String>) {
        if let Some(watch) = self.lock().get_mut(machine) {
            watch.claims.insert(volume.to_owned(), claim);
        }
    }

    fn tell(&self, machine: &Key) -> impl FnMut(Signal<'_, Pod>) + Send + use<> {
        let (watches, changed, machine) = (
            Arc::downgrade(&self.watches),
            self.changed.clone(),
            machine.clone(),
        );
        move |signal| {
            match &signal {
                Signal::Changed(change) => {
                    if let (Some(before), Some(after)) = (&change.before, &change.after)
                        && before.is_alike(after)
                    {
                        return;
                    }
                }
                Signal::Synced => {}
                Signal::Failed(error) => {
                    tracing::warn!(machine = %machine, %error, "watch of a draining Node's pods failed");
                    let Some(watches) = watches.upgrade() else { return };
                    let mut watches = watches.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(watch) = watches.get_mut(&machine) {
                        watch.failed = Some(error.to_string());
                    }
                }
            }
            // Nobody listens any more only when the process is ending.
            let _ = changed.send(machine.clone());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Watch>> {
        // Every change of the map is a single insert or remove.
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
