//! One pass over one MachineSet; and the worker that does it.

use std::sync::Arc;
use std::time::Duration;

use machinist_infra::store::Key;
use tokio::time::Instant;

use super::act::{Outcome, act};
use super::decide::decide;
use super::observe::{observe, subject};
use super::plan::Step;
use crate::autoscaler::Group;
use crate::context::Context;
use crate::runtime::worker;
use crate::telemetry::span::measured;

/// Sets that are worked on at once.
const AT_ONCE: usize = 16;

/// After a write that met somebody else's, the watch tells; should it be silent, look again.
const STALE: Duration = Duration::from_secs(1);

/// Works on MachineSets until their queue is closed. Nothing is made or deleted before the stores know what earlier
/// leaders wrote.
pub async fn work(context: Arc<Context>) {
    let caught_up = async {
        let Context { client, stores, .. } = context.as_ref();
        context.caught_up.machines(client, stores).await;
        context.caught_up.machine_sets(client, stores).await;
    };
    tokio::select! {
        () = caught_up => {}
        () = context.sets.closed() => return,
    }
    for set in context.stores.machine_sets.all() {
        context.sets.add(Key::of(set.as_ref()));
    }
    let queue = context.sets.clone();
    worker::work(queue, AT_ONCE, move |key| {
        let context = context.clone();
        async move {
            let Context { metrics, .. } = context.as_ref();
            measured(metrics, "machineset", &key, pass(&context, &key)).await;
        }
    })
    .await;
}

/// One pass; whether every write succeeded, or nothing if it has to wait.
async fn pass(context: &Arc<Context>, key: &Key) -> Option<bool> {
    let memories = &context.set_memories;
    let Some(set) = context.stores.machine_sets.get(key) else {
        memories.forget(key);
        context.instancetypes.forget(&Group::Set(key.clone()));
        return Some(true);
    };
    if !context.may_write() {
        return Some(true);
    }
    let started = Instant::now();
    if let Some(wait) = memories.pace(key, &set, started) {
        context.sets.add_after(key.clone(), wait);
        return None;
    }
    let now = context.now();
    let machines = context.stores.machines_of(set.uid());
    memories.count_losses(key, &set, machines.iter().map(AsRef::as_ref), now);
    let observed = observe(context, key, &set, (started, now));
    let plan = decide(&observed, now);
    tracing::debug!(set = %key, steps = ?plan.steps.iter().map(Step::verb).collect::<Vec<_>>(), again = ?plan.again, "decided");
    let (again, more, forgive) = (plan.again, plan.more, plan.forgive);
    let works = plan.steps.iter().any(Step::is_work);
    let tells = !works || observed.status_overdue;
    match act(context, key, &set, plan).await {
        Outcome::Done => {
            memories.overlap_told(key, set.metadata.generation);
            if works || forgive {
                memories.forgive(key);
            }
            if tells {
                memories.told(key, Instant::now());
            }
            if more {
                memories.hurry(key);
            }
            // What was written is in the stores already; decide the next step from it without waiting for the watch.
            if works {
                context.sets.add(key.clone());
            } else if let Some(delay) = again {
                context.sets.add_after(key.clone(), delay);
            }
            Some(true)
        }
        Outcome::Stale => {
            context.sets.add_after(key.clone(), STALE);
            Some(true)
        }
        Outcome::Rejected(how) => {
            tracing::warn!(set = %key, how, "a new Machine is not as it was sent");
            memories.halt(key, how, now);
            memories.hurry(key);
            context.sets.add(key.clone());
            Some(false)
        }
        Outcome::Failed(error) => {
            tracing::warn!(set = %key, %error, "a write failed");
            memories.fail(key, subject(&set, &observed.machines), error.failed(), now);
            context.sets.add(key.clone());
            Some(false)
        }
        Outcome::NotLeader => Some(true),
    }
}
