//! From what the phases result in to one plan: conditions, phase, errors, the one patch of the Machine, and Events. It decides
//! nothing.

mod error;
mod events;
mod hold;
mod patch;

use k8s_openapi::jiff::Timestamp;
use machinist_shared::api::names::condition;

use self::hold::{Held, hold};
use self::patch::Written;
use super::phases::PhaseResult;
use super::plan::{Event, Plan, Step};
use super::snapshot::types::Snapshot;

/// The plan that the phases' result comes to.
pub fn plan(observed: &Snapshot, result: PhaseResult, now: Timestamp) -> Plan {
    if observed.machine.is_paused() {
        // Nothing is done about the Machine; but its kubelet goes on, and its certificate ends.
        return finished(observed, &result, Vec::new());
    }
    let Held { result, is_written } = hold(observed, result, now);
    if !is_written {
        return finished(observed, &result, result.steps.clone());
    }
    let mut written = Written::of(observed, &result, now);
    let announced = events::announced(observed, &result);
    if result.is_momentary && announced.is_empty() && written.is_status_alone {
        written = Written::default();
    }
    let mut steps = result.steps.clone();
    steps.extend(written.patch.map(Step::PatchMachine));
    steps.extend(result.then.iter().cloned());
    steps.extend(announced.into_iter().chain(written.events).map(Step::Event));
    finished(observed, &result.requeue(written.requeue_after), steps)
}

/// Those steps, and after them what is done about signing requests.
fn finished(observed: &Snapshot, result: &PhaseResult, mut steps: Vec<Step>) -> Plan {
    steps.extend(result.on_requests.iter().cloned());
    let is_idle = steps.is_empty();
    Plan {
        steps,
        again: result.requeue_after,
        why: if is_idle {
            String::new()
        } else {
            why(observed, result)
        },
    }
}

/// What the log says of the Machine: of its end, else of the first thing that it lacks.
fn why(observed: &Snapshot, result: &PhaseResult) -> String {
    let wanted = patch::wanted(observed, result);
    let of = |kind| wanted.iter().find(|condition| condition.kind == kind);
    of(condition::DELETING)
        .or_else(|| of(condition::READY))
        .map_or_else(String::new, |said| format!("{}: {}", said.reason, said.message))
}

/// An Event that reports trouble.
fn trouble(message: String) -> Event {
    Event {
        warning: true,
        reason: "ReconcilingError",
        message,
    }
}
