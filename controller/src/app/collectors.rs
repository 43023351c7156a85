//! Metrics that are read off when they are scraped.

use std::sync::Arc;

use machinist_infra::kube::traffic::Traffic;

use crate::app::reconcilers::Reconcilers;
use crate::context::Context;
use crate::csr::{ClientApprover, ClientRequestReconciler};
use crate::machine::reconcile::MachineReconciler;
use crate::machine_deployment::MachineDeploymentReconciler;
use crate::machine_set::MachineSetReconciler;
use crate::runtime::kernel::Reconciler;
use crate::telemetry::collectors::{
    MachineController, blocked_evictions, clock_skew, depths, infra_clusters, requests, starts,
    unreadable_objects,
};
use crate::telemetry::orphans::orphans;
use crate::telemetry::pools::Pools;

/// Registers them.
pub(super) fn register(
    registry: &prometheus::Registry,
    (context, reconcilers): (&Arc<Context>, &Reconcilers),
    worker_count: usize,
    [user, infra]: [&Traffic; 2],
) -> anyhow::Result<()> {
    registry.register(Box::new(depths(context.queues.clone(), context.metrics.clone())?))?;
    registry.register(Box::new(requests(user.clone(), infra.clone())?))?;
    registry.register(Box::new(unreadable_objects()?))?;
    for controller in [
        MachineReconciler::NAME,
        MachineSetReconciler::NAME,
        MachineDeploymentReconciler::NAME,
        ClientRequestReconciler::NAME,
    ] {
        context.metrics.start_passes(controller);
    }
    if context.settings.client_approver == ClientApprover::Only {
        // The other controller counts Machines.
        return Ok(());
    }
    let machines = &reconcilers.machines;
    registry.register(Box::new(orphans(Arc::downgrade(context))?))?;
    registry.register(Box::new(blocked_evictions(of(
        machines,
        MachineReconciler::blocked_evictions,
    ))?))?;
    registry.register(Box::new(clock_skew(context.clock.clone())?))?;
    registry.register(Box::new(infra_clusters(of(
        machines,
        MachineReconciler::count_infra,
    ))?))?;
    registry.register(Box::new(starts(of(machines, MachineReconciler::count_starts))?))?;
    registry.register(Box::new(Pools::new(context)?))?;
    registry.register(Box::new(MachineController::new(context, worker_count)?))?;
    Ok(())
}

/// What is read off a reconciler as long as there is one.
fn of<R: Send + Sync + 'static, T: 'static>(
    reconciler: &Arc<R>,
    read: fn(&R) -> T,
) -> impl Fn() -> Option<T> + Send + Sync + 'static {
    let reconciler = Arc::downgrade(reconciler);
    move || reconciler.upgrade().map(|reconciler| read(&reconciler))
}
