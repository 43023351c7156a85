//! The bootstrap token: kept alive until the kubelet has joined, and no longer.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use machinist_shared::api::names::condition;

use super::super::conditions::{Condition, Status};
use super::super::plan::Step;
use super::super::reason::Reason;
use super::super::snapshot::types::Open;
use super::{PhaseResult, View, vm_loss};

/// Bootstrap tokens are extended when they have this long to live.
const HALF_LIFE: Duration = Duration::from_mins(15);

pub(super) fn run(view: &View<'_>) -> PhaseResult {
    let Some((open, vm)) = view.vm() else {
        return PhaseResult::default();
    };
    let joined = view.record().is_some_and(|record| record.node_uid.is_some());
    if view.usable().is_none() && !joined {
        return keep(view);
    }
    let vm_uid = vm.metadata.uid.as_deref().unwrap_or_default();
    let mut result = if joined {
        after_join(view, vm_uid)
    } else {
        before_join(view, open, vm_uid)
    };
    let ours = view.record().and_then(|record| record.token_id.as_deref());
    let token = view.observed.token.as_ref().map(|token| token.id.as_str());
    if token.is_some() && token == ours && view.observed.has_spare_tokens {
        result.steps.insert(0, Step::DeleteSpareTokens);
    }
    result
}

fn ready(status: Status, reason: Reason, message: &str) -> Condition {
    Condition::new(condition::BOOTSTRAP_READY, status, reason, message)
}

/// The kubelet has joined: the token has done its duty.
fn after_join(view: &View<'_>, vm_uid: &str) -> PhaseResult {
    let is_osm = view
        .record()
        .is_some_and(|record| record.bootstrap_secret.is_some());
    let message = if is_osm {
        "the kubelet has joined"
    } else {
        "the kubelet has joined; its token is gone"
    };
    let result = PhaseResult::default().condition(ready(Status::True, Reason::Joined, message).lazy());
    // A VM without token counts as never started until it is on record.
    let stored = view.machine().record.as_ref();
    let is_recorded = stored.is_some_and(|record| record.vm_uid.as_deref() == Some(vm_uid));
    if view.observed.token.is_some() && is_recorded {
        result.step(Step::DeleteToken)
    } else {
        result
    }
}

/// The kubelet has not joined yet: the token lives on, as long as that may still be.
fn before_join(view: &View<'_>, open: &Open, vm_uid: &str) -> PhaseResult {
    let has_data = |message: &str| {
        PhaseResult::default().condition(ready(Status::True, Reason::DataReady, message).lazy())
    };
    let record = view.record();
    if let Some(osm) = record.and_then(|record| record.bootstrap_secret.as_ref()) {
        return has_data(&format!(
            "operating-system-manager's user data of revision {} is in place",
            osm.revision
        ));
    }
    let Some(ours) = record.and_then(|record| record.token_id.as_deref()) else {
        return has_data("the VM came with its user data");
    };
    let started = open.guest_started();
    let token = view.observed.token.as_ref();
    if let Some(token) = token.filter(|token| token.id.as_str() == ours)
        // One that has expired and is still there saves a VM that was never started from being made, and filled, again.
        && (token.expiration > view.now || !started)
    {
        let result = has_data("token and user data are in place");
        // A guest that was never started has not had its time to join yet, unless the Machine goes anyway.
        let is_over = view.before.found.is_overdue && (started || view.machine().machine_set().is_some());
        if !is_over {
            return result.and(extend(view, token.expiration));
        }
        let left = (token.expiration > view.now).then(|| view.until(token.expiration));
        return result.requeue(left);
    }
    let expired = |why| {
        let result =
            PhaseResult::default().condition(ready(Status::False, Reason::BootstrapTokenExpired, why));
        // Another than the VM's is of no use.
        match token {
            Some(_) => result.step(Step::DeleteToken),
            None => result,
        }
    };
    if started {
        return expired(
            "the bootstrap token is gone or expired before the kubelet joined; delete the Machine to have it recreated",
        );
    }
    let why = "its bootstrap token is gone before its guest was started";
    vm_loss::replaced(view, expired(why), vm_uid, why)
}

/// Keeps the token alive while it cannot be seen what has become of the VM: its guest may be booting with it, and is to join
/// when the VM can be seen again. The time to join cannot be judged from here.
pub(super) fn keep(view: &View<'_>) -> PhaseResult {
    let (Some(record), Some(token)) = (view.record(), &view.observed.token) else {
        return PhaseResult::default();
    };
    let of_vm = record.token_id.as_deref();
    // Before the VM is on record, the token is.
    if has_node(view) || of_vm.is_some_and(|id| id != token.id.as_str()) {
        return PhaseResult::default();
    }
    extend(view, token.expiration)
}

/// Whether the VM has become a Node, recorded or not: a former VM's is older than the token.
pub(super) fn has_node(view: &View<'_>) -> bool {
    let token = view.observed.token.as_ref();
    let is_newer = |created: Timestamp| token.is_none_or(|token| created >= token.created);
    view.record().is_some_and(|record| record.node_uid.is_some())
        || view.own_node().is_some_and(|node| {
            let created = node.metadata.creation_timestamp.as_ref();
            created.is_none_or(|created| is_newer(created.0))
        })
}

/// Extends a token that expires then, or requeues when it is half-way there.
fn extend(view: &View<'_>, expiration: Timestamp) -> PhaseResult {
    let left = view.until(expiration);
    if left <= HALF_LIFE {
        PhaseResult::default().step(Step::ExtendToken)
    } else {
        PhaseResult::default().requeue(left.saturating_sub(HALF_LIFE))
    }
}
