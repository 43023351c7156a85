//! Records when each Machine got its nodeRef, by one watch for all of them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use futures::StreamExt as _;
use kube::{
    Client, ResourceExt as _,
    runtime::{WatchStreamExt as _, watcher},
};
use machinist_shared::api::Machine;
use tokio::{sync::Notify, task::JoinHandle};

use crate::manifest::NAMESPACE;

type JoinTimes = Arc<(Mutex<BTreeMap<String, Instant>>, Notify)>;

/// A running record. It ends when it is dropped.
pub struct Joins {
    seen: JoinTimes,
    task: JoinHandle<()>,
}

impl Joins {
    /// Begins to record.
    pub fn record(user: Client) -> Self {
        let seen = JoinTimes::default();
        let record = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let machines = kube::Api::<Machine>::namespaced(user, NAMESPACE);
            let mut events = watcher(machines, watcher::Config::default())
                .default_backoff()
                .boxed();
            while let Some(event) = events.next().await {
                let Ok(watcher::Event::Apply(machine) | watcher::Event::InitApply(machine)) = event else {
                    continue;
                };
                let name = machine.name_any();
                if machine.status.is_some_and(|status| status.node_ref.is_some()) {
                    let mut seen = record.0.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.entry(name).or_insert_with(Instant::now);
                    record.1.notify_waiters();
                }
            }
        });
        Self { seen, task }
    }

    /// How many of these have a nodeRef.
    pub fn known(&self, names: &[String]) -> usize {
        let seen = self.lock();
        names.iter().filter(|name| seen.contains_key(*name)).count()
    }

    /// Waits until so many Machines of any name have a nodeRef.
    pub async fn many(&self, many: usize, timeout: Duration) -> Result<()> {
        let all = async {
            loop {
                let changed = self.seen.1.notified();
                if self.lock().len() >= many {
                    return;
                }
                changed.await;
            }
        };
        match tokio::time::timeout(timeout, all).await {
            Ok(()) => Ok(()),
            Err(_) => bail!(
                "{} Machines joined within {timeout:?}, not {many}",
                self.lock().len()
            ),
        }
    }

    /// Waits until so many of these have a nodeRef.
    pub async fn wait(&self, names: &[String], many: usize, timeout: Duration) -> Result<()> {
        let all = async {
            loop {
                let changed = self.seen.1.notified();
                if self.known(names) >= many {
                    return;
                }
                changed.await;
            }
        };
        match tokio::time::timeout(timeout, all).await {
            Ok(()) => Ok(()),
            Err(_) => bail!(
                "{} of {} Machines joined within {timeout:?}, not {many}",
                self.known(names),
                names.len()
            ),
        }
    }

    /// How long each took from its instant on.
    pub fn times(&self, begun: &BTreeMap<String, Instant>) -> Vec<Duration> {
        let seen = self.lock();
        let took =
            |(name, begun): (&String, &Instant)| Some(seen.get(name)?.saturating_duration_since(*begun));
        let mut times: Vec<Duration> = begun.iter().filter_map(took).collect();
        times.sort();
        times
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Instant>> {
        self.seen.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Joins {
    fn drop(&mut self) {
        self.task.abort();
    }
}
