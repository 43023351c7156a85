//! A Machine that does not become a Node in its time, or loses it for good, is deleted, for its MachineSet to replace it.

use super::super::plan::Step;
use super::{PhaseResult, View};
use crate::cache::owner;

/// Has the Machine's MachineSet replace it, if it has one, because it did not become a Node.
pub(super) fn by_set(
    view: &View<'_>,
    result: PhaseResult,
    reason: &'static str,
    message: &str,
) -> PhaseResult {
    let machine = view.machine();
    if machine.machine_set().is_none() {
        return result;
    }
    let set = owner::controller(&machine.metadata).filter(|owner| owner.kind == "MachineSet");
    // Its MachineDeployment stops a rollout by that.
    let note = set.map(|set| Step::NoteFailure {
        set: set.name.clone(),
        uid: set.uid.clone(),
        message: format!("Machine {}: {message}", machine.name()),
    });
    let mut result = result;
    result.then.extend(note);
    of_lost(result, reason, message)
}

/// Has the Machine's MachineSet replace it because its node is lost, which is no fault of the template.
pub(super) fn of_lost(result: PhaseResult, reason: &'static str, message: &str) -> PhaseResult {
    let reported = format!("{message}; the MachineSet replaces the Machine");
    result
        .event(true, reason, reported)
        .stopped()
        .then(Step::DeleteMachine)
}
