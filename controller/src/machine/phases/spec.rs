//! Whether the Machine's spec can be used. A Machine that has a VM needs nothing of it to be looked after.

use machinist_shared::api::names::condition;

use super::super::conditions::{Condition, Status};
use super::super::reason::Reason;
use super::super::snapshot::types::Spec;
use super::{Kept, PhaseResult, View, token_renewal};

pub(super) fn run(view: &View<'_>) -> PhaseResult {
    match &view.observed.spec {
        Spec::Usable(_) => PhaseResult::default(),
        Spec::Waiting(what) => waiting(view, what),
        Spec::ReferenceNotFound(what) => unusable(view, Reason::ReferenceNotFound, what),
        Spec::Invalid(why) => unusable(view, Reason::InvalidSpec, why),
    }
}

fn waiting(view: &View<'_>, what: &str) -> PhaseResult {
    if let Some(stored) = view.stored(condition::INFRASTRUCTURE_READY) {
        // After a restart everything is read again: what is stored still holds.
        let mut result = PhaseResult::stop().condition(stored).keeping(Kept::Status);
        let reachable = view.stored(condition::INFRASTRUCTURE_REACHABLE);
        result.conditions.extend(reachable);
        return result.and(token_renewal::keep(view));
    }
    let message = format!("waiting for {what}");
    let waiting = Condition::infrastructure(Status::Unknown, Reason::WaitingForReference, message);
    PhaseResult::stop()
        .condition(waiting.lazy())
        .and(token_renewal::keep(view))
}

fn unusable(view: &View<'_>, reason: Reason, why: &str) -> PhaseResult {
    let result = PhaseResult::default().infrastructure(reason, why);
    if view.vm_uid().is_some() {
        return result;
    }
    result
        .error("CreateError", why)
        .stopped()
        .and(token_renewal::keep(view))
}
