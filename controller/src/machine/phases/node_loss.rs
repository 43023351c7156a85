//! A node that had joined and is lost for good: its guest ended, or its Node was deleted and does not come back. The MachineSet
//! replaces the Machine after the join timeout; a Machine without one stays.

use std::time::Duration;

use machinist_infra::kube::clock::Skew;
use machinist_shared::api::names::condition;

use super::super::conditions::{Condition, Status, Urgency, Words};
use super::super::record::{NodeLoss, Progress};
use super::super::replacement_pace::Pace;
use super::super::snapshot::types::Open;
use super::mass_loss_guard::HALTED_INTERVAL;
use super::{PhaseResult, View, health, registration, replacement};

/// What is lost, and what that is to the Machine.
struct Loss {
    condition: Condition,
    event: &'static str,
    error: &'static str,
    why: String,
}

pub(super) fn run(view: &View<'_>) -> PhaseResult {
    let Some((open, _)) = view.vm() else {
        return PhaseResult::default();
    };
    match (lost(view, open), view.observed.settings.join_timeout) {
        (Some(lost), Some(timeout)) if view.machine().machine_set().is_some() => replace(view, lost, timeout),
        (lost, _) => {
            let result = PhaseResult {
                conditions: lost.map(|lost| lost.condition).into_iter().collect(),
                ..PhaseResult::default()
            };
            result.and(recorded(view, None))
        }
    }
}

/// The loss, if the node had joined.
fn lost(view: &View<'_>, open: &Open) -> Option<Loss> {
    let state = &open.state;
    if view.record().is_none_or(|record| record.node_uid.is_none()) {
        return None;
    }
    if state.terminal {
        let condition = Condition {
            kind: condition::INFRASTRUCTURE_READY,
            status: Status::False,
            reason: state.reason.clone(),
            message: state.message.clone(),
            urgency: Urgency::Now,
            words: Words::Same,
        };
        let why = format!("{}: {}", state.reason, state.message);
        return Some(Loss {
            condition,
            event: "GuestLost",
            error: "CreateError",
            why,
        });
    }
    if view.observed.node.is_some() {
        return None;
    }
    Some(Loss {
        condition: registration::deleted(),
        event: "NodeLost",
        error: "JoinClusterTimeoutError",
        why: "the Node was deleted, and its kubelet did not register again".to_owned(),
    })
}

/// The MachineSet replaces the Machine once the loss has lasted for `timeout`.
fn replace(view: &View<'_>, lost: Loss, timeout: Duration) -> PhaseResult {
    let known = view.progress().node_loss.as_ref();
    let missed_at = known.map_or(view.now, |loss| loss.missed_at);
    let result = recorded(view, Some(NodeLoss { missed_at }));
    let shown = |and: &str| Condition {
        message: format!("{}; {and}", lost.condition.message),
        ..lost.condition.clone()
    };
    let seconds = timeout.as_secs();
    let deadline = health::with_grace(view, missed_at, timeout);
    let Some(deadline) = deadline.filter(|_| view.observed.skew != Skew::Unknown) else {
        return result.condition(lost.condition);
    };
    if deadline > view.now {
        let and = format!("the MachineSet replaces the Machine if this lasts for {seconds} s");
        return result.condition(shown(&and)).requeue(view.until(deadline));
    }
    if let Pace::Full {
        under_way,
        lost: others,
    } = view.observed.replacement_pace
    {
        let and = format!(
            "the MachineSet replaces the Machine later: {others} nodes are lost on this infra cluster, and {under_way} Machines \
             of sets there are being deleted or have not become Ready yet. To replace it now, delete the Machine"
        );
        // The numbers change all the time.
        let held = shown(&and).words(Words::Late);
        return result.condition(held).requeue(HALTED_INTERVAL);
    }
    let message = format!("{} for {seconds} s", lost.why);
    let result = result
        .condition(shown(&format!("this has lasted for {seconds} s")))
        .fail(lost.error, message.as_str());
    replacement::of_lost(result, lost.event, &message)
}

/// Records since when the node is lost.
fn recorded(view: &View<'_>, node_loss: Option<NodeLoss>) -> PhaseResult {
    if view.progress().node_loss == node_loss {
        return PhaseResult::default();
    }
    PhaseResult::default().progress(Progress {
        node_loss,
        ..view.progress().clone()
    })
}
