//! The reconciler of MachineDeployments.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use machinist_infra::cache::store::Key;

use super::apply::{Failure, apply};
use super::decide::decide;
use super::memory::Memories;
use super::plan::{Plan, Step};
use super::snapshot::types::Snapshot;
use super::snapshot::{note, subject, take_snapshot};
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

/// A snapshot of a MachineDeployment, and what it was taken from.
#[derive(Debug)]
pub struct SourcedSnapshot {
    observed: Snapshot,
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

    type Snapshot = SourcedSnapshot;
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

    async fn snapshot(&self, key: &Key, now: Timestamp) -> Option<SourcedSnapshot> {
        let deployment = self.context.stores.machine_deployments.get(key)?;
        let (observed, sets) =
            take_snapshot(&self.context, &self.groups, &self.memories, key, &deployment, now);
        Some(SourcedSnapshot {
            observed,
            deployment,
            sets,
        })
    }

    fn decide(&self, sourced: &SourcedSnapshot, now: Timestamp) -> Plan {
        decide(&sourced.observed, now)
    }

    fn summary(plan: &Plan) -> (Vec<&'static str>, Option<Duration>) {
        (plan.steps.iter().map(Step::verb).collect(), plan.again)
    }

    async fn apply(
        &self,
        key: &Key,
        sourced: SourcedSnapshot,
        plan: Plan,
        now: Timestamp,
    ) -> Result<Requeue, Stop<String>> {
        let (memories, observed) = (&self.memories, &sourced.observed);
        let from = (sourced.deployment.as_ref(), sourced.sets.as_slice());
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
