//! The kernel: the one loop that all reconcilers run in.
//!
//! A reconciler takes notice of what the caches show ([`Reconciler::note`]), takes a snapshot of an object
//! ([`Reconciler::snapshot`]), decides what follows from that ([`Reconciler::decide`]), and carries it out
//! ([`Reconciler::apply`]). What holds for all of them is here: one reconcile of a key at a time,
//! concurrency limits, the leader's fence, span and metrics, and when a key is due again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use machinist_infra::cache::store::Key;
use machinist_infra::provider::concurrency_limit::Permit;
use parking_lot::Mutex;

use crate::context::Context;
use crate::runtime::backoff::{Backoff, Jitter};
use crate::runtime::queue::Queue;
use crate::runtime::worker;
use crate::runtime::write::Stop;
use crate::telemetry::span::measured;

/// After a write that met another's, or a read that showed otherwise than was decided from, a watch tells; should it be
/// silent, the key is due again after these pauses.
const STALE: Backoff = Backoff {
    first: Duration::from_secs(1),
    longest: Duration::from_mins(1),
};

/// Pauses between attempts whose failure no status shows.
const RETRY: Backoff = Backoff {
    first: Duration::from_millis(500),
    longest: Duration::from_secs(30),
};

/// When a key is due again whose plan was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requeue {
    /// At once: the next step is decided from what was written, which the stores have already.
    Now,
    /// After that long, if nothing happens before.
    After(Duration),
    /// When something happens.
    OnEvent,
}

impl Requeue {
    /// At once after writes that the next decision is made from, else when the plan says so.
    pub fn after(wrote: bool, again: Option<Duration>) -> Self {
        match again {
            _ if wrote => Self::Now,
            Some(delay) => Self::After(delay),
            None => Self::OnEvent,
        }
    }
}

/// Brings objects of one kind to what their specs ask for.
pub trait Reconciler: Send + Sync + 'static {
    /// Its name in metrics and spans.
    const NAME: &'static str;

    /// Keys that are worked on at once, at most.
    const AT_ONCE: usize;

    /// Whether it remembers what failed, so that the next snapshot holds the object back and its status says so. Else the
    /// kernel tries again, ever more slowly.
    const REMEMBERS_FAILURES: bool;

    /// What is known of one object.
    type Snapshot: Send + Sync;

    /// What to do for it.
    type Plan: Send;

    /// What all reconcilers have in common.
    fn context(&self) -> &Context;

    /// Keys that are due.
    fn queue(&self) -> &Arc<Queue<Key>>;

    /// Returns once the stores know what earlier leaders wrote. Before that, nothing is reconciled.
    fn begin(&self) -> impl Future<Output = ()> + Send;

    /// Waits for the concurrency limit of whatever this key has to do with.
    fn turn(&self, _: &Key) -> impl Future<Output = Option<Permit>> + Send {
        std::future::ready(None)
    }

    /// How long it is too early to reconcile that key again.
    fn pace(&self, _: &Key) -> Option<Duration> {
        None
    }

    /// Takes notice of what the caches show of the object. What is remembered changes here and in [`Reconciler::apply`] only.
    fn note(&self, _: &Key, _: Timestamp) {}

    /// What is known of the object; nothing if there is none, or nothing to be done for it. Taken twice, it is the same: it
    /// changes nothing.
    fn snapshot(&self, key: &Key, now: Timestamp) -> impl Future<Output = Option<Self::Snapshot>> + Send;

    /// What follows from that: the same snapshot and time give the same plan.
    fn decide(&self, snapshot: &Self::Snapshot, now: Timestamp) -> Self::Plan;

    /// What the plan's writes do, in order, and when it says to reconcile again; for the log.
    fn summary(plan: &Self::Plan) -> (Vec<&'static str>, Option<Duration>);

    /// Carries the plan out.
    fn apply(
        &self,
        key: &Key,
        snapshot: Self::Snapshot,
        plan: Self::Plan,
        now: Timestamp,
    ) -> impl Future<Output = Result<Requeue, Stop<String>>> + Send;

    /// There is no such object: nothing is remembered of it any more.
    fn forget(&self, key: &Key) -> impl Future<Output = ()> + Send;
}

/// Reconciles what is in the reconciler's queue until that is closed.
pub async fn run<R: Reconciler>(reconciler: Arc<R>) {
    let queue = reconciler.queue().clone();
    tokio::select! {
        () = reconciler.begin() => {}
        () = queue.closed() => return,
    }
    let pauses = Arc::new(Pauses::default());
    worker::work(queue, R::AT_ONCE, move |key| {
        let (reconciler, pauses) = (reconciler.clone(), pauses.clone());
        async move { in_turn(reconciler.as_ref(), &pauses, &key).await }
    })
    .await;
}

async fn in_turn<R: Reconciler>(reconciler: &R, pauses: &Pauses, key: &Key) {
    let _turn = reconciler.turn(key).await;
    if reconciler.queue().is_closed() {
        return;
    }
    if let Some(wait) = reconciler.pace(key) {
        reconciler.queue().add_after(key.clone(), wait);
        return;
    }
    // On the heap only while it runs: thousands may be waiting for their turn.
    let reconcile = Box::pin(reconcile(reconciler, pauses, key));
    measured(&reconciler.context().metrics, R::NAME, key, reconcile).await;
}

/// Whether every write succeeded.
async fn reconcile<R: Reconciler>(reconciler: &R, pauses: &Pauses, key: &Key) -> bool {
    let (context, queue) = (reconciler.context(), reconciler.queue());
    if !context.may_write() {
        return true;
    }
    let now = context.now();
    reconciler.note(key, now);
    let Some(snapshot) = reconciler.snapshot(key, now).await else {
        pauses.end(key);
        reconciler.forget(key).await;
        return true;
    };
    let plan = reconciler.decide(&snapshot, now);
    let (steps, again) = R::summary(&plan);
    tracing::debug!(controller = R::NAME, object = %key, ?steps, ?again, "decided");
    match reconciler.apply(key, snapshot, plan, now).await {
        Ok(requeue) => {
            pauses.end(key);
            match requeue {
                Requeue::Now => queue.add(key.clone()),
                Requeue::After(delay) => queue.add_after(key.clone(), delay),
                Requeue::OnEvent => {}
            }
            true
        }
        Err(Stop::Stale) => {
            queue.add_after(key.clone(), pauses.after(key, STALE));
            true
        }
        Err(Stop::NotLeader) => true,
        Err(Stop::Failed(error)) => {
            tracing::warn!(controller = R::NAME, object = %key, error, "a write failed");
            if R::REMEMBERS_FAILURES {
                queue.add(key.clone());
            } else {
                queue.add_after(key.clone(), pauses.after(key, RETRY));
            }
            false
        }
    }
}

/// How often in a row each key failed or was stale.
#[derive(Debug, Default)]
struct Pauses {
    attempts: Mutex<HashMap<Key, u32>>,
    jitter: Jitter,
}

impl Pauses {
    /// How long to wait after one more attempt.
    fn after(&self, key: &Key, backoff: Backoff) -> Duration {
        let mut attempts = self.attempts.lock();
        let before = attempts.entry(key.clone()).or_default();
        let pause = backoff.pause(*before, self.jitter);
        *before = before.saturating_add(1);
        pause
    }

    fn end(&self, key: &Key) {
        self.attempts.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_tried_again_after_a_pause_that_doubles() {
        let pauses = Pauses {
            jitter: Jitter::NONE,
            ..Pauses::default()
        };
        let key = Key::new("", "csr-1");
        for (backoff, expected) in [
            (RETRY, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]),
            (
                STALE,
                [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000],
            ),
        ] {
            let pause = || pauses.after(&key, backoff).as_millis();
            assert_eq!([(); 8].map(|()| pause()), expected);
            pauses.end(&key);
            assert_eq!(pause(), expected[0], "it begins again");
            pauses.end(&key);
        }
    }

    #[test]
    fn what_was_written_is_decided_from_at_once() {
        let delay = Duration::from_secs(5);
        assert_eq!(Requeue::after(true, Some(delay)), Requeue::Now);
        assert_eq!(Requeue::after(false, Some(delay)), Requeue::After(delay));
        assert_eq!(Requeue::after(false, None), Requeue::OnEvent);
    }
}
