//! The Node that the VM becomes: whose it is, what it is given, and how long it may take to come.

mod decoration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use machinist_infra::kube::clock::Skew;
use machinist_infra::provider::Instance;

use self::decoration::decorate;
use super::super::conditions::{Condition, Status};
use super::super::ownership::{NodeVerdict, is_same_uuid};
use super::super::reason::Reason;
use super::super::record::Record;
use super::super::snapshot::types::{FailureScope, Open};
use super::result::{Field, Found};
use super::{PhaseResult, View, health, replacement};
use crate::cache::{Node, StoredMachine};
use crate::csr::serving::NodeState;

pub(super) fn run(view: &View<'_>) -> PhaseResult {
    let Some((open, vm)) = view.vm() else {
        return PhaseResult::default();
    };
    let found = |node: NodeState| PhaseResult {
        found: Found {
            node: Some(node),
            ..Found::default()
        },
        ..PhaseResult::default()
    };
    let Some(node) = view.observed.node.as_deref() else {
        let result = PhaseResult {
            node_ref: Field::Remove,
            ..found(NodeState::Absent)
        };
        return result.and(absent(view, open, vm));
    };
    if let Some(NodeVerdict::Foreign(why)) = view.observed.node_verdict() {
        let message = format!(
            "a Node {} exists that is not this Machine's: {why}. It is left alone",
            node.name()
        );
        let taken = Condition::node_ready(Status::False, Reason::NodeNameTaken, message);
        return found(NodeState::Foreign(why)).condition(taken);
    }
    let decorated = decorate(view, node);
    let linked = link(view, open, node, decorated.record.as_ref());
    decorated.and(linked)
}

/// There is no Node (any more).
fn absent(view: &View<'_>, open: &Open, vm: &Instance) -> PhaseResult {
    if view.record().is_none_or(|record| record.node_uid.is_none()) {
        return waiting(view, open, vm);
    }
    PhaseResult::default().condition(deleted())
}

/// The Node had joined, and is not there any more.
pub(super) fn deleted() -> Condition {
    let message = "the Node was deleted; it comes back when its kubelet registers again";
    Condition::node_ready(Status::False, Reason::NodeDeleted, message)
}

/// The Node is the Machine's: it is recorded and linked, and its readiness shown.
fn link(view: &View<'_>, open: &Open, node: &Node, record: Option<&Record>) -> PhaseResult {
    let record = record.or(view.record());
    let linked_before = recorded_node(view.machine()) == Some(node.uid());
    // A failed write holds the others back, and the record with them; but for those that nothing else waits for.
    let failure = view.observed.failure.as_ref();
    let is_linked = linked_before
        || failure.is_none_or(|f| {
            matches!(
                f.scope,
                FailureScope::Certificate | FailureScope::Evacuation | FailureScope::Node
            )
        });
    let mut result = PhaseResult {
        found: Found {
            node: Some(if is_linked {
                NodeState::Linked
            } else {
                NodeState::Absent
            }),
            ..Found::default()
        },
        node_ref: Field::Set(reference(node)),
        kubelet_version: Some(node.status.node_info.kubelet_version.clone()).filter(|v| !v.is_empty()),
        node_is_ready: node.is_ready(),
        ..PhaseResult::default()
    };
    if record.is_some_and(|record| record.node_uid.is_some()) && !linked_before {
        let message = format!(
            "Node {} was recreated ({}); it is this Machine's",
            node.name(),
            node.uid()
        );
        result = result.event(false, "NodeReplaced", message);
    }
    result
        .record(record.map(|record| with_node(record, open, node, linked_before)))
        .condition(readiness(node, open))
}

/// The record with the Node, and the UUID of the firmware that it joined from.
fn with_node(record: &Record, open: &Open, node: &Node, linked_before: bool) -> Record {
    let system_uuid = node.status.node_info.system_uuid.as_str();
    let firmware_uuid = open.firmware_uuid.as_deref();
    let is_firmwares = firmware_uuid.is_some_and(|uuid| is_same_uuid(uuid, system_uuid));
    // Not of a Node that was linked before this was recorded: it costs a write.
    let is_new = is_firmwares && (!linked_before || record.node_system_uuid.is_some());
    Record {
        node_system_uuid: is_new
            .then(|| system_uuid.to_owned())
            .or(record.node_system_uuid.clone()),
        node_uid: Some(node.uid().to_owned()),
        recreation: None,
        ..record.clone()
    }
}

fn reference(node: &Node) -> ObjectReference {
    ObjectReference {
        kind: Some("Node".to_owned()),
        api_version: Some("v1".to_owned()),
        name: Some(node.name().to_owned()),
        uid: Some(node.uid().to_owned()),
        resource_version: node.metadata.resource_version.clone(),
        ..ObjectReference::default()
    }
}

fn readiness(node: &Node, open: &Open) -> Condition {
    if node.is_ready() {
        let message = format!("Node {} is Ready{}", node.name(), elsewhere(node, open));
        return Condition::node_ready(Status::True, Reason::NodeReady, message);
    }
    let message = node.ready().and_then(|ready| ready.message.clone());
    let message = message.unwrap_or_else(|| "no Ready condition yet".to_owned());
    // A kubelet that has just registered says something else every moment.
    Condition::node_ready(Status::False, Reason::NodeNotReady, message).lazy()
}

/// UID of the Node that is recorded to be the Machine's.
fn recorded_node(machine: &StoredMachine) -> Option<&str> {
    machine.record.as_ref()?.node_uid.as_deref()
}

/// What to say of a Node that is known by another address than its VM has.
fn elsewhere(node: &Node, open: &Open) -> String {
    let says = node.own_addresses();
    let is_known = says.is_empty()
        || open.addresses.is_empty()
        || says.iter().any(|address| open.addresses.contains(address));
    if is_known {
        return String::new();
    }
    format!(
        ", but its kubelet says that its address is {}, and the VM has {}: if this lasts, restart the kubelet",
        says.join(", "),
        open.addresses.join(", ")
    )
}

/// A request that is pending for longer is named.
const APPROVAL_TIMEOUT: SignedDuration = SignedDuration::from_secs(30);

/// No Node yet: what is being waited for, and until when.
fn waiting(view: &View<'_>, open: &Open, vm: &Instance) -> PhaseResult {
    let mut result = PhaseResult::default();
    // A node that has joined once and is being recreated in place is worth waiting for.
    if let Some(timeout) = view.observed.settings.join_timeout
        && !view.has_joined_once()
        && view.observed.skew != Skew::Unknown
        && let Some(deadline) = health::deadline(view, vm, timeout)
    {
        if deadline <= view.now {
            return timed_out(view, open, timeout);
        }
        result = result.requeue(view.until(deadline));
    }
    if !open.state.ready {
        let message = "there is no running VM yet";
        let waiting = Condition::node_ready(Status::False, Reason::WaitingForVM, message);
        return result.condition(waiting.lazy());
    }
    let address = open.addresses.first();
    if let Some(request) = &view.observed.request_to_join {
        let named = request
            .created
            .checked_add(APPROVAL_TIMEOUT)
            .unwrap_or(Timestamp::MAX);
        if named <= view.now {
            let message = format!(
                "the VM runs, and its kubelet asks for the certificate to join with, but no approver has approved the signing \
                 request {} yet. With operating-system-manager, kube-controller-manager approves it if the group of its tokens is \
                 bound to system:certificates.k8s.io:certificatesigningrequests:nodeclient; an Event has the reason why \
                 Machinist does not",
                request.name
            );
            return result.condition(Condition::node_ready(
                Status::False,
                Reason::WaitingForNode,
                message,
            ));
        }
        result = result.requeue(view.until(named));
    }
    let message = format!(
        "the VM runs{}, but no kubelet has registered as {} yet; if this lasts, look at the guest's console (cloud-init, kubelet)",
        address.map(|a| format!(" at {a}")).unwrap_or_default(),
        view.machine().name()
    );
    result.condition(Condition::node_ready(
        Status::False,
        Reason::WaitingForNode,
        message,
    ))
}

fn timed_out(view: &View<'_>, open: &Open, timeout: std::time::Duration) -> PhaseResult {
    let stage = if open.state.ready {
        "the VM runs, but its kubelet did not register".to_owned()
    } else {
        format!("it hangs at {}: {}", open.state.reason, open.state.message)
    };
    let message = format!("no Node within {} s: {stage}", timeout.as_secs());
    let overdue = PhaseResult {
        found: Found {
            is_overdue: true,
            ..Found::default()
        },
        ..PhaseResult::default()
    };
    let result = overdue
        .condition(Condition::node_ready(
            Status::False,
            Reason::JoinTimeout,
            message.as_str(),
        ))
        .fail("JoinClusterTimeoutError", message.as_str());
    replacement::by_set(view, result, "JoinTimeout", &message)
}
