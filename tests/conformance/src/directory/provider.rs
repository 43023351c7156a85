//! The I/O half: the sites in use, each with its watch.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt as _;
use inotify::{Inotify, WatchMask};
use machinist_infra::cache::store::Key;
use machinist_infra::provider::{InfraEvent, InfraKey, Provider, WatchStatus};
use machinist_shared::provider::Secret;
use serde::Deserialize;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::AbortHandle;

use super::client::DirectoryClient;
use super::files::{self, Contents};
use super::spec::NAME;

/// A credential: where, and what opens it.
#[derive(Deserialize)]
struct Credential {
    path: PathBuf,
    key: String,
}

/// The sites in use.
#[derive(Debug)]
pub struct Directories {
    events: UnboundedSender<InfraEvent>,
    watches: Mutex<HashMap<InfraKey, Watch>>,
    /// The sites that a Machine has asked for: before its last [`Provider::release_unused`], and since.
    asked: Mutex<HashMap<Key, [HashSet<InfraKey>; 2]>>,
}

#[derive(Debug)]
struct Watch {
    memory: Arc<Memory>,
    task: AbortHandle,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Directories {
    /// None are in use yet.
    pub fn new(events: UnboundedSender<InfraEvent>) -> Self {
        Self {
            events,
            watches: Mutex::default(),
            asked: Mutex::default(),
        }
    }

    fn memory(&self, key: &InfraKey, site: PathBuf) -> Arc<Memory> {
        let mut watches = lock(&self.watches);
        let watch = watches.entry(key.clone()).or_insert_with(|| {
            let memory = Arc::new(Memory {
                key: key.clone(),
                namespace: site.join(&key.namespace),
                site,
                events: self.events.clone(),
                users: Mutex::default(),
                state: Mutex::default(),
            });
            Watch {
                task: tokio::spawn(watch(Arc::clone(&memory))).abort_handle(),
                memory,
            }
        });
        Arc::clone(&watch.memory)
    }

    fn remove_user(&self, user: &Key, sites: impl IntoIterator<Item = InfraKey>) {
        let mut watches = lock(&self.watches);
        for site in sites {
            let unused = watches.get(&site).is_some_and(|watch| {
                let mut users = lock(&watch.memory.users);
                users.remove(user);
                users.is_empty()
            });
            if unused {
                watches.remove(&site);
            }
        }
    }
}

impl Provider for Directories {
    fn name(&self) -> &'static str {
        NAME
    }

    fn watch(&self, user: &Key, credential: &Secret, namespace: &str) -> WatchStatus {
        let Ok(credential) = serde_json::from_str::<Credential>(credential.expose()) else {
            return WatchStatus::Unusable("auth: it is not an object with path and key".to_owned());
        };
        let key = InfraKey {
            server: format!("file://{}", credential.path.display()),
            ca_digest: String::new(),
            namespace: namespace.to_owned(),
        };
        let memory = self.memory(&key, credential.path);
        lock(&memory.users).insert(user.clone());
        lock(&self.asked).entry(user.clone()).or_default()[1].insert(key);
        let state = lock(&memory.state);
        match &state.known {
            None => WatchStatus::Opening,
            Some(Err(why)) => WatchStatus::Failed {
                why: why.clone(),
                refused: false,
            },
            Some(Ok(contents)) if contents.key != credential.key => WatchStatus::Failed {
                why: format!("{}: the key does not open it", memory.key.server),
                refused: true,
            },
            Some(Ok(_)) => WatchStatus::Open(Arc::new(DirectoryClient {
                memory: Arc::clone(&memory),
            })),
        }
    }

    fn release_unused(&self, user: &Key) {
        let unused = {
            let mut asked = lock(&self.asked);
            let Some([before, now]) = asked.get_mut(user).filter(|[_, now]| !now.is_empty()) else {
                return;
            };
            let now = std::mem::take(now);
            let before = std::mem::replace(before, now.clone());
            before
                .into_iter()
                .filter(move |site| !now.contains(site))
                .collect::<Vec<_>>()
        };
        self.remove_user(user, unused);
    }

    fn release(&self, user: &Key) {
        let asked = lock(&self.asked).remove(user).unwrap_or_default();
        self.remove_user(user, asked.into_iter().flatten());
    }

    fn users(&self, site: &InfraKey) -> Vec<Key> {
        let watches = lock(&self.watches);
        let users = watches
            .get(site)
            .map(|watch| lock(&watch.memory.users).iter().cloned().collect());
        users.unwrap_or_default()
    }
}

/// What is known of one site.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) key: InfraKey,
    pub(super) site: PathBuf,
    pub(super) namespace: PathBuf,
    events: UnboundedSender<InfraEvent>,
    users: Mutex<HashSet<Key>>,
    pub(super) state: Mutex<InstanceState>,
}

#[derive(Debug, Default)]
pub(super) struct InstanceState {
    /// The listed files, or why they cannot be listed; `None` before the first list.
    pub(super) known: Option<Result<Contents, String>>,
    pub(super) removals: u64,
}

impl Memory {
    /// Lists the whole site, and sends an event for each difference.
    pub(super) fn refresh(&self) {
        let mut state = lock(&self.state);
        let now = files::read(&self.site, &self.namespace);
        let now = now.map_err(|error| format!("{}: {}", self.key.server, error.kind()));
        let events: Vec<InfraEvent> = match (&state.known, &now) {
            (Some(before), now) if before == now => Vec::new(),
            (Some(Ok(before)), Ok(now)) if before.key == now.key => {
                let changed = changed(before, now);
                let gone = before
                    .instances
                    .keys()
                    .filter(|name| !now.instances.contains_key(*name));
                state.removals += u64::try_from(gone.count()).unwrap_or(u64::MAX);
                changed.into_iter().map(|name| InfraEvent::Vm { name }).collect()
            }
            _ => vec![InfraEvent::State {
                machines: lock(&self.users).iter().cloned().collect(),
            }],
        };
        state.known = Some(now);
        drop(state);
        for event in events {
            // The receiver is dropped only at shutdown.
            let _ = self.events.send(event);
        }
    }
}

/// Names of instances of which anything is different: themselves, their guests, their disks.
fn changed(before: &Contents, now: &Contents) -> HashSet<String> {
    let instances = before.instances.keys().chain(now.instances.keys());
    let instances = instances.filter(|name| before.instances.get(*name) != now.instances.get(*name));
    let disks = before.disks.keys().chain(now.disks.keys());
    let disks = disks.filter(|name| before.disks.get(*name) != now.disks.get(*name));
    let of_disk = disks.filter_map(|name| Some(name.rsplit_once('-')?.0.to_owned()));
    instances.cloned().chain(of_disk).collect()
}

/// Keeps the memory of a site up to date. Each round watches first and lists then, so that no change is missed.
async fn watch(memory: Arc<Memory>) {
    loop {
        let watches = watches(&memory);
        memory.refresh();
        let Ok(watches) = watches else {
            // Too many watches on this machine: a test cannot go on with it.
            return;
        };
        let mut buffer = [0; 4096];
        let Ok(mut events) = watches.into_event_stream(&mut buffer) else {
            return;
        };
        // Which event it is does not matter: the whole site is listed again.
        if events.next().await.is_none() {
            return;
        }
    }
}

/// Everything whose change matters, as far as it is there: what is not, comes into something that is.
fn watches(memory: &Memory) -> std::io::Result<Inotify> {
    let inotify = Inotify::init()?;
    let mask = WatchMask::CREATE
        | WatchMask::DELETE
        | WatchMask::CLOSE_WRITE
        | WatchMask::MOVE
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF;
    let above = memory.site.parent().unwrap_or(Path::new("/"));
    let disks = memory.namespace.join(files::DISKS);
    let mut paths = vec![
        above.to_owned(),
        memory.site.clone(),
        memory.namespace.clone(),
        disks,
    ];
    let within = std::fs::read_dir(&memory.namespace)
        .into_iter()
        .flatten()
        .flatten();
    paths.extend(within.map(|entry| entry.path()));
    for path in paths {
        let _ = inotify.watches().add(path, mask);
    }
    Ok(inotify)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Every change under these locks is complete before anything can panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
