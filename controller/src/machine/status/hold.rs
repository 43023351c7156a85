//! What is left of a result while a write that failed is held back: what that is about shows it, and everything else that does
//! not wait for it goes on.

use k8s_openapi::jiff::Timestamp;
use machinist_shared::api::names::condition;

use super::super::clock;
use super::super::conditions::{Condition, Status};
use super::super::phases::{Field, PhaseResult};
use super::super::plan::Step;
use super::super::reason::Reason;
use super::super::record::Record;
use super::super::snapshot::types::{FailureScope, Snapshot};
use super::trouble;

/// What is left of a result.
pub(super) struct Held {
    pub(super) result: PhaseResult,
    /// Whether the Machine is written.
    pub(super) is_written: bool,
}

/// Holds back what waits for the write that failed.
pub(super) fn hold(observed: &Snapshot, result: PhaseResult, now: Timestamp) -> Held {
    let Some(failure) = &observed.failure else {
        return Held {
            result,
            is_written: true,
        };
    };
    let result = result.requeue(clock::until(failure.until, now));
    let is_deleting = observed.machine.is_deleting();
    let why = failure.message.as_str();
    let failed = |kind, reason| Condition::new(kind, Status::False, reason, why);
    let result = match failure.scope {
        // It is shown, and held back, where the host is asked about; everything else goes on.
        FailureScope::Evacuation => result,
        FailureScope::NodeDeletion if result.leaves_node => result,
        FailureScope::Certificate => without_approvals(result, why),
        FailureScope::Node if !is_deleting => without_decoration(observed, result, why),
        FailureScope::Machine => {
            return Held {
                result: without_patch(result, failure.is_news.then_some(why)),
                is_written: false,
            };
        }
        FailureScope::Replacement => without_writes(result).error("DeleteError", why),
        FailureScope::Infrastructure | FailureScope::Node | FailureScope::NodeDeletion if is_deleting => {
            shown_by(
                without_writes(result),
                Condition::deleting(Reason::DeleteFailed, why),
            )
        }
        FailureScope::Infrastructure => shown_by(
            without_writes(result),
            failed(condition::INFRASTRUCTURE_READY, Reason::CreateFailed),
        ),
        FailureScope::Bootstrap => {
            let shown = shown_by(
                without_writes(result),
                failed(condition::BOOTSTRAP_READY, Reason::BootstrapFailed),
            );
            // No VM is made, or none started, because of that: it is the first cause.
            let kind = condition::INFRASTRUCTURE_READY;
            let is_ready = |other: &Condition| other.kind == kind && other.status == Status::True;
            if shown.conditions.iter().any(is_ready) {
                shown
            } else {
                let message = format!("no guest is started without user data: {why}");
                shown_by(
                    shown,
                    Condition::infrastructure(Status::False, Reason::BootstrapFailed, message),
                )
            }
        }
        FailureScope::Node | FailureScope::NodeDeletion => shown_by(
            without_writes(result),
            failed(condition::NODE_READY, Reason::DecorationFailed),
        ),
    };
    Held {
        result,
        is_written: true,
    }
}

/// That condition instead of what else is said of its type.
fn shown_by(result: PhaseResult, condition: Condition) -> PhaseResult {
    let kind = condition.kind;
    let others = result.conditions.into_iter();
    let others = others.filter(|other| other.kind != kind);
    PhaseResult {
        conditions: others.chain([condition]).collect(),
        ..result
    }
}

fn without(steps: Vec<Step>, is_held: fn(&Step) -> bool) -> Vec<Step> {
    steps.into_iter().filter(|step| !is_held(step)).collect()
}

/// Nothing is written but the status. The record must not run ahead of the writes that it describes; what takes time goes on
/// all the same.
fn without_writes(result: PhaseResult) -> PhaseResult {
    PhaseResult {
        steps: Vec::new(),
        then: Vec::new(),
        events: Vec::new(),
        record: None,
        adds_finalizers: &[],
        drops_finalizers: Vec::new(),
        node_ref: Field::Keep,
        is_momentary: false,
        ..result
    }
}

/// An approval has failed: everything else goes on.
fn without_approvals(result: PhaseResult, why: &str) -> PhaseResult {
    let is_approval = |step: &Step| matches!(step, Step::ApproveServing { .. });
    if !result.on_requests.iter().any(is_approval) {
        return result;
    }
    let condition = Condition::new(
        condition::SERVING_CERTIFICATE,
        Status::False,
        Reason::ApprovalFailed,
        why,
    );
    let result = shown_by(result, condition);
    PhaseResult {
        on_requests: without(result.on_requests, is_approval),
        ..result
    }
}

/// The Node does not take what the Machine asks for: that is held back and shown, and everything else goes on.
fn without_decoration(observed: &Snapshot, result: PhaseResult, why: &str) -> PhaseResult {
    let is_decoration = |step: &Step| matches!(step, Step::PatchNode { .. });
    if !result.steps.iter().chain(&result.then).any(is_decoration) {
        return result;
    }
    let stored = observed.machine.record.as_ref();
    let retired = stored.and_then(|record| record.retired.clone());
    let condition = Condition::node_ready(Status::False, Reason::DecorationFailed, why);
    let result = shown_by(result, condition);
    PhaseResult {
        steps: without(result.steps, is_decoration),
        then: without(result.then, is_decoration),
        record: result.record.map(|record| Record { retired, ..record }),
        ..result
    }
}

/// The Machine itself cannot be written, so nothing can that its record must report. An Event can be, and what does not
/// change the Machine.
fn without_patch(result: PhaseResult, news: Option<&str>) -> PhaseResult {
    let event = news.map(|why| Step::Event(trouble(why.to_owned())));
    PhaseResult {
        steps: event.into_iter().collect(),
        ..result
    }
}
