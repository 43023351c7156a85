//! The clocks differ too much for anything to be created or deleted. What is known stays shown.

use std::time::Duration;

use machinist_infra::kube::clock::Skew;

use super::super::conditions::Condition;
use super::super::reason::Reason;
use super::{Kept, PhaseResult, View};

/// How often a Machine is reconciled while the clocks differ too much.
const SKEWED_INTERVAL: Duration = Duration::from_mins(1);

pub(super) fn live(view: &View<'_>) -> PhaseResult {
    let Some(message) = message(view) else {
        return PhaseResult::default();
    };
    let result = stopped();
    if view.vm_uid().is_some() {
        return result;
    }
    result.infrastructure(Reason::ClockSkew, message)
}

pub(super) fn deleting(view: &View<'_>) -> PhaseResult {
    match message(view) {
        Some(message) => stopped().condition(Condition::deleting(Reason::ClockSkew, message)),
        None => PhaseResult::default(),
    }
}

fn stopped() -> PhaseResult {
    PhaseResult::stop().keeping(Kept::Status).requeue(SKEWED_INTERVAL)
}

fn message(view: &View<'_>) -> Option<String> {
    let Skew::TooLarge(ahead) = view.observed.skew else {
        return None;
    };
    let minutes = ahead.as_mins().abs();
    let order = if ahead.is_positive() { "ahead of" } else { "behind" };
    Some(format!(
        "the clock of the API server is {minutes} min {order} that of the machine-controller; nothing is created or deleted while \
         they differ by more than an hour. Correct the clock that is wrong"
    ))
}
