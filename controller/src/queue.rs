//! The work queue: each key waits at most once, is worked on by one worker at a time, and can be due later.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

#[derive(Debug)]
struct State<K> {
    ready: VecDeque<K>,
    /// Keys in `ready`.
    waiting: HashSet<K>,
    /// Keys being worked on.
    working: HashSet<K>,
    /// Keys that were added while being worked on: due again at once afterwards.
    again: HashSet<K>,
    /// Keys due later, at the earliest instant asked for.
    later: HashMap<K, Instant>,
    closed: bool,
}

/// A de-duplicating queue with delays.
#[derive(Debug)]
pub struct Queue<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

impl<K: Clone + Eq + Hash> Default for Queue<K> {
    fn default() -> Self {
        let state = State {
            ready: VecDeque::new(),
            waiting: HashSet::new(),
            working: HashSet::new(),
            again: HashSet::new(),
            later: HashMap::new(),
            closed: false,
        };
        Self {
            state: Mutex::new(state),
            wake: Notify::new(),
        }
    }
}

impl<K: Clone + Eq + Hash> Queue<K> {
    /// Asks for `key` to be worked on now.
    pub fn add(&self, key: K) {
        let mut state = self.lock();
        state.later.remove(&key);
        if state.working.contains(&key) {
            state.again.insert(key);
        } else if state.waiting.insert(key.clone()) {
            state.ready.push_back(key);
            self.wake.notify_one();
        }
    }

    /// Asks for `key` to be worked on after `delay`, unless it is due earlier anyway.
    pub fn add_after(&self, key: K, delay: Duration) {
        let due = Instant::now() + delay;
        let mut state = self.lock();
        let earlier = state.later.get(&key).is_some_and(|at| *at <= due);
        if !earlier && !state.waiting.contains(&key) {
            state.later.insert(key, due);
            self.wake.notify_one();
        }
    }

    /// The next key, which counts as being worked on until [`Queue::done`]; `None` once the queue is closed.
    pub async fn next(&self) -> Option<K> {
        loop {
            let notified = self.wake.notified();
            let sleep_until = {
                let mut state = self.lock();
                if state.closed {
                    self.wake.notify_one();
                    return None;
                }
                Self::promote(&mut state);
                if let Some(key) = state.ready.pop_front() {
                    state.waiting.remove(&key);
                    state.working.insert(key.clone());
                    if !state.ready.is_empty() {
                        self.wake.notify_one();
                    }
                    return Some(key);
                }
                state.later.values().min().copied()
            };
            match sleep_until {
                Some(at) => {
                    let _ = tokio::time::timeout_at(at, notified).await;
                }
                None => notified.await,
            }
        }
    }

    /// `key` is no longer being worked on.
    pub fn done(&self, key: &K) {
        let again = {
            let mut state = self.lock();
            state.working.remove(key);
            state.again.remove(key)
        };
        if again {
            self.add(key.clone());
        }
    }

    /// Lets every [`Queue::next`] return `None` from now on.
    pub fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_waiters();
        self.wake.notify_one();
    }

    /// Whether it has been closed.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// How many keys are waiting to be worked on now.
    pub fn depth(&self) -> usize {
        self.lock().ready.len()
    }

    fn promote(state: &mut State<K>) {
        let now = Instant::now();
        let due: Vec<K> = state
            .later
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            state.later.remove(&key);
            if state.working.contains(&key) {
                state.again.insert(key);
            } else if state.waiting.insert(key.clone()) {
                state.ready.push_back(key);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State<K>> {
        // Every change of the state is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_waits_once_and_is_not_worked_on_twice_at_a_time() {
        let queue = Queue::default();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.next().await, Some("a"));
        queue.add("a");
        assert_eq!(queue.depth(), 0, "it is being worked on");
        queue.done(&"a");
        assert_eq!(queue.next().await, Some("a"));
        queue.done(&"a");
        assert_eq!(queue.depth(), 0);
    }

    #[tokio::test]
    async fn a_delayed_key_comes_when_it_is_due_and_the_earliest_wish_wins() {
        let queue = Queue::default();
        queue.add_after("a", Duration::from_mins(1));
        queue.add_after("a", Duration::from_millis(50));
        queue.add_after("a", Duration::from_mins(10));
        let start = Instant::now();
        assert_eq!(queue.next().await, Some("a"));
        assert!(start.elapsed() >= Duration::from_millis(50) && start.elapsed() < Duration::from_mins(1));
    }

    #[tokio::test]
    async fn an_event_overtakes_a_delay() {
        let queue = Queue::default();
        queue.add_after("a", Duration::from_mins(10));
        queue.add("a");
        assert_eq!(queue.next().await, Some("a"));
    }

    #[tokio::test]
    async fn a_closed_queue_ends_its_workers() {
        let queue = std::sync::Arc::new(Queue::<&str>::default());
        let worker = tokio::spawn({
            let queue = queue.clone();
            async move { queue.next().await }
        });
        tokio::task::yield_now().await;
        queue.close();
        assert_eq!(worker.await.unwrap(), None);
    }
}
