//! The reconciler of MachineDeployments.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use machinist_infra::cache::store::Key;

use super::apply::{Failure, apply};
use super::decide::decide;
use super::memory::Memories;
use super::observed::Observed;
use super::plan::{Plan, Step};
use super::snapshot::{note, observe, subject};
use crate::autoscaler::NodeGroups;
use crate::cache::{NodeGroup, StoredMachineDeployment, StoredMachineSet, Synced};
use crate::context::Context;
use crate::runtime::kernel::{Reconciler, Requeue};
use crate::runtime::queue::Queue;
use crate::runtime::write::Stop;

/// Rolls MachineDeployments out.
#[derive(Debug)]
pub struct MachineDeploymentReconciler {
    context: Arc<Context>,
    groups: Arc<NodeGroups>,
    memories: Memories,
}

/// What is known of one MachineDeployment, and what that was taken from.
#[derive(Debug)]
pub struct Snapshot {
    observed: Observed,
    deployment: Arc<StoredMachineDeployment>,
    sets: Vec<Arc<StoredMachineSet>>,
}

impl MachineDeploymentReconciler {
    /// Of a process that has reconciled nothing yet.
    pub fn new(context: Arc<Context>, groups: Arc<NodeGroups>) -> Self {
        Self {
            context,
            groups,
            memories: Memories::default(),
        }
    }
}

impl Reconciler for MachineDeploymentReconciler {
    const NAME: &'static str = "machinedeployment";
    const AT_ONCE: usize = 16;
    const REMEMBERS_FAILURES: bool = true;

    type Snapshot = Snapshot;
    type Plan = Plan;

    fn context(&self) -> &Context {
        &self.context
    }

    fn queue(&self) -> &Arc<Queue<Key>> {
        &self.context.queues.deployments
    }

    async fn begin(&self) {
        self.context
            .synced(&[Synced::MachineDeployments, Synced::MachineSets])
            .await;
        for deployment in self.context.stores.machine_deployments.all() {
            self.queue().add(Key::of(deployment.as_ref()));
        }
    }

    fn note(&self, key: &Key, _: Timestamp) {
        if let Some(deployment) = self.context.stores.machine_deployments.get(key) {
            note(&self.context, &self.groups, &self.memories, key, &deployment);
        }
    }

    async fn snapshot(&self, key: &Key, now: Timestamp) -> Option<Snapshot> {
        let deployment = self.context.stores.machine_deployments.get(key)?;
        let (observed, sets) = observe(&self.context, &self.groups, &self.memories, key, &deployment, now);
        Some(Snapshot {
            observed,
            deployment,
            sets,
        })
    }

    fn decide(&self, snapshot: &Snapshot, now: Timestamp) -> Plan {
        decide(&snapshot.observed, now)
    }

    fn summary(plan: &Plan) -> (Vec<&'static str>, Option<Duration>) {
        (plan.steps.iter().map(Step::verb).collect(), plan.again)
    }

    async fn apply(
        &self,
        key: &Key,
        snapshot: Snapshot,
        plan: Plan,
        now: Timestamp,
    ) -> Result<Requeue, Stop<String>> {
        let (memories, observed) = (&self.memories, &snapshot.observed);
        let from = (snapshot.deployment.as_ref(), snapshot.sets.as_slice());
        let (again, writes) = (plan.again, !plan.steps.is_empty());
        memories.reported(key);
        let result = apply(&self.context, memories, key, from, plan).await;
        result.map_err(|stop| {
            stop.map(|failure| match failure {
                Failure::RollbackRefused(error) => {
                    memories.refuse_rollback(key, &observed.deployment.annotations, error.clone());
                    error
                }
                Failure::Rejected(how) => {
                    memories.creations(key, |creations| creations.halt(how.clone(), now));
                    how
                }
                Failure::Write(failed) => {
                    let message = failed.message.clone();
                    memories.fail(key, subject(from.0, from.1), failed, now);
                    message
                }
            })
        })?;
        let has_failed = observed.failure.is_some();
        if !has_failed {
            memories.forgive(key);
        }
        Ok(Requeue::after(writes && !has_failed, again))
    }

    async fn forget(&self, key: &Key) {
        self.memories.forget(key);
        self.groups.forget(&NodeGroup::Deployment(key.clone()));
    }
}
