//! A fair concurrency limit for the reconciles of an infra cluster's Machines: namespaces take turns, and in each its
//! pools, so that a pool of a thousand Machines delays another pool by one Machine, not by a thousand. The limit is
//! fixed, or adapts to the response times of a server.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::adaptive_limit::AdaptiveLimit;

/// A fair concurrency limit; a reconcile holds its [`Permit`].
#[derive(Debug)]
pub struct ConcurrencyLimit {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    in_use: usize,
    limit: AdaptiveLimit,
    /// Waiters, by namespace and pool.
    waiting: Rota<Rota<VecDeque<oneshot::Sender<Permit>>>>,
}

/// A round-robin queue, the next one first.
#[derive(Debug)]
struct Rota<T> {
    order: VecDeque<String>,
    of: HashMap<String, T>,
}

impl<T> Default for Rota<T> {
    fn default() -> Self {
        Self {
            order: VecDeque::new(),
            of: HashMap::new(),
        }
    }
}

impl<T: Default> Rota<T> {
    fn of(&mut self, name: &str) -> &mut T {
        if !self.of.contains_key(name) {
            self.order.push_back(name.to_owned());
        }
        self.of.entry(name.to_owned()).or_default()
    }

    /// Takes from the next one, which then becomes the last, or is removed if it is empty.
    fn take<R>(
        &mut self,
        take: impl FnOnce(&mut T) -> Option<R>,
        is_empty: impl FnOnce(&T) -> bool,
    ) -> Option<R> {
        let name = self.order.pop_front()?;
        let one = self.of.get_mut(&name)?;
        let taken = take(one);
        if is_empty(one) {
            self.of.remove(&name);
        } else {
            self.order.push_back(name);
        }
        taken
    }
}

impl State {
    fn next(&mut self) -> Option<oneshot::Sender<Permit>> {
        self.waiting.take(
            |pools| pools.take(VecDeque::pop_front, VecDeque::is_empty),
            |pools| pools.of.is_empty(),
        )
    }
}

/// Permission to run a reconcile, until dropped.
#[derive(Debug)]
pub struct Permit {
    limiter: Option<Arc<ConcurrencyLimit>>,
}

impl ConcurrencyLimit {
    /// A fixed limit.
    pub fn new(width: usize) -> Arc<Self> {
        Self::adaptive(AdaptiveLimit::fixed(width))
    }

    /// A limit that adapts to what [`Permit::answered`] records.
    pub fn adaptive(limit: AdaptiveLimit) -> Arc<Self> {
        let state = State {
            in_use: 0,
            limit,
            waiting: Rota::default(),
        };
        Arc::new(Self {
            state: Mutex::new(state),
        })
    }

    /// Waits for a permit for that pool of that namespace.
    pub async fn acquire(self: &Arc<Self>, namespace: &str, pool: &str) -> Permit {
        let waits = {
            let mut state = self.state.lock();
            if state.in_use < state.limit.get() {
                state.in_use += 1;
                return Permit {
                    limiter: Some(Arc::clone(self)),
                };
            }
            let (sender, waits) = oneshot::channel();
            state.waiting.of(namespace).of(pool).push_back(sender);
            waits
        };
        // A sender is dropped only after it has sent a permit.
        waits.await.unwrap_or(Permit { limiter: None })
    }

    /// Passes the permit to the next waiter, and wakes more if the limit has grown.
    fn pass_on(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.in_use -= 1;
        while state.in_use < state.limit.get()
            && let Some(next) = state.next()
        {
            let permit = Permit {
                limiter: Some(Arc::clone(self)),
            };
            match next.send(permit) {
                Ok(()) => state.in_use += 1,
                // The waiter is gone. Its permit must not be passed on here, under the lock.
                Err(mut permit) => permit.limiter = None,
            }
        }
    }
}

impl Permit {
    /// Records the response time of a server, or a missing response or overload.
    pub fn answered(&self, took: Option<Duration>) {
        if let Some(limiter) = &self.limiter {
            let mut state = limiter.state.lock();
            let in_use = state.in_use;
            match took {
                Some(took) => state.limit.answered(took, in_use, Instant::now()),
                None => state.limit.overloaded(Instant::now()),
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(limiter) = self.limiter.take() else {
            return;
        };
        let pause = limiter.state.lock().limit.pause();
        match Handle::try_current() {
            Ok(runtime) if !pause.is_zero() => {
                runtime.spawn(async move {
                    tokio::time::sleep(pause).await;
                    limiter.pass_on();
                });
            }
            _ => limiter.pass_on(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use futures::future::join_all;

    #[tokio::test]
    async fn pools_have_their_turns_one_after_the_other() {
        let limiter = ConcurrencyLimit::new(1);
        let first = limiter.acquire("ns", "large").await;
        let order = Mutex::new(Vec::new());
        let one = async |(namespace, pool): (&str, &'static str)| {
            let permit = limiter.acquire(namespace, pool).await;
            order.lock().push(pool);
            drop(permit);
        };
        let waiting = [
            ("ns", "large"),
            ("ns", "large"),
            ("ns", "large"),
            ("ns", "small"),
            ("elsewhere", "other"),
            ("elsewhere", "other"),
        ];
        let all = join_all(waiting.map(one));
        let mut all = Box::pin(all);
        assert!(all.as_mut().now_or_never().is_none(), "all wait");
        drop(first);
        all.await;
        assert_eq!(
            *order.lock(),
            ["large", "other", "small", "other", "large", "large"]
        );
        let state = limiter.state.lock();
        assert_eq!(
            (state.in_use, state.waiting.of.len(), state.waiting.order.len()),
            (0, 0, 0)
        );
    }

    #[tokio::test]
    async fn a_dropped_waiter_blocks_no_other() {
        let limiter = ConcurrencyLimit::new(2);
        let held = [limiter.acquire("ns", "a").await, limiter.acquire("ns", "a").await];
        assert!(
            limiter.acquire("ns", "b").now_or_never().is_none(),
            "and is dropped"
        );
        let mut waits = Box::pin(limiter.acquire("ns", "c"));
        assert!(waits.as_mut().now_or_never().is_none());
        drop(held);
        let permit = waits.await;
        assert_eq!(limiter.state.lock().in_use, 1);
        drop(permit);
        assert_eq!(limiter.state.lock().in_use, 0);
    }

    /// A permit that was given is not lost with the one who was to have it.
    #[tokio::test]
    async fn a_permit_without_a_waiter_is_passed_on() {
        let limiter = ConcurrencyLimit::new(1);
        let held = limiter.acquire("ns", "a").await;
        let mut waits = Box::pin(limiter.acquire("ns", "b"));
        assert!(waits.as_mut().now_or_never().is_none());
        drop(held);
        drop(waits);
        assert_eq!(limiter.state.lock().in_use, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_turn_comes_after_a_pause_where_the_fewest_are_too_many() {
        let limiter = ConcurrencyLimit::adaptive(AdaptiveLimit::new(1, 2));
        let held = limiter.acquire("ns", "a").await;
        held.answered(None);
        let pause = limiter.state.lock().limit.pause();
        let dropped = Instant::now();
        drop(held);
        let next = limiter.acquire("ns", "a").await;
        assert!(dropped.elapsed() >= pause && !pause.is_zero());
        drop(next);
    }

    #[tokio::test(start_paused = true)]
    async fn more_have_their_turns_while_answers_come_soon_and_fewer_once_they_do_not() {
        let limiter = ConcurrencyLimit::adaptive(AdaptiveLimit::new(1, 2));
        let held = limiter.acquire("ns", "a").await;
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(limiter.acquire("ns", "a"))).collect();
        assert!(
            waiting
                .iter_mut()
                .all(|permit| permit.as_mut().now_or_never().is_none())
        );
        while limiter.state.lock().limit.get() < 2 {
            tokio::time::advance(Duration::from_secs(1)).await;
            held.answered(Some(Duration::from_millis(10)));
        }
        drop(held);
        let mut turns: Vec<_> = waiting
            .iter_mut()
            .filter_map(|permit| permit.as_mut().now_or_never())
            .collect();
        assert_eq!(turns.len(), 2);
        turns[0].answered(None);
        turns.pop();
        assert!(
            waiting.pop().unwrap().now_or_never().is_none(),
            "one is enough now"
        );
        drop(turns);
        assert_eq!(limiter.state.lock().in_use, 0);
    }
}
