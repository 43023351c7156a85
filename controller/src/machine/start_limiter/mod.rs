//! How many Machines of an infra cluster start at once: they have a VM, or one is being made, and have never been Ready. A
//! limit for each infra cluster, shared between MachineSets, so that no pool, however large, keeps others from starting. And how
//! many VMs are being made at once there: as many as it answers without making others wait.

mod cluster;
mod shares;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::time::Duration;

use machinist_infra::cache::store::Key;
use machinist_infra::provider::InfraKey;
use parking_lot::Mutex;
use tokio::time::Instant;

use self::cluster::Cluster;
pub use self::shares::Pool;
use super::phase::Phase;
use super::record::is_own_ca;
use crate::cache::StoredMachine;

/// Who waits is named when its turn comes; should that be lost, it asks again.
pub const START_INTERVAL: Duration = Duration::from_mins(1);

/// How long a Machine whose node may take for ever to join counts as one that starts.
const FOR_EVER: Duration = Duration::from_hours(1);

/// Whether a Machine's VM may be made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// It may.
    Free,
    /// Too many others are starting.
    Full {
        /// How many start on its infra cluster.
        starting: usize,
        /// How many of them are of its MachineSet; of Machines without one, of its namespace.
        own: usize,
        /// How many may.
        limit: usize,
    },
}

/// The Machines that start, by infra cluster.
#[derive(Debug)]
pub struct StartLimiter {
    /// How many may at once on each.
    limit: usize,
    /// How many VMs may be made at once on each, at most.
    creations: usize,
    /// How long a Machine counts at most.
    longest: Duration,
    clusters: Mutex<HashMap<String, Cluster>>,
}

/// What a Machine's status says of its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It has no VM.
    Before,
    /// It has one, and has never been Ready.
    Starting,
    /// It has been Ready, or does not start any more.
    Over,
}

fn stage(machine: &StoredMachine) -> Stage {
    let phase = machine.status.phase.as_deref().and_then(Phase::stored);
    let record = machine.record.as_ref();
    let is_over = machine.is_deleting()
        || machine.is_paused()
        || matches!(phase, Some(Phase::Running | Phase::Failed))
        || record.is_some_and(|record| record.has_been_ready);
    match record.is_some_and(|record| record.vm_uid.is_some()) {
        _ if is_over => Stage::Over,
        true => Stage::Starting,
        false => Stage::Before,
    }
}

/// By its CA, which is the same under every address; else by its address.
fn cluster_of<'a>(server: &'a str, ca_digest: &'a str) -> &'a str {
    if is_own_ca(ca_digest) { ca_digest } else { server }
}

impl StartLimiter {
    /// At most `limit` at once on each infra cluster, without one if it is 0, each of them for as long as it may take to
    /// become a Node; VMs of at most `creations` are made at once.
    pub fn new(
        limit: usize,
        creations: usize,
        provisioning_timeout: Option<Duration>,
        join_timeout: Option<Duration>,
    ) -> Self {
        let longest = join_timeout.map(|join| join + provisioning_timeout.unwrap_or_default());
        Self {
            limit: if limit == 0 { usize::MAX } else { limit },
            creations,
            longest: longest.unwrap_or(FOR_EVER),
            clusters: Mutex::default(),
        }
    }

    /// The Machine's VM is about to be made: whether it may, or, while those of others are being made, when to ask again; and who
    /// may be next. If it may, [`StartLimiter::end_creation`] follows; if not, the Machine waits until it is among those.
    pub fn begin(
        &self,
        machine: &StoredMachine,
        infra: &InfraKey,
        now: Instant,
    ) -> (Result<Start, Duration>, Vec<Key>) {
        let mut clusters = self.clusters.lock();
        let cluster = self.cluster(&mut clusters, &infra.server, &infra.ca_digest);
        let (key, pool) = (Key::of(machine), Pool::of(machine));
        if let Some(pause) = cluster
            .called
            .get(&key)
            .map(|from| from.saturating_duration_since(now))
            && !pause.is_zero()
        {
            return (Err(pause), Vec::new());
        }
        let was_called = cluster.called.remove(&key).is_some();
        // Others have their place among those that start, or need none.
        let counts = stage(machine) != Stage::Over && !cluster.shares.has(&key);
        if counts && !cluster.shares.may_start(&pool, self.limit) {
            cluster.shares.expire(now);
        }
        if counts && !cluster.shares.may_start(&pool, self.limit) {
            let full = Start::Full {
                starting: cluster.shares.starting.len(),
                own: cluster.shares.count(&pool).1,
                limit: self.limit,
            };
            cluster.wait(key, pool, was_called);
            return (Ok(full), Vec::new());
        }
        if !cluster.may_create() {
            if counts {
                cluster.wait(key, pool, was_called);
            } else {
                cluster.wait_placed(key);
            }
            return (Err(START_INTERVAL), Vec::new());
        }
        cluster.stop_waiting(&key);
        cluster.creating.insert(key.clone());
        if counts {
            cluster.shares.start(key, pool, now + self.longest);
        }
        (Ok(Start::Free), cluster.next(self.limit, now))
    }

    /// The infra cluster has answered the creation of a VM after so long; or it has not, or said that it has too much to do.
    pub fn answered(&self, infra: &InfraKey, took: Option<Duration>, now: Instant) {
        let mut clusters = self.clusters.lock();
        let cluster = self.cluster(&mut clusters, &infra.server, &infra.ca_digest);
        let in_flight = cluster.creating.len();
        match took {
            Some(took) => cluster.creations.answered(took, in_flight, now),
            None => cluster.creations.overloaded(now),
        }
    }

    /// The Machine's VM is being made no more; gives whose may be instead, and after how long.
    pub fn end_creation(&self, machine: &Key, now: Instant) -> (Vec<Key>, Duration) {
        let mut pause = Duration::ZERO;
        let next = self.each(now, |cluster| {
            let was_made = cluster.creating.remove(machine);
            if was_made {
                pause = cluster.creations.pause();
            }
            was_made.then_some(now + pause)
        });
        (next, pause)
    }

    /// The Machine's turn, if it has come, is given to others: no VM of it is made.
    pub fn decline(&self, machine: &Key, now: Instant) -> Vec<Key> {
        self.each(now, |cluster| {
            let waited = cluster.stop_waiting(machine);
            (cluster.called.remove(machine).is_some() || waited).then_some(now)
        })
    }

    /// Who may start where `change` has freed something, from when on it says.
    fn each(&self, now: Instant, mut change: impl FnMut(&mut Cluster) -> Option<Instant>) -> Vec<Key> {
        let mut next = Vec::new();
        self.clusters.lock().retain(|_, cluster| {
            if let Some(from) = change(cluster) {
                next.append(&mut cluster.next(self.limit, from));
            }
            cluster.is_used(now)
        });
        next
    }

    fn cluster<'a>(
        &self,
        clusters: &'a mut HashMap<String, Cluster>,
        server: &str,
        ca_digest: &str,
    ) -> &'a mut Cluster {
        let new = || Cluster::new(self.creations);
        clusters
            .entry(cluster_of(server, ca_digest).to_owned())
            .or_insert_with(new)
    }

    /// What the Machine's status says now, whose VM was made so long ago, if that is known; gives who may start instead of it.
    pub fn note(&self, machine: &StoredMachine, age: Duration, now: Instant) -> Vec<Key> {
        match (stage(machine), &machine.record) {
            (Stage::Over, _) => self.forget(&Key::of(machine), now),
            (Stage::Starting, Some(record)) => {
                let infra = &record.infrastructure;
                let mut clusters = self.clusters.lock();
                let cluster = self.cluster(&mut clusters, &infra.server, &infra.ca_digest);
                let key = Key::of(machine);
                let until = now + self.longest.saturating_sub(age);
                cluster.shares.start(key, Pool::of(machine), until);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// The Machine is gone, or does not start any more; gives who may start instead of it.
    pub fn forget(&self, machine: &Key, now: Instant) -> Vec<Key> {
        let mut clusters = self.clusters.lock();
        let mut next = Vec::new();
        clusters.retain(|_, cluster| {
            cluster.stop_waiting(machine);
            let was_called = cluster.called.remove(machine).is_some();
            if cluster.shares.forget(machine) || was_called {
                next.append(&mut cluster.next(self.limit, now));
            }
            cluster.is_used(now)
        });
        next
    }

    /// How many start, and how many wait for that.
    pub fn count(&self) -> Vec<(&'static str, usize)> {
        let clusters = self.clusters.lock();
        let sum = |count: fn(&Cluster) -> usize| clusters.values().map(count).sum();
        vec![
            ("creating", sum(|cluster| cluster.creating.len())),
            ("starting", sum(|cluster| cluster.shares.starting.len())),
            ("waiting", sum(|cluster| cluster.waits.len())),
        ]
    }
}
