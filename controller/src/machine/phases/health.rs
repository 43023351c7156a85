//! What keeps the VM from running, and how long it may.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::core::ObjectMeta;
use machinist_infra::kube::clock::Skew;
use machinist_infra::provider::Instance;
use machinist_shared::api::names::{annotation, condition};

use super::super::clock::Wait;
use super::super::conditions::{Condition, Status, Urgency, Words};
use super::super::ownership::provider_id_of;
use super::super::reason::Reason;
use super::super::record::{IMPORT_FAILING, Progress, Record};
use super::super::snapshot::types::Open;
use super::super::unconfirmed_causes::CONFIRMED_AFTER;
use super::{Flow, Kept, PhaseResult, View, replacement};
use crate::cache::SpecState;
use crate::config::{self, OptionalDuration};

pub(super) fn run(view: &View<'_>) -> PhaseResult {
    let (Some((open, vm)), Some(_)) = (view.vm(), view.usable()) else {
        return PhaseResult::default();
    };
    let result = provisioning(view, open, vm);
    if result.flow == Flow::Stop {
        return result;
    }
    let machine = view.machine();
    let is_decoded = matches!(machine.spec, SpecState::Decoded(_));
    let lacks_id = machine.provider_id.as_deref().is_none_or(str::is_empty);
    let gives_id = !open.addresses.is_empty()
        && !view.observed.settings.external_cloud_provider
        && is_decoded
        && lacks_id;
    PhaseResult {
        addresses: Some(open.addresses.clone()),
        provider_id: gives_id.then(|| provider_id_of(machine)),
        ..result.and(state(view, open))
    }
}

/// The VM may have taken too long to run; then the Machine is replaced for it, if it has a MachineSet.
fn provisioning(view: &View<'_>, open: &Open, vm: &Instance) -> PhaseResult {
    let result = PhaseResult::default();
    // A node that has joined once and is being recreated in place is worth waiting for.
    if open.state.ready || view.has_joined_once() || view.observed.skew == Skew::Unknown {
        return result;
    }
    let Ok(Some(timeout)) = provisioning_timeout(view) else {
        return result;
    };
    let Some(deadline) = deadline(view, vm, timeout) else {
        return result;
    };
    if deadline > view.now {
        return result.requeue(view.until(deadline));
    }
    let message = format!(
        "the VM {} does not run after {} s; it hangs at {}: {}",
        view.machine().name(),
        timeout.as_secs(),
        open.state.reason,
        open.state.message
    );
    let result = result
        .infrastructure(Reason::ProvisioningTimeout, message.as_str())
        .fail("CreateError", message.as_str());
    replacement::by_set(view, result, "ProvisioningTimeout", &message)
}

/// How long the VM may take to run: as the Machine's annotation says, else as the flag does. `Err` if the annotation
/// cannot be read.
fn provisioning_timeout(view: &View<'_>) -> Result<Option<Duration>, ()> {
    match view.machine().annotation(annotation::PROVISIONING_TIMEOUT) {
        None => Ok(view.observed.settings.provisioning_timeout),
        Some("off") => Ok(None),
        Some(text) => match config::duration(text) {
            Ok(OptionalDuration(Some(timeout))) => Ok(Some(timeout)),
            _ => Err(()),
        },
    }
}

/// What a node may need at most for what a controller does for it: its certificates, its user data, its link.
const GRACE_PERIOD: Duration = Duration::from_mins(5);

/// When `timeout` is over: counted from the later of the Machine's and the VM's creation, so that neither a VM that could
/// not be made for long nor one that is recreated has less time than others. Nor has one whose request was not approved,
/// because no controller led: what waits for a new leader gets some time from that.
pub(super) fn deadline(view: &View<'_>, vm: &Instance, timeout: Duration) -> Option<Timestamp> {
    let created = |metadata: &ObjectMeta| metadata.creation_timestamp.as_ref().map(|time| time.0);
    // Two clusters, two clocks: what counts is when it was seen. One that was seen by an earlier version was not made in the
    // future.
    let seen = view.record().and_then(|record| record.vm_seen);
    let vm = seen.or_else(|| created(&vm.metadata).map(|vm| vm.min(view.now)));
    let start = created(&view.machine().metadata).max(vm)?;
    with_grace(view, start, timeout)
}

/// When `timeout` from `start` is over, at the earliest some time after this process became the leader.
pub(super) fn with_grace(view: &View<'_>, start: Timestamp, timeout: Duration) -> Option<Timestamp> {
    let leading = view.observed.leading_since;
    let grace = leading.checked_add(timeout.min(GRACE_PERIOD)).ok()?;
    start
        .checked_add(timeout)
        .ok()
        .map(|deadline| deadline.max(grace))
}

/// Answers `InfrastructureReady` with the root cause.
fn state(view: &View<'_>, open: &Open) -> PhaseResult {
    let state = &open.state;
    if state.is_unconfirmed {
        let since = view.observed.unconfirmed_since;
        if let Wait::Left(left) = Wait::of(since, CONFIRMED_AFTER, view.now) {
            return PhaseResult::default().keeping(Kept::Conditions).requeue(left);
        }
    }
    let former = view.record().and_then(|record| record.former.as_ref());
    let mut message = state.message.clone();
    if !state.ready {
        if let Some(former) = former {
            message = format!("{message} (recreated: {})", former.why);
        }
        if provisioning_timeout(view).is_err() {
            message = format!(
                "{message} (the annotation {} is neither a duration like 45m nor off, and is ignored)",
                annotation::PROVISIONING_TIMEOUT
            );
        }
    }
    // CDI forgets why an import failed as soon as it tries again.
    let progress = view.progress();
    let (reason, message) = match &progress.import_failure {
        Some(cause) if state.is_retry => (IMPORT_FAILING, cause.clone()),
        _ => (state.reason.as_str(), message),
    };
    let import_failure = (reason == IMPORT_FAILING).then(|| message.clone());
    let condition = Condition {
        kind: condition::INFRASTRUCTURE_READY,
        status: if state.ready { Status::True } else { Status::False },
        reason: reason.to_owned(),
        message: message.clone(),
        urgency: if state.progress {
            Urgency::Lazy
        } else {
            Urgency::Now
        },
        words: Words::Same,
    };
    let replaces = view.record().filter(|_| state.ready && former.is_some());
    let result = PhaseResult {
        progress: (import_failure != progress.import_failure).then(|| Progress {
            import_failure,
            ..progress.clone()
        }),
        ..PhaseResult::default()
    };
    let result = result.condition(condition).record(replaces.map(|record| Record {
        former: None,
        ..record.clone()
    }));
    if state.terminal {
        result.fail("CreateError", format!("{reason}: {message}"))
    } else {
        result
    }
}
