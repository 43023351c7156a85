//! Limits the cache size of all infra clusters together. Each gets the size of its Machines' own objects and an equal
//! part of the rest. While the total is over the limit, a cluster over its share is not cached: the objects of its
//! Machines are polled one by one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::backoff::{Backoff, Jitter};
use crate::provider::InfraKey;

/// A generous estimate for a Machine's own VM, VMI and disks.
const BYTES_PER_MACHINE: usize = 16 * 1024;

/// Pauses before an infra cluster is cached again.
const RETRY_BACKOFF: Backoff = Backoff {
    first: Duration::from_mins(5),
    longest: Duration::from_hours(1),
};

/// The cache limit in bytes for all infra clusters.
#[derive(Debug)]
pub(super) struct Budget {
    limit: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    bytes: usize,
    by_entry: HashMap<InfraKey, Part>,
}

/// The cached part of one infra cluster.
#[derive(Debug)]
struct Part {
    bytes: usize,
    machines: usize,
    share: Arc<Share>,
}

impl Part {
    /// The size for its Machines.
    fn own(&self) -> usize {
        self.bytes.min(self.machines.saturating_mul(BYTES_PER_MACHINE))
    }
}

impl Budget {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            held: Mutex::default(),
        }
    }

    /// Adds an infra cluster to the budget.
    pub(super) fn admit(&self, key: &InfraKey, share: &Arc<Share>) {
        let part = Part {
            bytes: 0,
            machines: 0,
            share: Arc::clone(share),
        };
        let before = self.held.lock().by_entry.insert(key.clone(), part);
        self.held.lock().bytes -= before.map_or(0, |part| part.bytes);
    }

    /// Updates the size and the number of Machines of an infra cluster. Notifies clusters over their share.
    pub(super) fn hold(&self, key: &InfraKey, bytes: usize, machines: usize, share: &Arc<Share>) {
        let mut held = self.held.lock();
        // The last events of an unused cluster may arrive late.
        let known = held
            .by_entry
            .get_mut(key)
            .filter(|part| Arc::ptr_eq(&part.share, share));
        let Some(part) = known else { return };
        let before = std::mem::replace(&mut part.bytes, bytes);
        part.machines = machines;
        held.bytes = held.bytes - before + bytes;
        if held.bytes <= self.limit {
            return;
        }
        let own: usize = held.by_entry.values().map(Part::own).sum();
        let rest = self.limit.saturating_sub(own) / held.by_entry.len();
        for (key, part) in &held.by_entry {
            if part.bytes > part.own() + rest {
                part.share.exceed(key, part.bytes, part.own() + rest);
            }
        }
    }

    /// Removes an infra cluster from the budget.
    pub(super) fn forget(&self, key: &InfraKey, share: &Arc<Share>) {
        let mut held = self.held.lock();
        if held
            .by_entry
            .get(key)
            .is_some_and(|part| Arc::ptr_eq(&part.share, share))
        {
            let bytes = held.by_entry.remove(key).map_or(0, |part| part.bytes);
            held.bytes -= bytes;
        }
    }
}

/// Whether an infra cluster is within its share.
#[derive(Debug)]
pub(super) struct Share {
    state: watch::Sender<State>,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// Whether its Machines are polled one by one.
    is_over: bool,
    /// When it may be cached again.
    again: Option<Instant>,
    /// How often it did not fit.
    failures: u32,
}

impl Share {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: watch::Sender::new(State::default()),
        })
    }

    /// Whether the Machines are polled one by one.
    pub(super) fn is_over(&self) -> bool {
        self.state.borrow().is_over
    }

    /// Whether it must not be cached.
    pub(super) fn is_paused(&self) -> bool {
        self.state.borrow().is_paused()
    }

    fn exceed(&self, key: &InfraKey, bytes: usize, share: usize) {
        let exceeded = self.state.send_if_modified(|state| {
            if state.is_paused() {
                return false;
            }
            let pause = RETRY_BACKOFF.pause(state.failures, Jitter::default());
            *state = State {
                is_over: true,
                again: Some(Instant::now() + pause),
                failures: state.failures.saturating_add(1),
            };
            true
        });
        if exceeded {
            tracing::warn!(
                server = key.server,
                namespace = key.namespace,
                bytes,
                share,
                "the objects of an infra cluster exceed its share of the cache; reading the objects of its Machines one by one"
            );
        }
    }

    /// Records that it is cached completely; returns whether the state changed.
    pub(super) fn fits(&self) -> bool {
        self.state.send_if_modified(|state| {
            let is_news = state.is_over && !state.is_paused();
            state.is_over &= !is_news;
            is_news
        })
    }

    /// Returns when it must not be cached.
    pub(super) async fn exceeded(&self) {
        // The sender lives as long as `self`.
        let _ = self.state.subscribe().wait_for(State::is_paused).await;
    }

    /// Returns when it may be cached again.
    pub(super) async fn allowed(&self) {
        let again = self.state.borrow().again;
        if let Some(again) = again {
            sleep_until(again).await;
        }
    }
}

impl State {
    fn is_paused(&self) -> bool {
        self.again.is_some_and(|again| again > Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(server: &str) -> InfraKey {
        InfraKey {
            server: server.to_owned(),
            ca_digest: String::new(),
            namespace: "vms".to_owned(),
        }
    }

    fn is_about(pause: Duration, expected: Duration) -> bool {
        pause.abs_diff(expected) <= expected / 5
    }

    #[tokio::test(start_paused = true)]
    async fn who_holds_more_than_its_machines_take_goes_first_and_comes_back() {
        let budget = Budget::new(100 * BYTES_PER_MACHINE);
        let (large, flood, small) = (Share::new(), Share::new(), Share::new());
        budget.admit(&key("large"), &large);
        budget.admit(&key("small"), &small);
        budget.admit(&key("flood"), &flood);
        budget.hold(&key("large"), 60 * BYTES_PER_MACHINE, 60, &large);
        budget.hold(&key("small"), BYTES_PER_MACHINE, 1, &small);
        budget.hold(&key("flood"), 39 * BYTES_PER_MACHINE, 1, &flood);
        assert!(!flood.is_over(), "there is room");
        budget.hold(&key("small"), 3 * BYTES_PER_MACHINE, 1, &small);
        assert!(flood.is_over() && !large.is_over() && !small.is_over());
        flood.exceeded().await;
        budget.hold(&key("flood"), 0, 1, &flood);
        let before = Instant::now();
        flood.allowed().await;
        assert!(is_about(before.elapsed(), RETRY_BACKOFF.first));
        assert!(flood.is_over(), "until all of it is held");
        // It is as large as before: the next time is later.
        budget.hold(&key("flood"), 39 * BYTES_PER_MACHINE, 1, &flood);
        let before = Instant::now();
        flood.allowed().await;
        assert!(is_about(before.elapsed(), 2 * RETRY_BACKOFF.first));
        assert!(flood.fits() && !flood.is_over() && !flood.fits());
    }

    #[tokio::test]
    async fn many_floods_leave_what_machines_need() {
        let budget = Budget::new(100 * BYTES_PER_MACHINE);
        let large = Share::new();
        budget.admit(&key("large"), &large);
        budget.hold(&key("large"), 50 * BYTES_PER_MACHINE, 50, &large);
        let floods: Vec<_> = (0..64).map(|i| (key(&i.to_string()), Share::new())).collect();
        for (key, share) in &floods {
            budget.admit(key, share);
        }
        let mut bytes = vec![0; floods.len()];
        for _ in 0..100 {
            for ((key, share), bytes) in floods.iter().zip(&mut bytes) {
                if share.is_over() {
                    budget.hold(key, 0, 1, share);
                } else {
                    *bytes += BYTES_PER_MACHINE;
                    budget.hold(key, *bytes, 1, share);
                }
                let held = budget.held.lock().bytes;
                // What all Machines may take, and a little.
                assert!(held <= (50 + 2 * 64) * BYTES_PER_MACHINE, "{held}");
            }
        }
        assert!(!large.is_over());
        let (key, share) = &floods[0];
        budget.forget(key, share);
        budget.hold(key, 1, 1, share);
        assert!(
            !budget.held.lock().by_entry.contains_key(key),
            "what comes late is not held"
        );
    }
}
