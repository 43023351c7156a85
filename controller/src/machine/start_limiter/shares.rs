//! The limit of the Machines that start at once on an infra cluster, and what share of it a pool has.

use std::collections::{HashMap, HashSet};

use machinist_infra::cache::store::Key;
use tokio::time::Instant;

use crate::cache::StoredMachine;

/// No set takes more than so many times what is left, and no namespace more than that, so that there is always something left
/// for those who come later: one set alone has three quarters of the limit, all sets of a namespace have all but a 32nd.
const SHARES: (usize, usize) = (3, 31);

/// Whose Machines take turns with those of others: those of a MachineSet, or those of a namespace that have none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pool {
    /// The namespace.
    pub namespace: String,
    /// UID of the MachineSet; empty without one.
    pub set: String,
}

impl Pool {
    /// The Machine's.
    pub fn of(machine: &StoredMachine) -> Self {
        Self {
            namespace: machine.namespace().to_owned(),
            set: machine.controller_uid().unwrap_or_default().to_owned(),
        }
    }
}

/// The Machines that start on one infra cluster.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// With until when they count.
    pub(super) starting: HashMap<Key, (Pool, Instant)>,
    /// Those that have had their time.
    over: HashSet<Key>,
    /// How many of each pool start.
    pools: HashMap<Pool, usize>,
    /// How many of each namespace start.
    namespaces: HashMap<String, usize>,
}

impl Shares {
    pub(super) fn is_empty(&self) -> bool {
        self.starting.is_empty() && self.over.is_empty()
    }

    /// Whether the Machine starts, or has had its time.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.starting.contains_key(key) || self.over.contains(key)
    }

    /// How many start of the pool's namespace, and of the pool.
    pub(super) fn count(&self, pool: &Pool) -> (usize, usize) {
        let of_namespace = self.namespaces.get(&pool.namespace).copied().unwrap_or_default();
        (of_namespace, self.pools.get(pool).copied().unwrap_or_default())
    }

    pub(super) fn may_start(&self, pool: &Pool, limit: usize) -> bool {
        let left = limit.saturating_sub(self.starting.len());
        let (of_namespace, own) = self.count(pool);
        // A single place is anybody's.
        let within = |count: usize, share: usize| count < left.saturating_mul(share);
        left > 0 && within(own, SHARES.0) && within(of_namespace, SHARES.1)
    }

    pub(super) fn start(&mut self, key: Key, pool: Pool, until: Instant) {
        if !self.has(&key) {
            *self.namespaces.entry(pool.namespace.clone()).or_default() += 1;
            *self.pools.entry(pool.clone()).or_default() += 1;
            self.starting.insert(key, (pool, until));
        }
    }

    /// Whether it did start.
    fn end(&mut self, key: &Key) -> bool {
        let Some((pool, _)) = self.starting.remove(key) else {
            return false;
        };
        one_less(&mut self.namespaces, &pool.namespace);
        one_less(&mut self.pools, &pool);
        true
    }

    pub(super) fn expire(&mut self, now: Instant) {
        let over = self.starting.iter().filter(|(_, (_, until))| *until <= now);
        let over: Vec<Key> = over.map(|(key, _)| key.clone()).collect();
        for key in over {
            self.end(&key);
            self.over.insert(key);
        }
    }

    /// Whether it did start. Nothing is left of it.
    pub(super) fn forget(&mut self, key: &Key) -> bool {
        self.over.remove(key);
        self.end(key)
    }
}

fn one_less<K: Eq + std::hash::Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
