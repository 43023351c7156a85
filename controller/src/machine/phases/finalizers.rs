//! Nothing of the Machine is left: its token is deleted, and our finalizers removed.

use machinist_shared::api::names::finalizer;

use super::super::conditions::Condition;
use super::super::plan::Step;
use super::super::reason::Reason;
use super::result::Fate;
use super::{PhaseResult, View, volume_release};

pub(super) fn run(view: &View<'_>) -> PhaseResult {
    let mut result = PhaseResult {
        drops_finalizers: vec![finalizer::VM, finalizer::NODE, finalizer::RED_HAT_SUBSCRIPTION],
        ..PhaseResult::default()
    }
    .condition(Condition::deleting(Reason::DeletingNode, "the VM is gone"));
    if view.observed.token.is_some() {
        result = result.step(Step::DeleteToken);
    }
    // What is left behind is reported once: when the Machine is let go.
    if let Some(Fate::Let(reason, message)) = &view.before.found.vm {
        result = result.event(true, reason, message.as_str());
    }
    match volume_release::left_behind(view) {
        Some(message) => result.event(true, "VolumesLeft", message),
        None => result,
    }
}
