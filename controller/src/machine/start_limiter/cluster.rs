//! Who waits on an infra cluster, and how many VMs are made there at once: as many as it answers without making others wait.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use machinist_infra::cache::store::Key;
use machinist_infra::provider::adaptive_limit::AdaptiveLimit;
use tokio::time::Instant;

use super::shares::{Pool, Shares};

/// VMs that are made at once of each infra cluster, however slow it is.
const FEWEST_CREATIONS: usize = 2;

/// Those of one infra cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    /// Those whose VMs are being made.
    pub(super) creating: HashSet<Key>,
    /// How many may be.
    pub(super) creations: AdaptiveLimit,
    /// Those that start.
    pub(super) shares: Shares,
    /// Those that wait, the longest first.
    waiting: BTreeMap<Pool, VecDeque<Key>>,
    /// Those that need no place among those that start.
    placed: VecDeque<Key>,
    pub(super) waits: HashSet<Key>,
    /// Those whose turn has come, and who have not begun; from when on they may.
    pub(super) called: HashMap<Key, Instant>,
}

impl Cluster {
    pub(super) fn new(creations: usize) -> Self {
        Self {
            creating: HashSet::new(),
            creations: AdaptiveLimit::new(FEWEST_CREATIONS, creations),
            shares: Shares::default(),
            waiting: BTreeMap::new(),
            placed: VecDeque::new(),
            waits: HashSet::new(),
            called: HashMap::new(),
        }
    }

    /// Whether there is something to be known of it.
    pub(super) fn is_used(&self, now: Instant) -> bool {
        let is_empty = self.creating.is_empty() && self.shares.is_empty() && self.waits.is_empty();
        !is_empty || self.creations.is_known(now)
    }

    /// Who was called will, too.
    pub(super) fn may_create(&self) -> bool {
        self.creating.len() + self.called.len() < self.creations.get()
    }

    /// Whether it did wait.
    pub(super) fn stop_waiting(&mut self, key: &Key) -> bool {
        let waited = self.waits.remove(key);
        if waited {
            self.placed.retain(|waits| waits != key);
            self.waiting.retain(|_, waiting| {
                waiting.retain(|waits| waits != key);
                !waiting.is_empty()
            });
        }
        waited
    }

    /// Who was called and came too late is the next again.
    pub(super) fn wait(&mut self, key: Key, pool: Pool, was_called: bool) {
        if self.waits.insert(key.clone()) {
            let waiting = self.waiting.entry(pool).or_default();
            if was_called {
                waiting.push_front(key);
            } else {
                waiting.push_back(key);
            }
        }
    }

    /// It needs no place among those that start.
    pub(super) fn wait_placed(&mut self, key: Key) {
        if self.waits.insert(key.clone()) {
            self.placed.push_back(key);
        }
    }

    /// Who has waited the longest, of the pool with the fewest, of the namespace with the fewest, that may start one.
    pub(super) fn next(&mut self, limit: usize, from: Instant) -> Vec<Key> {
        if !self.may_create() {
            return Vec::new();
        }
        if let Some(key) = self.placed.pop_front() {
            self.waits.remove(&key);
            self.called.insert(key.clone(), from);
            return vec![key];
        }
        let may = self
            .waiting
            .keys()
            .filter(|pool| self.shares.may_start(pool, limit));
        let Some(pool) = may.min_by_key(|pool| self.shares.count(pool)).cloned() else {
            return Vec::new();
        };
        let next = self.waiting.get_mut(&pool).and_then(VecDeque::pop_front);
        if self.waiting.get(&pool).is_some_and(VecDeque::is_empty) {
            self.waiting.remove(&pool);
        }
        if let Some(key) = &next {
            self.waits.remove(key);
            self.called.insert(key.clone(), from);
        }
        next.into_iter().collect()
    }
}
