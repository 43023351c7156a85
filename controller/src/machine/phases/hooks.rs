//! Annotations that hold up the deletion of a Machine, in Cluster API's way: before the drain, and before the end of the VM.

use k8s_openapi::jiff::Timestamp;
use machinist_shared::api::names::annotation;

use super::super::conditions::Condition;
use super::super::reason::Reason;
use super::super::record::Deletion;
use super::result::Fate;
use super::{PhaseResult, View};

/// Whether a hook holds up the drain; there is not one of a Machine without a Node.
pub(super) fn before_drain(view: &View<'_>) -> PhaseResult {
    if view.own_node().is_none() {
        return PhaseResult::default();
    }
    let since = |deletion: &mut Deletion, now: Timestamp| {
        deletion.pre_drain_hook_started_at.get_or_insert(now);
    };
    wait(
        view,
        annotation::PRE_DRAIN_HOOK,
        Reason::WaitingForPreDrainHook,
        since,
    )
}

/// Whether a hook holds up the end of the VM, or of a Machine whose VM is gone.
pub(super) fn before_end(view: &View<'_>) -> PhaseResult {
    // A VM that is not there to be deleted was not drained either.
    let is_drained = view.before.found.vm == Some(Fate::Stays);
    let since = |deletion: &mut Deletion, now: Timestamp| {
        if is_drained {
            deletion.pre_terminate_hook_started_at.get_or_insert(now);
        }
    };
    wait(
        view,
        annotation::PRE_TERMINATE_HOOK,
        Reason::WaitingForPreTerminateHook,
        since,
    )
}

/// Waits for annotations of that prefix; nothing but their removal ends that.
fn wait(
    view: &View<'_>,
    prefix: &str,
    reason: Reason,
    since: impl Fn(&mut Deletion, Timestamp),
) -> PhaseResult {
    let annotations = view.machine().metadata.annotations.iter().flatten();
    let hooks = annotations.filter(|(key, _)| key.starts_with(prefix));
    let hooks: Vec<String> = hooks
        .map(|(key, owner)| match owner.as_str() {
            "" => key.clone(),
            owner => format!("{key} (of {owner})"),
        })
        .collect();
    if hooks.is_empty() {
        return PhaseResult::default();
    }
    let message = format!(
        "waiting for these annotations to be removed: {}",
        hooks.join(", ")
    );
    let mut deletion = view.deletion();
    since(&mut deletion, view.now);
    PhaseResult::stop()
        .condition(Condition::deleting(reason, message))
        .progress(view.progress().with_deletion(deletion))
}
