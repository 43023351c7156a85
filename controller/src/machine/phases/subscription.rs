//! machine-controller's finalizer for Red Hat subscriptions, which is removed at once.

use machinist_shared::api::names::finalizer;

use super::{PhaseResult, View};

pub(super) fn run(view: &View<'_>) -> PhaseResult {
    let machine = view.machine();
    if !machine.has_finalizer(finalizer::RED_HAT_SUBSCRIPTION) {
        return PhaseResult::default();
    }
    let message = format!(
        "machine-controller's finalizer {} is removed; if the system {} is registered at Red Hat or a Satellite, remove it \
         there by hand",
        finalizer::RED_HAT_SUBSCRIPTION,
        machine.name()
    );
    PhaseResult {
        drops_finalizers: vec![finalizer::RED_HAT_SUBSCRIPTION],
        ..PhaseResult::default()
    }
    .event(true, "SubscriptionLeft", message)
}
