//! What changes: watches of the user cluster, and what references, drains and infra clusters report, become keys to reconcile.

use std::sync::Arc;

use machinist_infra::cache::store::Key;
use machinist_infra::provider::InfraEvent;
use tokio::sync::mpsc;

use crate::app::reconcilers::Reconcilers;
use crate::app::tasks::Tasks;
use crate::autoscaler::NodeGroups;
use crate::cache::Referrer;
use crate::context::Context;
use crate::csr::ClientApprover;
use crate::machine::reconcile::MachineReconciler;
use crate::routing;
use crate::runtime::kernel::Reconciler as _;

/// Watches whatever is watched in the user cluster for as long as the process lives.
pub(super) fn watch(tasks: &mut Tasks, context: &Arc<Context>, reconcilers: &Reconcilers) {
    for watch in routing::watches(&context.stores, &context.client, &context.queues) {
        tasks.run("a watch of the user cluster", watch);
    }
    if context.settings.client_approver == ClientApprover::Only {
        return;
    }
    let budgets = Box::pin(reconcilers.machines.watch_budgets());
    tasks.run("a watch of the user cluster", budgets);
    let context = context.clone();
    tasks.run("the watch of how kubelets reach the API server", async move {
        let on_change = || {
            let without_vm = context.stores.machines.all().into_iter().filter(|machine| {
                let record = machine.record.as_ref();
                record.is_none_or(|record| record.vm_uid.is_none())
            });
            for machine in without_vm {
                context.queues.machines.add(Key::of(machine.as_ref()));
            }
        };
        Box::pin(context.access.keep(on_change)).await;
    });
}

/// What is reported from beside the user cluster's watches.
pub(super) struct Changes {
    /// Whose referenced objects have changed.
    pub(super) references: mpsc::UnboundedReceiver<Referrer>,
    /// Machines whose Nodes' pods have changed.
    pub(super) pods: mpsc::UnboundedReceiver<Key>,
    /// What happened on infra clusters.
    pub(super) infra: mpsc::UnboundedReceiver<InfraEvent>,
}

impl Changes {
    /// Turns them into objects to reconcile.
    pub(super) async fn forward(mut self, machines: Arc<MachineReconciler>, groups: Arc<NodeGroups>) {
        loop {
            tokio::select! {
                Some(referrer) = self.references.recv() => match referrer {
                    Referrer::Machine(machine) => machines.retry(machine),
                    Referrer::NodeGroup(group) => groups.retry(group),
                },
                Some(machine) = self.pods.recv() => machines.queue().add(machine),
                Some(event) = self.infra.recv() => machines.on_infra_event(event),
                else => return,
            }
        }
    }
}
