//! A Machine that does not become a Node in its time is deleted, for its MachineSet to replace it.

use super::super::plan::Step;
use super::{PhaseResult, View};
use crate::cache::owner;

/// Has the Machine's MachineSet replace it, if it has one.
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
    let reported = format!("{message}; the MachineSet replaces the Machine");
    let mut result = result.event(true, reason, reported).stopped();
    result.then.extend(note);
    result.then(Step::DeleteMachine)
}
