//! Whether the Machine's spec can be used. A Machine that has a VM needs nothing of it to be looked after.

use machinist_shared::names::condition;

use super::super::conditions::{Condition, Status};
use super::super::observed::Spec;
use super::super::reason::Reason;
use super::{Kept, PhaseResult, View, token};

pub(super) fn run(view: &View<'_>) -> PhaseResult {
    match &view.observed.spec {
        Spec::Usable(_) => PhaseResult::default(),
        Spec::Waiting(what) => match view.stored(condition::INFRASTRUCTURE_READY) {
            // After a restart everything is read again: what is stored still holds.
            Some(stored) => {
                let mut result = PhaseResult::stop().condition(stored).keeping(Kept::Status);
                result
                    .conditions
                    .extend(view.stored(condition::INFRASTRUCTURE_REACHABLE));
                result.and(token::keep(view))
            }
            None => {
                let message = format!("waiting for {what}");
                let waiting =
                    Condition::infrastructure(Status::Unknown, Reason::WaitingForReference, message);
                PhaseResult::stop()
                    .condition(waiting.lazy())
                    .and(token::keep(view))
            }
        },
        Spec::ReferenceNotFound(what) => unusable(view, Reason::ReferenceNotFound, what),
        Spec::Invalid(why) => unusable(view, Reason::InvalidSpec, why),
    }
}

fn unusable(view: &View<'_>, reason: Reason, why: &str) -> PhaseResult {
    let result = PhaseResult::default().condition(Condition::infrastructure(Status::False, reason, why));
    if view.vm_uid().is_some() {
        return result;
    }
    result.error("CreateError", why).stopped().and(token::keep(view))
}
