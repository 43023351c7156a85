//! One pass over one Machine: observe, decide, act; and the workers that do it.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use jiff::Timestamp;
use machinist_infra::store::Key;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cache::{Remnant, StoredMachine, owner};
use crate::context::Context;
use crate::machine::act::{Outcome, act};
use crate::machine::confirm;
use crate::machine::decide::decide;
use crate::machine::observe::{Hands, observe, place};
use crate::machine::observed::{Concern, Observed};
use crate::machine::plan::{Event, Plan};
use crate::machine::starts::{Pool, Start};
use crate::runtime::backoff::Cause;
use crate::telemetry::span::measured;

/// Works on Machines until the queue is closed. Each waits in its infra cluster's own lane: a cluster that is slow or gone
/// holds back its own Machines only. Nothing is done before it is known which Machines there are: a store that lags behind
/// may show one that is gone, and its VM would be made for nobody.
pub async fn work(context: Arc<Context>) {
    tokio::select! {
        () = context.caught_up.machines(&context.client, &context.stores) => {}
        () = context.queue.closed() => return,
    }
    context.stores.lost.lead();
    resume(&context);
    for machine in context.stores.machines.all() {
        note_start(&context, &machine);
    }
    let mut passes = JoinSet::new();
    loop {
        let key = tokio::select! {
            key = context.queue.next() => key,
            Some(_) = passes.join_next() => continue,
        };
        let Some(key) = key else { break };
        let working = Working {
            context: Arc::clone(&context),
            key,
        };
        passes.spawn(in_lane(working));
    }
    while passes.join_next().await.is_some() {}
}

/// Finishes the deletions of Machines that are gone, because their finalizers were removed by force while no controller saw it.
fn resume(context: &Context) {
    let machines = &context.stores.machines;
    for node in context.stores.nodes.all() {
        let Some(machine) = Remnant::machine(&node) else {
            continue;
        };
        if machines.has_index(machine.uid()) || machines.has_index(machine.name()) {
            continue;
        }
        let key = Key::of(&machine);
        tracing::warn!(machine = %key, uid = machine.uid(), "it is gone, and its Node was being drained; the deletion goes on");
        context.stores.lost.resume(machine, context.now());
        context.queue.add(key);
    }
}

/// An Event about a Machine that was let go: on its MachineSet; without one, on its namespace.
async fn tell_of_let_go(context: &Context, key: &Key) {
    let Some(machine) = context.stores.lost.take_let_go(key) else {
        return;
    };
    if machine.is_ignored(&context.settings.name) || !context.may_write() {
        return;
    }
    let place = machine.record.as_ref().map(|record| &record.infrastructure);
    let (namespace, server) = place.map_or(("", ""), |place| (&place.namespace, &place.server));
    let name = machine.name();
    let event = Event {
        warning: true,
        reason: "VMLetGo",
        message: format!(
            "the Machine {key} was deleted after its finalizers were removed: the VM {name} in namespace {namespace} of {server} \
             and the Node {name} stay. `kubectl machinist orphans` lists them"
        ),
    };
    let published = match owner::controller(&machine.metadata) {
        Some(set) => context.events.publish_about(set, &key.namespace, &event).await,
        None => {
            context
                .events
                .publish_about_namespace(&key.namespace, &event)
                .await
        }
    };
    if let Err(error) = published {
        tracing::warn!(machine = %key, %error, "cannot record that it was let go: {}", event.message);
    }
}

/// A Machine that is being worked on, until this is dropped.
struct Working {
    context: Arc<Context>,
    key: Key,
}

impl Drop for Working {
    fn drop(&mut self) {
        self.context.queue.done(&self.key);
    }
}

async fn in_lane(working: Working) {
    let Working { context, key } = &working;
    let lane = context.infra.lane(key).unwrap_or_else(|| {
        if let Some(machine) = context.stores.machines.get(key) {
            place(context, key, &machine);
        }
        let antechamber = || Arc::clone(&context.antechamber);
        context.infra.lane(key).unwrap_or_else(antechamber)
    });
    let pool = context
        .stores
        .machines
        .get(key)
        .map(|machine| Pool::of(&machine).set);
    let _turn = lane
        .turn(&key.namespace, pool.as_deref().unwrap_or_default())
        .await;
    if context.queue.is_closed() {
        return;
    }
    // On the heap only while it runs: thousands may be waiting for their lane.
    let pass = Box::pin(pass(context, key)).map(Some);
    measured(&context.metrics, "machine", key, pass).await;
}

/// Whether the plan ended with a refusal: what was asked for will not come.
fn is_refused(outcome: &Outcome) -> bool {
    let Outcome::Failed(failed) = outcome else {
        return false;
    };
    failed.error.code().is_some_and(|code| (400..500).contains(&code))
}

/// What the Machine's status says of its start.
fn note_start(context: &Context, machine: &StoredMachine) {
    let seen = machine.record.as_ref().and_then(|record| record.vm_seen);
    let age = seen.and_then(|seen| Duration::try_from(context.now().duration_since(seen)).ok());
    let next = (context.starts).note(machine, age.unwrap_or_default(), Instant::now());
    start_others(context, next);
}

/// Their turn to start has come.
fn start_others(context: &Context, next: Vec<Key>) {
    for machine in next {
        context.queue.add(machine);
    }
}

/// After a write that met somebody else's, the watch tells; should it be silent, look again.
const STALE: Duration = Duration::from_secs(1);

/// How often a Machine is looked at that is gone, while something of its is not, should nothing tell.
const LOST: Duration = Duration::from_secs(1);

/// One pass; whether every write succeeded.
async fn pass(context: &Context, key: &Key) -> bool {
    tell_of_let_go(context, key).await;
    let lost = context.stores.lost.get(key);
    let is_lost = lost.is_some();
    let Some(machine) = lost.or_else(|| context.stores.machines.get(key)) else {
        forget(context, key);
        return true;
    };
    if !context.may_write() {
        return true;
    }
    context.failures.creations.begin(Instant::now());
    if is_lost && machine.is_ignored(&context.settings.name) {
        context.stores.lost.forget(key);
        context.queue.add(key.clone());
        return true;
    }
    let now = context.now();
    context.times.note(key, Some(&machine), now, &context.metrics);
    let unseen = context.times.unseen(key);
    let (mut observed, hands) = observe(context, key, &machine, now).await;
    let plan = match decided(context, key, &mut observed, &hands, now).await {
        Ok(plan) => plan,
        Err(is_well) => {
            if let Some(since) = unseen {
                context.times.still_unseen(key, since);
            }
            return is_well;
        }
    };
    let again = plan.again.into_iter().chain(hands.look_again).min();
    let (writes, makes_vm) = (plan.changes_something(), plan.makes_vm());
    let outcome = act(context, &machine, &hands, plan).await;
    if let Some(after) = context.stores.machines.get(key) {
        if after
            .record
            .as_ref()
            .is_some_and(|record| record.node_uid.is_some())
        {
            context.recreations.end(key);
        }
        note_start(context, &after);
    }
    if makes_vm && is_refused(&outcome) {
        // There is no VM, and none will come.
        start_others(context, context.starts.forget(key));
    }
    if let Some(since) = unseen {
        if matches!(outcome, Outcome::Done) {
            // What was written is in the stores already.
            if let Some(after) = context.stores.machines.get(key) {
                let took = since.elapsed();
                context.times.answered(&machine, &after, took, &context.metrics);
            }
        } else {
            context.times.still_unseen(key, since);
        }
    }
    match outcome {
        Outcome::Done => {
            if observed.failure.is_none() {
                context.failures.clear(key);
            }
            if let Some(delay) = again {
                context.queue.add_after(key.clone(), delay);
            }
            // The next step is decided from what was written, without waiting for the watch.
            if is_lost {
                context.queue.add_after(key.clone(), LOST);
            } else if writes && observed.failure.is_none() {
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
            if error.error.code() == Some(401)
                && let Some(open) = &hands.open
            {
                open.doubt();
            }
            context
                .failures
                .add(&machine, (error.concerns, error.cause), error.to_string(), now);
            context.queue.add(key.clone());
            false
        }
        Outcome::NotLeader => true,
    }
}

/// What to do for the Machine, if it may start and all that ends for it is as it was observed; else the pass is over, and this is
/// its result.
async fn decided(
    context: &Context,
    key: &Key,
    observed: &mut Observed,
    hands: &Hands,
    now: Timestamp,
) -> Result<Plan, bool> {
    let mut plan = decide(observed, now);
    if plan.makes_vm()
        && let Some(open) = &hands.open
    {
        let (start, next) = (context.starts).begin(&observed.machine, open.key(), Instant::now());
        start_others(context, next);
        if start != Start::Free {
            observed.start = start;
            plan = decide(observed, now);
        }
    }
    tracing::debug!(machine = %key, steps = ?plan.steps, again = ?plan.again, "decided");
    if !confirm::ends_something(&observed.machine, &plan) {
        return Ok(plan);
    }
    match confirm::is_as_observed(context, observed, hands, &plan).await {
        Ok(true) => Ok(plan),
        // It is in the stores now.
        Ok(false) => {
            context.queue.add_after(key.clone(), STALE);
            Err(true)
        }
        Err(error) => {
            tracing::warn!(machine = %key, %error, "cannot read what was not seen; nothing ends for it");
            let message = format!("cannot read what was not seen, so nothing ends for it: {error}");
            let cause = (Concern::Infrastructure, Cause::of(&error));
            context.failures.add(&observed.machine, cause, message, now);
            context.queue.add(key.clone());
            Err(false)
        }
    }
}

/// Forgets a Machine of which nothing is left.
fn forget(context: &Context, key: &Key) {
    context
        .references
        .keep(key, &std::collections::HashSet::default());
    context.times.note(key, None, context.now(), &context.metrics);
    let _gone = context.times.unseen(key);
    context.failures.clear(key);
    context.failures.creations.forget(key);
    context.recreations.end(key);
    context.turns.forget(key);
    context.surges.forget(key);
    start_others(context, context.starts.forget(key));
    context.infra.release(key);
    context.drains.close(key);
}
