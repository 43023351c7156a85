//! The reconciler of Machines.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use machinist_infra::cache::store::Key;
use machinist_infra::provider::InfraEvent;
use machinist_infra::provider::concurrency_limit::{ConcurrencyLimit, Permit};
use tokio::time::Instant;

use super::apply::{StepError, apply};
use super::confirm;
use super::decide::decide;
use super::memory::Memory;
use super::plan::{Plan, Step};
use super::snapshot::types::{FailureScope, Snapshot};
use super::snapshot::{ApplyContext, place, reserve, take_snapshot};
use super::start_limiter::{Pool, Start};
use super::times::News;
use crate::cache::{Referrer, Remnant, StoredMachine, Synced, owner};
use crate::context::Context;
use crate::runtime::backoff::Cause;
use crate::runtime::kernel::{Reconciler, Requeue};
use crate::runtime::queue::Queue;
use crate::runtime::write::Stop;
use crate::telemetry::events::Event;
use crate::telemetry::metrics::Counts;

/// How often a Machine is reconciled that is gone, while something of its is not, should nothing tell.
const LOST: Duration = Duration::from_secs(1);

/// Makes Machines into Nodes, and takes them down again.
#[derive(Debug)]
pub struct MachineReconciler {
    context: Arc<Context>,
    memory: Memory,
    /// The concurrency limit of Machines whose infra cluster is not known.
    default_limit: Arc<ConcurrencyLimit>,
}

/// A snapshot of a Machine, and what it was taken from.
#[derive(Debug)]
pub struct SourcedSnapshot {
    observed: Snapshot,
    handles: ApplyContext,
    /// Whether it is gone while something of its is not.
    is_lost: bool,
    /// What was heard of its VM and is not answered yet.
    news: Option<News>,
}

/// A VM that is being made, until this is dropped.
struct Creation<'a> {
    reconciler: &'a MachineReconciler,
    key: Key,
}

impl Drop for Creation<'_> {
    fn drop(&mut self) {
        let reconciler = self.reconciler;
        let (next, pause) = reconciler
            .memory
            .start_limiter
            .end_creation(&self.key, Instant::now());
        for machine in next {
            reconciler.queue().add_after(machine, pause);
        }
    }
}

impl Reconciler for MachineReconciler {
    const NAME: &'static str = "machine";
    /// Each waits for the limit of its infra cluster.
    const AT_ONCE: usize = usize::MAX;
    const REMEMBERS_FAILURES: bool = true;

    type Snapshot = SourcedSnapshot;
    type Plan = Plan;

    fn context(&self) -> &Context {
        &self.context
    }

    fn queue(&self) -> &Arc<Queue<Key>> {
        &self.context.queues.machines
    }

    /// A store that lags behind may show a Machine that is gone, and its VM would be created for no Machine.
    async fn begin(&self) {
        self.context.synced(&[Synced::Machines]).await;
        let stores = &self.context.stores;
        stores.tombstones.lead();
        self.memory.leading_since.get_or_init(|| self.context.now());
        self.resume();
        for machine in stores.machines.all() {
            self.note_start(&machine);
            self.queue().add(Key::of(machine.as_ref()));
        }
        for machine in stores.tombstones.keys() {
            self.queue().add(machine);
        }
    }

    /// An infra cluster that is slow or gone holds back its own Machines only.
    async fn turn(&self, key: &Key) -> Option<Permit> {
        let context = &self.context;
        let machine = context.stores.machines.get(key);
        let concurrency_limit = context.infra.concurrency_limit(key).unwrap_or_else(|| {
            if let Some(machine) = &machine {
                place(context, key, machine);
            }
            let default = || Arc::clone(&self.default_limit);
            context.infra.concurrency_limit(key).unwrap_or_else(default)
        });
        let pool = machine.map(|machine| Pool::of(&machine).set);
        Some(
            concurrency_limit
                .acquire(&key.namespace, pool.as_deref().unwrap_or_default())
                .await,
        )
    }

    fn note(&self, key: &Key, now: Timestamp) {
        let (stores, memory) = (&self.context.stores, &self.memory);
        let is_ignored = |machine: &StoredMachine| machine.is_ignored(&self.context.settings.name);
        if stores
            .tombstones
            .get(key)
            .is_some_and(|machine| is_ignored(&machine))
        {
            stores.tombstones.forget(key);
        }
        memory.failures.creations.begin(Instant::now());
        if let Some((machine, _)) = self.find(key) {
            memory.times.note(key, Some(&machine), now, &self.context.metrics);
        }
    }

    async fn snapshot(&self, key: &Key, now: Timestamp) -> Option<SourcedSnapshot> {
        let (machine, is_lost) = self.find(key)?;
        // What happens from here on is for the next reconcile to answer.
        let news = self.memory.times.news(key);
        let (observed, handles) = take_snapshot(&self.context, &self.memory, key, &machine, now).await;
        Some(SourcedSnapshot {
            observed,
            handles,
            is_lost,
            news,
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
        mut sourced: SourcedSnapshot,
        plan: Plan,
        now: Timestamp,
    ) -> Result<Requeue, Stop<String>> {
        self.report_let_go(key).await;
        sourced.handles.keep(&self.context, &self.memory, key);
        let infra = &sourced.observed.infra;
        self.memory.unconfirmed_causes.note(key, infra, now);
        let plan = self.reserved(&mut sourced, plan, now);
        let (plan, creating) = match self.started(&mut sourced, plan, now) {
            Ok(started) => started,
            // There is nothing to be shown of that.
            Err(again) => return Ok(Requeue::After(again)),
        };
        if sourced.observed.failure.is_some() {
            self.memory.failures.reported(key);
        }
        let again = plan.again.into_iter().chain(sourced.handles.requeue_after).min();
        let (writes, makes_vm) = (plan.changes_something(), plan.makes_vm());
        let SourcedSnapshot {
            observed,
            handles,
            is_lost,
            news,
        } = &sourced;
        let machine = &observed.machine;
        let mut refused = false;
        let result = match self.confirmed(&sourced, &plan, now).await {
            Ok(()) => {
                let result = apply(&self.context, &self.memory, machine, handles, plan).await;
                refused = is_refused(&result);
                result.map_err(|stop| stop.map(|error| self.failed(&sourced, &error, now)))
            }
            Err(stop) => Err(stop),
        };
        drop(creating);
        // What was written is in the stores already.
        let after = self.context.stores.machines.get(key);
        if let Some(after) = &after {
            let record = after.record.as_ref();
            if record.is_some_and(|record| record.node_uid.is_some()) {
                self.memory.recreations.end(key);
            }
            self.note_start(after);
        }
        if makes_vm && refused {
            // There is no VM, and none will come.
            self.enqueue(self.memory.start_limiter.forget(key, Instant::now()));
        }
        if let (Some(news), Ok(())) = (news, &result) {
            let times = &self.memory.times;
            times.end_news(key, *news);
            if let Some(after) = &after {
                times.answered(machine, after, news.since.elapsed(), &self.context.metrics);
            }
        }
        result?;
        let has_failed = observed.failure.is_some();
        if !has_failed {
            self.memory.failures.clear(key);
        }
        Ok(if *is_lost {
            Requeue::After(again.map_or(LOST, |again| again.min(LOST)))
        } else {
            Requeue::after(writes && !has_failed, again)
        })
    }

    async fn forget(&self, key: &Key) {
        self.report_let_go(key).await;
        let context = &self.context;
        context
            .references
            .keep(&Referrer::Machine(key.clone()), &HashSet::default());
        self.memory.times.note(key, None, context.now(), &context.metrics);
        context.infra.release(key);
        self.enqueue(self.memory.forget(key));
    }
}

impl MachineReconciler {
    /// `worker_count` Machines are worked on at once whose infra cluster is not known.
    pub fn new(context: Arc<Context>, memory: Memory, worker_count: usize) -> Self {
        Self {
            context,
            memory,
            default_limit: ConcurrencyLimit::new(worker_count),
        }
    }

    /// The Machine of that key, and whether it is gone while something of its is not.
    fn find(&self, key: &Key) -> Option<(Arc<StoredMachine>, bool)> {
        let stores = &self.context.stores;
        let lost = stores.tombstones.get(key).map(|machine| (machine, true));
        lost.or_else(|| Some((stores.machines.get(key)?, false)))
    }

    /// Something that the Machine waits for has changed: what failed is tried again soon.
    pub fn retry(&self, key: Key) {
        self.memory.failures.release(&key);
        self.queue().add(key);
    }

    /// Something has changed on an infra cluster.
    pub fn on_infra_event(&self, event: InfraEvent) {
        match event {
            InfraEvent::Vm { name } => {
                for machine in self.context.stores.machines.by_index(&name) {
                    // A process that does not lead has no reconciles that would see it.
                    if self.context.may_write() {
                        self.memory.times.heard(&machine, std::time::Instant::now());
                    }
                    self.queue().add(Key::of(machine.as_ref()));
                }
                self.enqueue(self.context.stores.tombstones.named(&name));
            }
            InfraEvent::State { machines } => {
                for machine in machines {
                    self.retry(machine);
                }
            }
        }
    }

    /// Watches all disruption budgets.
    pub fn watch_budgets(&self) -> impl Future<Output = ()> + Send + use<> {
        self.memory.drains.watch_budgets()
    }

    /// Reads the cluster's own addresses, so that no request for a serving certificate waits for them.
    pub async fn read_own_addresses(&self) {
        let Context { access, client, .. } = self.context.as_ref();
        self.memory.reserved.read_ahead(client, access).await;
    }

    /// Pods that are not evicted because a disruption budget forbids it.
    pub fn blocked_evictions(&self) -> usize {
        self.memory.drains.blocked(self.context.now())
    }

    /// Machines that start, and those that wait for their turn to.
    pub fn count_starts(&self) -> Counts {
        self.memory.start_limiter.count()
    }

    /// The infra clusters by their state.
    pub fn count_infra(&self) -> Counts {
        let infra = &self.context.infra;
        let (used, unreachable) = infra.count();
        let is_used = |cluster: &_| !infra.users(cluster).is_empty();
        vec![
            ("used", used),
            ("unreachable", unreachable),
            ("braked", self.memory.mass_loss_guards.engaged(is_used)),
        ]
    }

    /// Finishes the deletions of Machines that are gone, because their finalizers were removed by force while no controller
    /// saw it.
    fn resume(&self) {
        let stores = &self.context.stores;
        for node in stores.nodes.all() {
            let Some(machine) = Remnant::machine(&node) else {
                continue;
            };
            if stores.machines.has_index(machine.uid()) || stores.machines.has_index(machine.name()) {
                continue;
            }
            let key = Key::of(&machine);
            tracing::warn!(machine = %key, uid = machine.uid(), "it is gone, and its Node was being drained; the deletion goes on");
            stores.tombstones.resume(machine, self.context.now());
        }
    }

    /// An Event about a Machine that was let go: on its MachineSet; without one, on its namespace.
    async fn report_let_go(&self, key: &Key) {
        let context = &self.context;
        let Some(machine) = context.stores.tombstones.take_let_go(key) else {
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
        let (events, namespace) = (&context.events, &key.namespace);
        match owner::controller(&machine.metadata) {
            Some(set) => events.publish_about(set, namespace, &event).await,
            None => events.publish_about_namespace(namespace, &event).await,
        }
    }

    /// What the Machine's status says of its start.
    fn note_start(&self, machine: &StoredMachine) {
        let seen = machine.record.as_ref().and_then(|record| record.vm_seen);
        let age = seen.and_then(|seen| Duration::try_from(self.context.now().duration_since(seen)).ok());
        let start_limiter = &self.memory.start_limiter;
        self.enqueue(start_limiter.note(machine, age.unwrap_or_default(), Instant::now()));
    }

    fn enqueue(&self, machines: Vec<Key>) {
        for machine in machines {
            self.queue().add(machine);
        }
    }

    /// The plan, or another if something that the Machine needs was reserved for others since the snapshot.
    fn reserved(&self, sourced: &mut SourcedSnapshot, plan: Plan, now: Timestamp) -> Plan {
        let observed = &mut sourced.observed;
        let (disruption_budget, turn) = reserve(&self.context, &self.memory, observed, now);
        if (disruption_budget, turn) == (observed.disruption_budget, observed.workload.drain_slot) {
            return plan;
        }
        (observed.disruption_budget, observed.workload.drain_slot) = (disruption_budget, turn);
        decide(observed, now)
    }

    /// The plan, or another if it makes a VM and the Machine may not start yet; an error says when to ask again, while the VMs
    /// of others are being made.
    fn started(
        &self,
        sourced: &mut SourcedSnapshot,
        plan: Plan,
        now: Timestamp,
    ) -> Result<(Plan, Option<Creation<'_>>), Duration> {
        let (start_limiter, observed) = (&self.memory.start_limiter, &mut sourced.observed);
        let key = Key::of(observed.machine.as_ref());
        let Some(open) = sourced.handles.open.as_ref().filter(|_| plan.makes_vm()) else {
            self.enqueue(start_limiter.decline(&key, Instant::now()));
            return Ok((plan, None));
        };
        let (start, next) = start_limiter.begin(&observed.machine, open.key(), Instant::now());
        self.enqueue(next);
        let start = start?;
        if start == Start::Free {
            let creation = Creation {
                reconciler: self,
                key,
            };
            return Ok((plan, Some(creation)));
        }
        observed.start = start;
        Ok((decide(observed, now), None))
    }

    /// Whether all that ends by the plan is as it was observed.
    async fn confirmed(
        &self,
        sourced: &SourcedSnapshot,
        plan: &Plan,
        now: Timestamp,
    ) -> Result<(), Stop<String>> {
        let SourcedSnapshot {
            observed, handles, ..
        } = sourced;
        if !confirm::ends_something(&observed.machine, plan) {
            return Ok(());
        }
        match confirm::is_as_observed(&self.context, observed, handles, plan).await {
            Ok(true) => Ok(()),
            // It is in the stores now.
            Ok(false) => Err(Stop::Stale),
            Err(error) => {
                let message = format!("cannot read what was not seen, so nothing ends for it: {error}");
                let cause = (FailureScope::Infrastructure, Cause::of(&error));
                let failures = &self.memory.failures;
                failures.add(&observed.machine, cause, message.clone(), now);
                Err(Stop::Failed(message))
            }
        }
    }

    /// Remembers a write that failed; how, for a person.
    fn failed(&self, sourced: &SourcedSnapshot, failed: &StepError, now: Timestamp) -> String {
        if failed.error.code() == Some(401)
            && let Some(open) = &sourced.handles.open
        {
            open.recheck_credential();
        }
        let cause = (failed.scope, failed.cause);
        let failures = &self.memory.failures;
        failures.add(&sourced.observed.machine, cause, failed.to_string(), now);
        failed.to_string()
    }
}

/// Whether the plan ended with a refusal: what was asked for will not come.
fn is_refused(result: &Result<(), Stop<StepError>>) -> bool {
    let Err(Stop::Failed(failed)) = result else {
        return false;
    };
    failed.error.code().is_some_and(|code| (400..500).contains(&code))
}
