//! The Node of a Machine whose VM is gone, which is the last that reports the VM: the Secret with its user data goes before.

use machinist_shared::api::names::annotation;

use super::super::clock::{Deadlines, timeout};
use super::super::conditions::Condition;
use super::super::plan::Step;
use super::super::reason::Reason;
use super::super::record::Deletion;
use super::super::snapshot::types::FailureScope;
use super::super::user_data_source::user_data_secret_name;
use super::result::Fate;
use super::{PhaseResult, View};
use crate::cache::Node;

pub(super) fn run(view: &View<'_>) -> PhaseResult {
    let result = match view.own_node() {
        None => PhaseResult::default(),
        Some(node) if node.metadata.deletion_timestamp.is_some() => held(view, node),
        Some(node) => refused(view, node),
    };
    if result.flow == super::Flow::Stop {
        return result;
    }
    let user_data = user_data(view).map(Step::DeleteUserData);
    PhaseResult {
        steps: user_data.into_iter().chain(result.steps).collect(),
        ..result
    }
}

/// Name of the Secret with the user data of the VM on record, if that is gone, and one that we made.
fn user_data(view: &View<'_>) -> Option<String> {
    let record = view
        .record()
        .filter(|_| view.before.found.vm == Some(Fate::Gone))?;
    let secret = record.bootstrap_secret.as_ref().map(|secret| &secret.id);
    let id = secret.or(record.token_id.as_ref())?;
    Some(user_data_secret_name(view.machine().uid(), id))
}

/// The Node waits for its finalizers, for as long as the Machine waits for that.
fn held(view: &View<'_>, node: &Node) -> PhaseResult {
    let held_by = node.metadata.finalizers.clone().unwrap_or_default().join(", ");
    let (waiting, is_over) = wait(view);
    if is_over {
        let message = format!("the Node {} is left to its finalizers: {held_by}", node.name());
        return waiting.event(true, "NodeLeft", message);
    }
    let message = format!("the VM is gone; the Node waits for its finalizers: {held_by}");
    waiting
        .condition(Condition::deleting(Reason::DeletingNode, message))
        .stopped()
}

/// The Node is deleted, unless that has failed for longer than the Machine waits for it.
fn refused(view: &View<'_>, node: &Node) -> PhaseResult {
    let uid = node.uid().to_owned();
    let failure = view.observed.failure.as_ref();
    let Some(failed) = failure.filter(|failure| failure.scope == FailureScope::NodeDeletion) else {
        return PhaseResult::default().step(Step::DeleteNode { uid });
    };
    let (waiting, is_over) = wait(view);
    if !is_over {
        return waiting.step(Step::DeleteNode { uid });
    }
    let message = format!("the Node {} is left: {}", node.name(), failed.message);
    PhaseResult {
        leaves_node: true,
        ..waiting.event(true, "NodeLeft", message)
    }
}

/// The wait for the Node's end, and whether it is over.
fn wait(view: &View<'_>) -> (PhaseResult, bool) {
    let deletion = view.deletion();
    let since = deletion.node_deletion_started_at.unwrap_or(view.now);
    let mut deadlines = Deadlines::default();
    let timeout = timeout(view.machine(), annotation::NODE_DELETION_TIMEOUT);
    let is_over = timeout.is_some_and(|timeout| deadlines.is_over(view.wait(since, timeout)));
    let progress = view.progress().with_deletion(Deletion {
        node_deletion_started_at: Some(since),
        ..deletion
    });
    let waiting = PhaseResult::default().progress(progress).requeue(deadlines.0);
    (waiting, is_over)
}
