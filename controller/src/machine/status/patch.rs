//! The Machine's status as it should be, and the patch that makes it so.

use std::time::Duration;

use k8s_openapi::api::core::v1::{NodeAddress, ObjectReference};
use k8s_openapi::jiff::Timestamp;
use machinist_shared::api::VersionsStatus;
use machinist_shared::api::names::condition;
use serde_json::{Map, Value, json};

use super::super::clock;
use super::super::conditions::{self, Change, Condition, Status};
use super::super::phase::Phase;
use super::super::phases::{Field, Kept, PhaseResult};
use super::super::plan::Event;
use super::super::record::{Progress, Record};
use super::super::snapshot::types::{Infra, Snapshot};
use super::{error, events};
use crate::cache::StoredMachine;

/// What writing the Machine comes to.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// The patch, unless all is as it should be.
    pub(super) patch: Option<Value>,
    /// When mere progress is to be written.
    pub(super) requeue_after: Option<Duration>,
    /// Events for causes that are new.
    pub(super) events: Vec<Event>,
    /// There is nothing but status to write: neither finalizers nor the record change.
    pub(super) is_status_alone: bool,
}

impl Written {
    pub(super) fn of(observed: &Snapshot, result: &PhaseResult, now: Timestamp) -> Self {
        let machine = &observed.machine;
        let stored = machine.status.conditions.as_deref().unwrap_or_default();
        let wanted = wanted(observed, result);
        let phase = phase(observed, result, &wanted);
        let finalizers = finalizers(machine, result);
        let is_reported = result.kept < Kept::Status;
        let before = result.record.as_ref().or(machine.record.as_ref());
        let record = before.map(|record| Record {
            has_been_ready: record.has_been_ready || (is_reported && drain_slots(machine, phase)),
            ..record.clone()
        });
        let progress = Progress {
            is_converted: false,
            ..result.progress.as_ref().unwrap_or(&machine.progress).clone()
        };

        let mut status = fields(machine, result, error::needs_person(&wanted));
        // That nothing has begun is worth no write of its own: in a moment there is more to show.
        let nothing_begun = machine.status.phase.is_none() && phase == Phase::Pending;
        let is_new = machine.status.phase.as_deref() != Some(phase.text());
        if is_new && !nothing_begun && (machine.status.phase.is_none() || is_reported) {
            status.insert("phase".to_owned(), json!(phase.text()));
        }
        let mut provider_status = if record == machine.record {
            Map::new()
        } else {
            with_removals(&json!(machine.record), json!(record))
        };
        let of_progress = of_progress(machine, &progress);
        // What is reserved must be known at once. What takes time is written with what shows it.
        if progress.evacuation != machine.progress.evacuation {
            provider_status.extend(of_progress.clone());
        }

        let mut written = Self {
            is_status_alone: finalizers.is_none() && before == machine.record.as_ref(),
            ..Self::default()
        };
        let host =
            host(observed).filter(|host| before.is_some_and(|record| record.host.as_ref() != Some(host)));
        let has_moved = host.is_some() && phase == Phase::Running && !is_new;
        let is_due = has_moved || !status.is_empty() || !provider_status.is_empty() || finalizers.is_some();
        let born = machine.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let listed = match conditions::change(stored, &wanted, now, born, observed.settings.progress) {
            Change::None => None,
            Change::Now(list) => Some(list),
            Change::Later(list, _) if is_due => Some(list),
            Change::Later(_, due) => {
                written.requeue_after = Some(clock::until(due, now));
                None
            }
        };
        let is_written = is_due || listed.is_some();
        if let Some(list) = listed {
            written.events = events::of_causes(observed, stored, &wanted);
            status.insert("conditions".to_owned(), json!(list));
        }
        if is_written && nothing_begun {
            status.insert("phase".to_owned(), json!(phase.text()));
        }
        if is_written || result.provider_id.is_some() {
            provider_status.extend(of_progress);
            provider_status.extend(host.map(|host| ("host".to_owned(), json!(host))));
        }
        if !provider_status.is_empty() {
            status.insert("providerStatus".to_owned(), Value::Object(provider_status));
        }

        let mut whole = Map::new();
        if !status.is_empty() {
            whole.insert("status".to_owned(), Value::Object(status));
        }
        if let Some(finalizers) = finalizers {
            whole.insert("metadata".to_owned(), json!({"finalizers": finalizers}));
        }
        if let Some(provider_id) = &result.provider_id {
            whole.insert("spec".to_owned(), json!({"providerID": provider_id}));
        }
        written.patch = (!whole.is_empty()).then_some(Value::Object(whole));
        written
    }
}

/// Addresses, Node, version and errors that differ from what is stored.
fn fields(
    machine: &StoredMachine,
    result: &PhaseResult,
    cause: Option<(&'static str, &str)>,
) -> Map<String, Value> {
    let stored = &machine.status;
    let mut status = Map::new();
    let mut differs = |key: &str, old: Value, new: Value| {
        if old != new {
            status.insert(key.to_owned(), new);
        }
    };
    if let Some(addresses) = &result.addresses {
        let mut sorted = addresses.clone();
        sorted.sort();
        let address = |address| NodeAddress {
            type_: "InternalIP".to_owned(),
            address,
        };
        let new: Vec<NodeAddress> = sorted.into_iter().map(address).collect();
        let old = stored.addresses.clone().unwrap_or_default();
        differs("addresses", json!(old), json!(new));
    }
    let node_ref = match &result.node_ref {
        Field::Keep => stored.node_ref.as_ref(),
        Field::Remove => None,
        Field::Set(node_ref) => Some(node_ref),
    };
    let uid = |of: Option<&ObjectReference>| of.and_then(|of| of.uid.clone());
    if uid(stored.node_ref.as_ref()) != uid(node_ref) {
        differs("nodeRef", json!(stored.node_ref), json!(node_ref));
    }
    if let Some(kubelet) = &result.kubelet_version {
        let new = VersionsStatus {
            kubelet: Some(kubelet.clone()),
            control_plane: None,
        };
        differs("versions", json!(stored.versions), json!(new));
    }
    if result.failing.is_some() || result.kept < Kept::Status {
        let failing = result.failing.as_ref();
        let failing = failing
            .map(|failing| (failing.reason, failing.message.as_str()))
            .or(cause);
        let (reason, message) = failing.unzip();
        let failure = message.filter(|_| result.is_failed());
        differs("errorReason", json!(stored.error_reason), json!(reason));
        differs("errorMessage", json!(stored.error_message), json!(message));
        differs("failureMessage", json!(stored.failure_message), json!(failure));
    }
    status
}

/// The host that the VM runs on.
fn host(observed: &Snapshot) -> Option<&String> {
    match &observed.infra {
        Infra::Open(open) => open.guest.as_ref()?.host.as_ref(),
        _ => None,
    }
}

/// The finalizers as they should be, if they differ from what is stored.
fn finalizers(machine: &StoredMachine, result: &PhaseResult) -> Option<Vec<String>> {
    let stored = machine.metadata.finalizers.clone().unwrap_or_default();
    let missing = result.adds_finalizers.iter();
    let missing = missing.filter(|add| !stored.iter().any(|has| has == *add));
    let wanted: Vec<String> = stored
        .iter()
        .filter(|has| !result.drops_finalizers.contains(&has.as_str()))
        .cloned()
        .chain(missing.map(|add| (*add).to_owned()))
        .collect();
    (wanted != stored).then_some(wanted)
}

/// The conditions to write: those that phases have set, those that are kept, and the summary.
pub(super) fn wanted(observed: &Snapshot, result: &PhaseResult) -> Vec<Condition> {
    let mut wanted = result.conditions.clone();
    if result.kept >= Kept::Conditions {
        let stored = observed.machine.status.conditions.as_deref().unwrap_or_default();
        for kind in [
            condition::INFRASTRUCTURE_READY,
            condition::BOOTSTRAP_READY,
            condition::NODE_READY,
            condition::EVACUATING,
            condition::DRAINED,
            condition::VOLUMES_DETACHED,
        ] {
            if let Some(old) = stored.iter().find(|c| c.type_ == kind)
                && !wanted.iter().any(|c| c.kind == kind)
            {
                wanted.push(Condition::stored(kind, old));
            }
        }
    }
    conditions::with_summary(wanted)
}

/// The reason of a VM that is paused, as the root cause has it.
const VM_PAUSED: &str = "VMPaused";

fn phase(observed: &Snapshot, result: &PhaseResult, wanted: &[Condition]) -> Phase {
    let running = |c: &Condition| c.kind == condition::NODE_READY && c.status == Status::True;
    // Its Node is Ready until its kubelet is missed.
    let is_paused = wanted
        .iter()
        .any(|c| c.kind == condition::INFRASTRUCTURE_READY && c.reason == VM_PAUSED);
    let record = result.record.as_ref().or(observed.machine.record.as_ref());
    if observed.machine.is_deleting() {
        Phase::Deleting
    } else if result.is_failed() {
        Phase::Failed
    } else if !is_paused && (result.node_is_ready || wanted.iter().any(running)) {
        Phase::Running
    } else if record.is_some_and(|record| record.vm_uid.is_some()) {
        Phase::Provisioning
    } else {
        Phase::Pending
    }
}

/// Whether it is shown with that phase that the Node is Ready, or is not any more. That it has been is recorded with that write,
/// and never by one of its own.
fn drain_slots(machine: &StoredMachine, phase: Phase) -> bool {
    let was_running = machine.status.phase.as_deref() == Some(Phase::Running.text());
    phase != Phase::Deleting && was_running != (phase == Phase::Running)
}

/// What takes time, as a merge patch of what is stored of it.
fn of_progress(machine: &StoredMachine, progress: &Progress) -> Map<String, Value> {
    if machine.progress == *progress {
        return Map::new();
    }
    let stored = if machine.progress.is_converted {
        Value::Null
    } else {
        json!(machine.progress)
    };
    with_removals(&stored, json!(progress))
}

/// The new object as a merge patch of the old one: what is gone is null.
fn with_removals(old: &Value, new: Value) -> Map<String, Value> {
    let Value::Object(mut new) = new else {
        return Map::new();
    };
    for (key, old) in old.as_object().into_iter().flatten() {
        let new = new.entry(key.clone()).or_insert(Value::Null);
        if old.is_object() && new.is_object() {
            *new = Value::Object(with_removals(old, new.take()));
        }
    }
    new
}
