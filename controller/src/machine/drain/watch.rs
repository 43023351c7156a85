//! One watch of pods per draining Node, one of all disruption budgets, and what was answered to evictions.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client};
use machinist_infra::cache::reflect::{Signal, reflect};
use machinist_infra::cache::store::{Key, Store};
use machinist_infra::cache::watch::Selector;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::budget::Budget;
use super::claims::Claims;
use super::pod::{Fate, Pod};
use super::sort::{Answer, Answers, sort};
use crate::cache::Node;

/// What is known of the pods of a draining Node.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    /// They are not watched.
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
    /// Disruption budgets of their namespaces.
    pub budgets: Vec<Arc<Budget>>,
    /// What was found out of the claims of volumes.
    pub claims: BTreeMap<String, Claim>,
}

/// What was found out of a volume's claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// It, as `namespace/name`.
    Known(String),
    /// It has none.
    None,
    /// It could not be read; not to be asked for again before.
    Unread(Timestamp),
}

struct Watch {
    node_uid: String,
    store: Arc<Store<Pod>>,
    failed: Option<String>,
    answers: Answers,
    claims: BTreeMap<String, Claim>,
    task: AbortHandle,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    /// Whether a pod waits for that budget.
    fn waits_for(&self, budget: &Budget) -> bool {
        self.store
            .any(|pod| !pod.is_terminating() && pod.fate() == Fate::Goes && budget.covers(pod))
    }
}

/// Budgets of the pods' namespaces.
fn budgets_of(pods: &[Arc<Pod>], budgets: &Store<Budget>) -> Vec<Arc<Budget>> {
    let going = pods.iter().filter(|pod| pod.fate() == Fate::Goes);
    let namespaces: BTreeSet<&str> = going.map(|pod| pod.namespace()).collect();
    let found = namespaces
        .into_iter()
        .flat_map(|namespace| budgets.by_index(namespace));
    found.collect()
}

type Watches = Arc<Mutex<HashMap<Key, Watch>>>;

/// The watches of draining Nodes, by their Machines. They report a Machine whenever something changes for it.
pub struct Drains {
    client: Client,
    changed: mpsc::UnboundedSender<Key>,
    watches: Watches,
    budgets: Arc<Store<Budget>>,
    claims: Mutex<Claims>,
}

impl std::fmt::Debug for Drains {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drains").finish_non_exhaustive()
    }
}

impl Drains {
    /// No watches yet; `changed` is reported Machines to look at.
    pub fn new(client: Client, changed: mpsc::UnboundedSender<Key>) -> Self {
        Self {
            client,
            changed,
            watches: Watches::default(),
            budgets: Arc::new(Store::new(|budget: &Budget| {
                budget.metadata.namespace.clone().into_iter().collect()
            })),
            claims: Mutex::default(),
        }
    }

    /// Watches all disruption budgets, for ever. While that fails, the API server is asked more often than need be.
    pub fn watch_budgets(&self) -> impl Future<Output = ()> + Send + use<> {
        let (watches, changed) = (Arc::downgrade(&self.watches), self.changed.clone());
        let on = move |signal: Signal<'_, Budget>| {
            let change = match signal {
                Signal::Changed(change) => change,
                Signal::Synced | Signal::Restored => return,
                Signal::Failed(error) => {
                    tracing::warn!(%error, "watch of disruption budgets failed");
                    return;
                }
            };
            // One that allows no eviction is about no Machine.
            if change.after.as_ref().is_some_and(|budget| budget.is_spent()) {
                return;
            }
            let Some(watches) = watches.upgrade() else { return };
            let watches = watches.lock();
            for (machine, watch) in watches.iter() {
                if change.versions().any(|budget| watch.waits_for(budget)) {
                    // There is no listener only when the process is ending.
                    let _ = changed.send(machine.clone());
                }
            }
        };
        let api = Api::all(self.client.clone());
        reflect(api, Selector::default(), self.budgets.clone(), on)
    }

    /// Whether an eviction may be asked for under this budget: not more than it allows, all draining Nodes together.
    pub fn claim(&self, budget: &Budget) -> bool {
        self.claims().claim(budget, Instant::now())
    }

    /// What was claimed was not used.
    pub fn unclaim(&self, budget: &Budget) {
        self.claims().unclaim(budget);
    }

    /// The budget of that key, as it is now.
    pub fn budget(&self, key: &Key) -> Option<Arc<Budget>> {
        self.budgets.get(key)
    }

    /// Watches the pods of that Node until [`Drains::close`].
    pub fn open(&self, machine: &Key, node: &Node) {
        let mut watches = self.watches.lock();
        if watches
            .get(machine)
            .is_some_and(|watch| watch.node_uid == node.uid())
        {
            return;
        }
        let store = Arc::new(Store::new(|_: &Pod| Vec::new()));
        let config = Selector::default().fields(&format!("spec.nodeName={}", node.name()));
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
        let mut watches = self.watches.lock();
        watches.remove(machine);
        if watches.is_empty() {
            *self.claims() = Claims::default();
        }
    }

    /// What is known of the pods of the Machine's Node of that UID.
    pub fn see(&self, machine: &Key, node_uid: &str) -> Seen {
        let watches = self.watches.lock();
        match watches.get(machine) {
            Some(watch) if watch.node_uid != node_uid => Seen::Unwatched,
            Some(watch) if watch.store.is_synced() => {
                let pods = watch.store.all();
                Seen::Pods(Pods {
                    budgets: budgets_of(&pods, &self.budgets),
                    pods,
                    answers: watch.answers.clone(),
                    claims: watch.claims.clone(),
                })
            }
            Some(watch) => Seen::Opening(watch.failed.clone()),
            None => Seen::Unwatched,
        }
    }

    /// How many pods of all draining Nodes a disruption budget does not let go, whether it was asked for in vain or is known
    /// to be spent.
    pub fn blocked(&self, now: Timestamp) -> usize {
        let watches = self.watches.lock();
        let synced = watches.values().filter(|watch| watch.store.is_synced());
        let blocked = synced.map(|watch| {
            let pods = watch.store.all();
            let budgets = budgets_of(&pods, &self.budgets);
            sort(&pods, &watch.answers, &budgets, now).blocked()
        });
        blocked.sum()
    }

    /// Notes what was answered to the eviction of the pod of that UID.
    pub fn answered(&self, machine: &Key, pod_uid: &str, answer: Answer) {
        if let Some(watch) = self.watches.lock().get_mut(machine) {
            watch.answers.insert(pod_uid.to_owned(), answer);
        }
    }

    /// Notes what was found out of a volume's claim.
    pub fn claimed(&self, machine: &Key, volume: &str, claim: Claim) {
        if let Some(watch) = self.watches.lock().get_mut(machine) {
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
                Signal::Synced | Signal::Restored => {}
                Signal::Failed(error) => {
                    tracing::warn!(machine = %machine, %error, "watch of a draining Node's pods failed");
                    let Some(watches) = watches.upgrade() else { return };
                    let mut watches = watches.lock();
                    if let Some(watch) = watches.get_mut(&machine) {
                        watch.failed = Some(error.to_string());
                    }
                }
            }
            // There is no listener only when the process is ending.
            let _ = changed.send(machine.clone());
        }
    }

    fn claims(&self) -> parking_lot::MutexGuard<'_, Claims> {
        // Every change of it is complete before anything can panic.
        self.claims.lock()
    }
}
