//! The work queue: each key waits at most once, is worked on by one worker at a time, and can be due later.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use machinist_infra::cache::store::Key;
use parking_lot::Mutex;
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
    /// Keys due later, at the earliest instant asked for, and the ticket that tells those of one instant apart.
    later: HashMap<K, (Instant, u64)>,
    /// The same, by what is due first.
    due: BTreeMap<(Instant, u64), K>,
    tickets: u64,
    closed: bool,
}

impl<K: Clone + Eq + Hash> State<K> {
    fn delay(&mut self, key: K, at: Instant) {
        self.cancel(&key);
        self.tickets += 1;
        self.later.insert(key.clone(), (at, self.tickets));
        self.due.insert((at, self.tickets), key);
    }

    fn cancel(&mut self, key: &K) {
        if let Some(due) = self.later.remove(key) {
            self.due.remove(&due);
        }
    }

    /// Lets whatever is due at `now` wait no longer. Costs nothing while nothing is.
    fn promote(&mut self, now: Instant) {
        while let Some(first) = self.due.first_entry()
            && first.key().0 <= now
        {
            let key = first.remove();
            self.later.remove(&key);
            if self.working.contains(&key) {
                self.again.insert(key);
            } else if self.waiting.insert(key.clone()) {
                self.ready.push_back(key);
            }
        }
    }
}

/// A de-duplicating queue with delays.
#[derive(Debug)]
pub struct Queue<K> {
    state: Mutex<State<K>>,
    wake: Notify,
    ended: Notify,
}

impl<K: Clone + Eq + Hash> Default for Queue<K> {
    fn default() -> Self {
        let state = State {
            ready: VecDeque::new(),
            waiting: HashSet::new(),
            working: HashSet::new(),
            again: HashSet::new(),
            later: HashMap::new(),
            due: BTreeMap::new(),
            tickets: 0,
            closed: false,
        };
        Self {
            state: Mutex::new(state),
            wake: Notify::new(),
            ended: Notify::new(),
        }
    }
}

impl<K: Clone + Eq + Hash> Queue<K> {
    /// Asks for `key` to be worked on now; of a queue that is closed, nothing is.
    pub fn add(&self, key: K) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        state.cancel(&key);
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
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        let earlier = state.later.get(&key).is_some_and(|(at, _)| *at <= due);
        if !earlier && !state.waiting.contains(&key) {
            state.delay(key, due);
            self.wake.notify_one();
        }
    }

    /// The next key, which counts as being worked on until [`Queue::done`]; `None` once the queue is closed.
    pub async fn next(&self) -> Option<K> {
        loop {
            let notified = self.wake.notified();
            let sleep_until = {
                let mut state = self.state.lock();
                if state.closed {
                    self.wake.notify_one();
                    return None;
                }
                state.promote(Instant::now());
                if let Some(key) = state.ready.pop_front() {
                    state.waiting.remove(&key);
                    state.working.insert(key.clone());
                    if !state.ready.is_empty() {
                        self.wake.notify_one();
                    }
                    return Some(key);
                }
                state.due.first_key_value().map(|((at, _), _)| *at)
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
            let mut state = self.state.lock();
            state.working.remove(key);
            state.again.remove(key)
        };
        if again {
            self.add(key.clone());
        }
    }

    /// Lets every [`Queue::next`] return `None` from now on.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.ended.notify_waiters();
        self.wake.notify_waiters();
        self.wake.notify_one();
    }

    /// Whether it has been closed.
    pub fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Returns when it has been closed.
    pub async fn closed(&self) {
        loop {
            let ended = self.ended.notified();
            if self.is_closed() {
                return;
            }
            ended.await;
        }
    }

    /// How many keys are waiting to be worked on now.
    pub fn depth(&self) -> usize {
        self.state.lock().ready.len()
    }
}

/// What there is to do: the keys of the objects to look at.
#[derive(Debug, Clone, Default)]
pub struct Queues {
    /// Machines.
    pub machines: Arc<Queue<Key>>,
    /// MachineSets.
    pub sets: Arc<Queue<Key>>,
    /// MachineDeployments.
    pub deployments: Arc<Queue<Key>>,
    /// Signing requests for client certificates; those for serving certificates are decided with their Machine.
    pub requests: Arc<Queue<Key>>,
}

impl Queues {
    /// Lets all workers end.
    pub fn close(&self) {
        for queue in [&self.machines, &self.sets, &self.deployments, &self.requests] {
            queue.close();
        }
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
    async fn delayed_keys_come_in_the_order_in_which_they_are_due_and_each_once() {
        let queue = Queue::default();
        for (key, delay) in [("c", 30), ("a", 10), ("b", 20), ("a", 40), ("c", 15)] {
            queue.add_after(key, Duration::from_millis(delay));
        }
        let mut came = Vec::new();
        for _ in 0..3 {
            let key = queue.next().await.unwrap();
            queue.done(&key);
            came.push(key);
        }
        assert_eq!(came, ["a", "c", "b"]);
        let state = queue.state.lock();
        assert!(state.later.is_empty() && state.due.is_empty() && state.ready.is_empty());
    }

    #[tokio::test]
    async fn a_key_that_is_due_while_it_is_worked_on_comes_again_afterwards() {
        let queue = Queue::default();
        queue.add("a");
        assert_eq!(queue.next().await, Some("a"));
        queue.add_after("a", Duration::ZERO);
        queue
            .state
            .lock()
            .promote(Instant::now() + Duration::from_secs(1));
        assert_eq!(queue.depth(), 0);
        queue.done(&"a");
        assert_eq!(queue.next().await, Some("a"));
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
        let waiter = tokio::spawn({
            let queue = queue.clone();
            async move { queue.closed().await }
        });
        tokio::task::yield_now().await;
        queue.close();
        assert_eq!(worker.await.unwrap(), None);
        waiter.await.unwrap();
        queue.closed().await;
        queue.add("a");
        assert_eq!(queue.depth(), 0, "no worker takes it");
    }
}
