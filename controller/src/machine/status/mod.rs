//! From what the phases result in to one plan: conditions, phase, errors, the one patch of the Machine, and Events. It decides
//! nothing.

mod events;
mod hold;
mod patch;

use k8s_openapi::jiff::Timestamp;
use machinist_shared::names::condition;

use self::hold::{Held, hold};
use self::patch::Patch;
use super::observed::Observed;
use super::phases::PhaseResult;
use super::plan::{Event, Plan, Step};

/// The plan that the phases' result comes to.
pub fn plan(observed: &Observed, result: PhaseResult, now: Timestamp) -> Plan {
    if observed.machine.is_paused() {
        // Nothing is done about the Machine; but its kubelet goes on, and its certificate ends.
        return finished(observed, result, Vec::new());
    }
    let Held { result, is_written } = hold(observed, result, now);
    if !is_written {
        let steps = result.steps.clone();
        return finished(observed, result, steps);
    }
    let mut patch = Patch::of(observed, &result, now);
    let told = events::announced(observed, &result);
    let is_momentary = result.is_momentary && told.is_empty() && patch.is_status_alone;
    if is_momentary {
        patch = Patch::default();
    }
    let steps = result.steps.iter().cloned();
    let steps = steps
        .chain(patch.patch.map(Step::PatchMachine))
        .chain(result.then.iter().cloned());
    let told = told.into_iter().chain(patch.events);
    let steps = steps.chain(told.map(Step::Event)).collect();
    finished(observed, result.requeue(patch.requeue_after), steps)
}

/// Those steps, and after them what is done about signing requests.
fn finished(observed: &Observed, result: PhaseResult, steps: Vec<Step>) -> Plan {
    let mut steps: Vec<Step> = steps;
    steps.extend(result.on_requests.iter().cloned());
    Plan {
        why: if steps.is_empty() {
            String::new()
        } else {
            why(observed, &result)
        },
        steps,
        again: result.requeue_after,
    }
}

/// What the log says of the Machine: of its end, else of the first thing that it lacks.
fn why(observed: &Observed, result: &PhaseResult) -> String {
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
