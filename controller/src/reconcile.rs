//! One pass over one Machine: observe, decide, act; and the workers that do it.

use std::sync::Arc;
use std::time::Duration;

use machinist_infra::store::Key;

use crate::context::Context;
use crate::machine::act::{Outcome, act};
use crate::machine::decide::decide;
use crate::machine::observe::observe;

/// Works on Machines until the queue is closed.
pub async fn work(context: Arc<Context>) {
    while let Some(key) = context.queue.next().await {
        #[allow(clippy::cast_possible_wrap)] // The number of Machines is far below the limit.
        context.metrics.queue_depth.set(context.queue.depth() as i64);
        let timer = context.metrics.reconcile_seconds.start_timer();
        let result = if pass(&context, &key).await { "ok" } else { "error" };
        timer.observe_duration();
        context.metrics.reconciles.with_label_values(&[result]).inc();
        context.queue.done(&key);
    }
}

/// After a write that met somebody else's, the watch tells; should it be silent, look again.
const STALE: Duration = Duration::from_secs(1);

/// One pass; whether every write succeeded.
async fn pass(context: &Context, key: &Key) -> bool {
    let Some(machine) = context.stores.machines.get(key) else {
        context
            .references
            .keep(key, &std::collections::HashSet::default());
        context.failures.clear(key);
        return true;
    };
    if !context.may_write() {
        return true;
    }
    let now = context.now();
    let (observed, hands) = observe(context, key, &machine, now).await;
    let plan = decide(&observed, now);
    tracing::debug!(machine = %key, steps = ?plan.steps, again = ?plan.again, "decided");
    let (again, writes) = (plan.again, !plan.steps.is_empty());
    match act(context, &machine, &hands, plan).await {
        Outcome::Done => {
            if observed.failure.is_none() {
                context.failures.clear(key);
            }
            if let Some(delay) = again {
                context.queue.add_after(key.clone(), delay);
            }
            // What was written is in the stores already; decide the next step from it without waiting for the watch.
            if writes && observed.failure.is_none() {
                context.queue.add(key.clone());
            }
            true
        }
        Outcome::Stale => {
            context.queue.add_after(key.clone(), STALE);
            true
        }
        Outcome::Failed(error) => {
            tracing::warn!(machine = %key, %error, "a write failed");
            context.failures.add(key, error.concerns, error.to_string(), now);
            context.queue.add(key.clone());
            false
        }
        Outcome::NotLeader => true,
    }
}
