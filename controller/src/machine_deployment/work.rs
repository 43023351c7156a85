//! One pass over one MachineDeployment; and the worker that does it.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use machinist_infra::store::Key;

use super::act::{Outcome, act};
use super::decide::decide;
use super::observe::{observe, subject};
use super::plan::Step;
use crate::autoscaler::Group;
use crate::context::Context;
use crate::runtime::worker;
use crate::telemetry::span::measured;

/// Deployments that are worked on at once.
const AT_ONCE: usize = 16;

/// After a write that met somebody else's, the watch tells; should it be silent, look again.
const STALE: Duration = Duration::from_secs(1);

/// Works on MachineDeployments until their queue is closed. Nothing is made or scaled before the stores know what earlier
/// leaders wrote.
pub async fn work(context: Arc<Context>) {
    let caught_up = async {
        let Context { client, stores, .. } = context.as_ref();
        context.caught_up.machine_deployments(client, stores).await;
        context.caught_up.machine_sets(client, stores).await;
    };
    tokio::select! {
        () = caught_up => {}
        () = context.deployments.closed() => return,
    }
    for deployment in context.stores.machine_deployments.all() {
        context.deployments.add(Key::of(deployment.as_ref()));
    }
    let queue = context.deployments.clone();
    worker::work(queue, AT_ONCE, move |key| {
        let context = context.clone();
        async move {
            let pass = pass(&context, &key).map(Some);
            measured(&context.metrics, "machinedeployment", &key, pass).await;
        }
    })
    .await;
}

/// One pass; whether every write succeeded.
async fn pass(context: &Arc<Context>, key: &Key) -> bool {
    let memories = &context.deployment_memories;
    let Some(deployment) = context.stores.machine_deployments.get(key) else {
        memories.forget(key);
        context.instancetypes.forget(&Group::Deployment(key.clone()));
        return true;
    };
    if !context.may_write() {
        return true;
    }
    let now = context.now();
    let (observed, sets) = observe(context, key, &deployment, now);
    let plan = decide(&observed, now);
    tracing::debug!(deployment = %key, steps = ?plan.steps.iter().map(Step::verb).collect::<Vec<_>>(), again = ?plan.again, "decided");
    let (again, writes) = (plan.again, !plan.steps.is_empty());
    match act(context, key, &deployment, &sets, plan).await {
        Outcome::Done => {
            if observed.failure.is_none() {
                memories.forgive(key);
            }
            if let Some(delay) = again {
                context.deployments.add_after(key.clone(), delay);
            }
            // What was written is in the stores already; decide the next step from it without waiting for the watch.
            if writes && observed.failure.is_none() {
                context.deployments.add(key.clone());
            }
            true
        }
        Outcome::Stale => {
            context.deployments.add_after(key.clone(), STALE);
            true
        }
        Outcome::RollbackRefused(error) => {
            tracing::warn!(deployment = %key, %error, "a rollback was refused");
            memories.refuse_rollback(key, &observed.deployment.annotations, error.to_string());
            context.deployments.add(key.clone());
            false
        }
        Outcome::Rejected(how) => {
            tracing::warn!(deployment = %key, how, "a new MachineSet is not as it was sent");
            memories.halt(key, how, now);
            context.deployments.add(key.clone());
            false
        }
        Outcome::Failed(error) => {
            tracing::warn!(deployment = %key, %error, "a write failed");
            memories.fail(key, subject(&deployment, &sets), error.failed(), now);
            context.deployments.add(key.clone());
            false
        }
        Outcome::NotLeader => true,
    }
}
