//! How many Machines of an infra cluster are worked on at a time, and whose turn it is: each pool in turn, so that one of a
//! thousand Machines delays another's by one, and not by a thousand.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// A lane; a turn in it lasts as long as its [`Turn`].
#[derive(Debug)]
pub struct Lane {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: usize,
    waiting: HashMap<String, VecDeque<oneshot::Sender<Turn>>>,
    /// Pools with somebody who waits, the next one first.
    pools: VecDeque<String>,
}

/// The right to be worked on, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    lane: Option<Arc<Lane>>,
}

impl Lane {
    /// One for so many at a time.
    pub fn new(width: usize) -> Arc<Self> {
        let state = State {
            free: width.max(1),
            waiting: HashMap::new(),
            pools: VecDeque::new(),
        };
        Arc::new(Self {
            state: Mutex::new(state),
        })
    }

    /// Waits for the turn of somebody of that pool.
    pub async fn turn(self: &Arc<Self>, pool: &str) -> Turn {
        let waits = {
            let mut state = self.lock();
            if state.free > 0 {
                state.free -= 1;
                return Turn {
                    lane: Some(Arc::clone(self)),
                };
            }
            let (sender, waits) = oneshot::channel();
            if let Some(waiting) = state.waiting.get_mut(pool) {
                waiting.push_back(sender);
            } else {
                state.waiting.insert(pool.to_owned(), VecDeque::from([sender]));
                state.pools.push_back(pool.to_owned());
            }
            waits
        };
        // A sender is dropped only when its turn is given.
        waits.await.unwrap_or(Turn { lane: None })
    }

    /// Gives the turn to the next, or leaves it free.
    fn pass_on(self: &Arc<Self>) {
        let mut state = self.lock();
        while let Some(pool) = state.pools.pop_front() {
            let Some(waiting) = state.waiting.get_mut(&pool) else {
                continue;
            };
            let next = waiting.pop_front();
            if waiting.is_empty() {
                state.waiting.remove(&pool);
            } else {
                state.pools.push_back(pool);
            }
            let Some(next) = next else { continue };
            let turn = Turn {
                lane: Some(Arc::clone(self)),
            };
            match next.send(turn) {
                Ok(()) => return,
                // Whoever waited is gone. Its turn must not be passed on from here, under the lock.
                Err(mut turn) => turn.lane = None,
            }
        }
        state.free += 1;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(lane) = self.lane.take() {
            lane.pass_on();
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
        let lane = Lane::new(1);
        let first = lane.turn("large").await;
        let order = Mutex::new(Vec::new());
        let one = async |pool: &'static str| {
            let turn = lane.turn(pool).await;
            order.lock().unwrap().push(pool);
            drop(turn);
        };
        let all = join_all(["large", "large", "large", "small", "other", "small"].map(one));
        let mut all = Box::pin(all);
        assert!(all.as_mut().now_or_never().is_none(), "all wait");
        drop(first);
        all.await;
        assert_eq!(
            *order.lock().unwrap(),
            ["large", "small", "other", "large", "small", "large"]
        );
        let state = lane.lock();
        assert_eq!((state.free, state.waiting.len(), state.pools.len()), (1, 0, 0));
    }

    #[tokio::test]
    async fn whoever_does_not_wait_any_more_keeps_nobody_waiting() {
        let lane = Lane::new(2);
        let held = [lane.turn("a").await, lane.turn("a").await];
        assert!(lane.turn("b").now_or_never().is_none(), "and is dropped");
        let mut waits = Box::pin(lane.turn("c"));
        assert!(waits.as_mut().now_or_never().is_none());
        drop(held);
        let turn = waits.await;
        assert_eq!(lane.lock().free, 1);
        drop(turn);
        assert_eq!(lane.lock().free, 2);
    }

    /// A turn that was given is not lost with the one who was to have it.
    #[tokio::test]
    async fn a_turn_that_nobody_takes_is_given_on() {
        let lane = Lane::new(1);
        let held = lane.turn("a").await;
        let mut waits = Box::pin(lane.turn("b"));
        assert!(waits.as_mut().now_or_never().is_none());
        drop(held);
        drop(waits);
        assert_eq!(lane.lock().free, 1);
    }
}
