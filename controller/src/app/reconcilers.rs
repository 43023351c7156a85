//! The reconcilers of the process, and which of them run.

use std::sync::Arc;

use crate::app::tasks::Tasks;
use crate::autoscaler::NodeGroups;
use crate::context::Context;
use crate::csr::{self, ClientApprover, ClientRequestReconciler};
use crate::machine::reconcile::MachineReconciler;
use crate::machine_deployment::MachineDeploymentReconciler;
use crate::machine_set::MachineSetReconciler;
use crate::runtime::kernel;
use crate::runtime::queue::Queues;

/// The reconcilers of the process.
pub(super) struct Reconcilers {
    pub(super) machines: Arc<MachineReconciler>,
    pub(super) sets: Arc<MachineSetReconciler>,
    pub(super) deployments: Arc<MachineDeploymentReconciler>,
    pub(super) requests: Arc<ClientRequestReconciler>,
    pub(super) groups: Arc<NodeGroups>,
    /// Which process approves requests for client certificates.
    pub(super) client_approver: ClientApprover,
    /// Whether MachineSets and MachineDeployments are this process's, too.
    pub(super) machine_sets: bool,
}

impl Reconcilers {
    fn reconciles_machines(&self) -> bool {
        self.client_approver != ClientApprover::Only
    }

    fn reconciles_sets(&self) -> bool {
        self.machine_sets && self.reconciles_machines()
    }

    fn reconciles_requests(&self) -> bool {
        self.client_approver != ClientApprover::Elsewhere
    }

    /// Closes the queues that no reconciler takes from.
    pub(super) fn close_unused(&self, queues: &Queues) {
        for (used, queue) in [
            (self.reconciles_machines(), &queues.machines),
            (self.reconciles_sets(), &queues.sets),
            (self.reconciles_sets(), &queues.deployments),
            (self.reconciles_requests(), &queues.requests),
        ] {
            if !used {
                queue.close();
            }
        }
    }

    /// Begins with what only the leader does.
    pub(super) fn run(&self, workers: &mut Tasks, context: &Arc<Context>) {
        if self.reconciles_requests() {
            workers.run("the work on signing requests", kernel::run(self.requests.clone()));
            tokio::spawn({
                let context = context.clone();
                async move { csr::bindings::check(&context).await }
            });
        }
        if self.reconciles_machines() {
            if context.settings.approves_serving {
                let machines = self.machines.clone();
                tokio::spawn(async move { machines.read_own_addresses().await });
            }
            workers.run("the work on Machines", kernel::run(self.machines.clone()));
        }
        if self.reconciles_sets() {
            workers.run("the work on MachineSets", kernel::run(self.sets.clone()));
            workers.run(
                "the work on MachineDeployments",
                kernel::run(self.deployments.clone()),
            );
        }
    }
}
