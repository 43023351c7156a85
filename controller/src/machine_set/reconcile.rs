//! The reconciler of MachineSets.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use machinist_infra::cache::store::Key;
use tokio::time::Instant;

use super::apply::{Failure, apply};
use super::decide::decide;
use super::memory::Memories;
use super::plan::{Plan, Step};
use super::snapshot::types::Snapshot;
use super::snapshot::{note, subject, take_snapshot};
use crate::autoscaler::NodeGroups;
use crate::cache::{NodeGroup, Synced};
use crate::context::Context;
use crate::runtime::kernel::{Reconciler, Requeue};
use crate::runtime::queue::Queue;
use crate::runtime::write::Stop;

/// Keeps each MachineSet's number of Machines.
#[derive(Debug)]
pub struct MachineSetReconciler {
    context: Arc<Context>,
    groups: Arc<NodeGroups>,
    memories: Memories,
}

impl MachineSetReconciler {
    /// Of a process that has reconciled nothing yet.
    pub fn new(context: Arc<Context>, groups: Arc<NodeGroups>) -> Self {
        Self {
            context,
            groups,
            memories: Memories::default(),
        }
    }
}

impl Reconciler for MachineSetReconciler {
    const NAME: &'static str = "machineset";
    const AT_ONCE: usize = 16;
    const REMEMBERS_FAILURES: bool = true;

    type Snapshot = Snapshot;
    type Plan = Plan;

    fn context(&self) -> &Context {
        &self.context
    }

    fn queue(&self) -> &Arc<Queue<Key>> {
        &self.context.queues.sets
    }

    async fn begin(&self) {
        self.context
            .synced(&[Synced::Machines, Synced::MachineSets])
            .await;
        for set in self.context.stores.machine_sets.all() {
            self.queue().add(Key::of(set.as_ref()));
        }
    }

    /// What a burst of Machines and Nodes changes is reconciled together.
    fn pace(&self, key: &Key) -> Option<Duration> {
        let set = self.context.stores.machine_sets.get(key)?;
        self.memories.pace(key, &set, Instant::now())
    }

    fn note(&self, key: &Key, now: Timestamp) {
        if let Some(set) = self.context.stores.machine_sets.get(key) {
            note(&self.context, &self.groups, &self.memories, key, &set, now);
        }
    }

    async fn snapshot(&self, key: &Key, now: Timestamp) -> Option<Snapshot> {
        let set = self.context.stores.machine_sets.get(key)?;
        Some(take_snapshot(
            &self.context,
            &self.groups,
            &self.memories,
            key,
            &set,
            now,
        ))
    }

    fn decide(&self, observed: &Snapshot, now: Timestamp) -> Plan {
        decide(observed, now)
    }

    fn summary(plan: &Plan) -> (Vec<&'static str>, Option<Duration>) {
        (plan.steps.iter().map(Step::verb).collect(), plan.again)
    }

    async fn apply(
        &self,
        key: &Key,
        observed: Snapshot,
        plan: Plan,
        now: Timestamp,
    ) -> Result<Requeue, Stop<String>> {
        let (memories, set) = (&self.memories, &observed.set);
        let (again, more, forgive) = (plan.again, plan.more, plan.forgive);
        let works = plan.steps.iter().any(Step::is_work);
        memories.reported(key);
        let result = apply(&self.context, memories, key, set, plan).await;
        result.map_err(|stop| {
            stop.map(|failure| match failure {
                Failure::Rejected(how) => {
                    memories.creations(key, |creations| creations.halt(how.clone(), now));
                    memories.hurry(key);
                    how
                }
                Failure::Write(failed) => {
                    let message = failed.message.clone();
                    memories.fail(key, subject(set, &observed.machines), failed, now);
                    message
                }
            })
        })?;
        memories.overlap_reported(key, set.metadata.generation);
        if works || forgive {
            memories.forgive(key);
        }
        if !works || observed.status_overdue {
            memories.status_is_current(key, Instant::now());
        }
        if more {
            memories.hurry(key);
        }
        Ok(Requeue::after(works, again))
    }

    async fn forget(&self, key: &Key) {
        self.memories.forget(key);
        self.groups.forget(&NodeGroup::Set(key.clone()));
    }
}
