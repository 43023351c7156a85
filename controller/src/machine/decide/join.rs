//! The Node: whose it is, how it is decorated, and how long it may take to come.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Taint};
use k8s_openapi::jiff::Timestamp;
use kube::core::ObjectMeta;
use machinist_infra::clock::Skew;
use machinist_infra::provider::Instance;
use machinist_shared::names::{annotation, condition, label};
use machinist_shared::startup_taints;
use serde_json::{Map, Value, json};

use super::super::conditions::{Condition, Reason, Status};
use super::super::contests::{Item, Waits};
use super::super::observed::{Concern, Open, Usable};
use super::super::on_node::Retired;
use super::super::ownership::{NodeClaim, NodeVerdict, is_same_uuid, node_verdict, provider_id_of};
use super::super::plan::Step;
use super::draft::{Draft, Field};
use crate::cache::{Node, StoredMachine};
use crate::csr::serving::NodeState;

/// Answers `NodeReady`, links the Node, and decorates it, if it is known how. Whether the Machine has joined.
pub(super) fn node(draft: &mut Draft<'_>, usable: Option<&Usable>, open: &Open, vm: &Instance) -> bool {
    let answer =
        |status, reason, message: String| Condition::new(condition::NODE_READY, status, reason, message);
    let joined_before = draft
        .record
        .as_ref()
        .is_some_and(|record| record.node_uid.is_some());
    let Some(node) = draft.observed.node.clone() else {
        draft.node_ref = Field::Remove;
        draft.own_node = Some(NodeState::Absent);
        if joined_before {
            let message = "the Node was deleted; it comes back when its kubelet registers again".to_owned();
            draft.condition(answer(Status::False, Reason::NodeDeleted, message));
        } else {
            waiting(draft, open, vm);
        }
        return joined_before;
    };
    let machine = &draft.observed.machine;
    let claim = NodeClaim {
        machine,
        node: &node,
        firmware_uuid: open.firmware_uuid.as_deref(),
        addresses: &open.addresses,
        proven_addresses: &open.proven_addresses,
    };
    if let NodeVerdict::Stranger(why) = node_verdict(claim) {
        draft.own_node = Some(NodeState::Stranger(why.clone()));
        let message = format!(
            "a Node {} exists that is not this Machine's: {why}. It is left alone",
            node.name()
        );
        draft.condition(answer(Status::False, Reason::NodeNameTaken, message));
        return joined_before;
    }
    if let Some(usable) = usable {
        decorate(draft, usable, &node);
    }
    let linked_before = recorded_node(machine) == Some(node.uid());
    // A failed write holds the others back, and the record with them; but for those that nothing else waits for.
    let failure = draft.observed.failure.as_ref();
    let is_linked = linked_before
        || failure.is_none_or(|f| {
            matches!(
                f.concerns,
                Concern::Certificate | Concern::Evacuation | Concern::Node
            )
        });
    draft.own_node = Some(if is_linked {
        NodeState::Linked
    } else {
        NodeState::Absent
    });
    if joined_before && !linked_before {
        let message = format!(
            "Node {} was made anew ({}); it is this Machine's",
            node.name(),
            node.uid()
        );
        draft.tell_after_patch(false, "NodeReplaced", message);
    }
    if let Some(record) = &mut draft.record {
        // Not of a Node that was linked before this was recorded: it costs a write.
        let system_uuid = node.status.node_info.system_uuid.as_str();
        let is_firmwares = open
            .firmware_uuid
            .as_deref()
            .is_some_and(|uuid| is_same_uuid(uuid, system_uuid));
        if is_firmwares && (!linked_before || record.node_system_uuid.is_some()) {
            record.node_system_uuid = Some(system_uuid.to_owned());
        }
        record.node_uid = Some(node.uid().to_owned());
    }
    draft.node_ref = Field::Set(ObjectReference {
        kind: Some("Node".to_owned()),
        api_version: Some("v1".to_owned()),
        name: Some(node.name().to_owned()),
        uid: Some(node.uid().to_owned()),
        resource_version: node.metadata.resource_version.clone(),
        ..ObjectReference::default()
    });
    draft.kubelet_version = Some(node.status.node_info.kubelet_version.clone()).filter(|v| !v.is_empty());
    draft.node_is_ready = node.is_ready();
    if node.is_ready() {
        draft.condition(answer(
            Status::True,
            Reason::NodeReady,
            format!("Node {} is Ready{}", node.name(), elsewhere(&node, open)),
        ));
    } else {
        let said = node
            .ready()
            .and_then(|c| c.message.clone())
            .unwrap_or_else(|| "no Ready condition yet".to_owned());
        // A kubelet that has just registered says something else every moment.
        draft.condition(answer(Status::False, Reason::NodeNotReady, said).lazy());
    }
    true
}

/// Puts onto the Node what is missing.
fn decorate(draft: &mut Draft<'_>, usable: &Usable, node: &Node) {
    let external_ccm = draft.observed.settings.external_cloud_provider;
    let decoration = decoration(
        &draft.observed.machine,
        usable,
        node,
        external_ccm,
        &draft.observed.waits,
    );
    if let Some(patch) = decoration.patch {
        let (uid, puts) = (node.uid().to_owned(), decoration.puts);
        draft.plan.push(Step::PatchNode { uid, patch, puts });
    }
    if let Some(wait) = decoration.again {
        draft.plan.look_again(wait);
    }
    // Once the Node is as the Machine asks, what it asked for before is history.
    if let Some(record) = &mut draft.record {
        record.retired = None;
    }
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

/// No Node yet: what is being waited for, and until when.
fn waiting(draft: &mut Draft<'_>, open: &Open, vm: &Instance) {
    let machine = draft.observed.machine.clone();
    let mut waiting_for_vm = None;
    if !open.state.ready {
        let message = "there is no running VM yet";
        waiting_for_vm = Some(
            Condition::new(
                condition::NODE_READY,
                Status::False,
                Reason::WaitingForVM,
                message,
            )
            .lazy(),
        );
    }
    // A node that has joined once and is being made anew in place is worth waiting for.
    if let Some(timeout) = draft.observed.settings.join_timeout
        && !draft.has_joined_once()
        && draft.observed.skew != Skew::Unknown
    {
        match deadline(draft, vm, timeout) {
            Some(deadline) if deadline <= draft.now => return timed_out(draft, open, timeout),
            Some(deadline) => {
                let wait = draft.until(deadline);
                draft.plan.look_again(wait);
            }
            None => {}
        }
    }
    if let Some(condition) = waiting_for_vm {
        draft.condition(condition);
    }
    if open.state.ready {
        let message = format!(
            "the VM runs{}, but no kubelet has registered as {} yet; if this lasts, look at the guest's console (cloud-init, kubelet)",
            open.addresses
                .first()
                .map(|a| format!(" at {a}"))
                .unwrap_or_default(),
            machine.name()
        );
        draft.condition(Condition::new(
            condition::NODE_READY,
            Status::False,
            Reason::WaitingForNode,
            message,
        ));
    }
}

fn timed_out(draft: &mut Draft<'_>, open: &Open, timeout: std::time::Duration) {
    let stage = if open.state.ready {
        "the VM runs, but its kubelet did not register".to_owned()
    } else {
        format!("it hangs at {}: {}", open.state.reason, open.state.message)
    };
    let message = format!("no Node within {} s: {stage}", timeout.as_secs());
    draft.condition(Condition::new(
        condition::NODE_READY,
        Status::False,
        Reason::JoinTimeout,
        message.clone(),
    ));
    draft.fail("JoinClusterTimeoutError", message.clone());
    draft.gave_up = true;
    draft.replaced_by_set("JoinTimeout", &message);
}

/// What a node may need at most for what a controller does for it: its certificates, its user data, its link.
const GRACE: std::time::Duration = std::time::Duration::from_mins(5);

/// When `timeout` is over: counted from the later of the Machine's and the VM's creation, so that neither a VM that could
/// not be made for long nor one that is made anew has less time than others. Nor has one whose request nobody approved,
/// because no controller led: what waits for a new leader gets some time from that.
pub(super) fn deadline(draft: &Draft<'_>, vm: &Instance, timeout: std::time::Duration) -> Option<Timestamp> {
    let created = |metadata: &ObjectMeta| metadata.creation_timestamp.as_ref().map(|time| time.0);
    // Two clusters, two clocks: what counts is when it was seen. One that was seen by an earlier version was not made in the
    // future.
    let seen = draft.record.as_ref().and_then(|record| record.vm_seen);
    let vm = seen.or_else(|| created(&vm.metadata).map(|vm| vm.min(draft.now)));
    let start = created(&draft.observed.machine.metadata).max(vm)?;
    let grace = draft
        .observed
        .leading_since
        .checked_add(timeout.min(GRACE))
        .ok()?;
    start
        .checked_add(timeout)
        .ok()
        .map(|deadline| deadline.max(grace))
}

/// What gives a Node what its Machine asks for.
#[derive(Debug, Default)]
pub(super) struct Decoration {
    /// The one patch; `None` if nothing is missing.
    patch: Option<Value>,
    /// What it puts onto the Node.
    puts: Vec<Item>,
    /// When something may be put back that is missing and must wait.
    again: Option<Duration>,
}

/// Whether the Node has not been given anything yet by whoever made its VM: machine-controller leaves the same marks.
fn is_new(machine: &StoredMachine, node: &Node) -> bool {
    let own = format!("{}/{}", machine.namespace(), machine.name());
    recorded_node(machine) != Some(node.uid())
        && node.label(label::OWNED_BY) != Some(machine.uid())
        && node.annotation(annotation::MACHINE) != Some(&own)
}

/// The taints that the Node shall have. Those that end with the start are put onto it once: by its kubelet when it registers,
/// where the user data is ours, else with what the Node is given first.
fn taints<'a>(machine: &StoredMachine, usable: &'a Usable, node: &Node) -> impl Iterator<Item = &'a Taint> {
    let record = machine.record.as_ref();
    let registers_with_them = record.is_some_and(|record| record.token_id.is_some());
    let starts = is_new(machine, node) && !registers_with_them;
    let named = machine.annotation(annotation::STARTUP_TAINTS).map(str::to_owned);
    let taints = usable.taints.iter();
    taints.filter(move |taint| starts || !startup_taints::has(named.as_deref(), &taint.key))
}

/// Missing labels, annotations and taints, our marks, and the providerID where no CCM sets it. Nothing is overwritten or
/// removed, but for what the Machine asked for before and does not any more. What another controller takes away waits.
pub(super) fn decoration(
    machine: &StoredMachine,
    usable: &Usable,
    node: &Node,
    external_ccm: bool,
    waits: &Waits,
) -> Decoration {
    let no_longer = Retired::default();
    let no_longer = machine
        .record
        .as_ref()
        .and_then(|record| record.retired.as_ref())
        .unwrap_or(&no_longer);
    let mut labels = missing(
        usable.node_metadata.labels.as_ref(),
        node.metadata.labels.as_ref(),
    );
    if node.label(label::OWNED_BY) != Some(machine.uid()) {
        labels.insert(label::OWNED_BY.to_owned(), json!(machine.uid()));
    }
    let mut again: Option<Duration> = None;
    let mut may_be_put = |item: &Item| {
        let wait = waits.get(item);
        again = again.into_iter().chain(wait.copied()).min();
        wait.is_none()
    };
    labels.retain(|key, _| may_be_put(&Item::Label(key.clone())));
    let mut puts: Vec<Item> = labels.keys().cloned().map(Item::Label).collect();
    let mut replaces = replace(
        &mut labels,
        no_longer.labels(node),
        usable.node_metadata.labels.as_ref(),
    );
    let mut annotations = missing(
        usable.node_metadata.annotations.as_ref(),
        node.metadata.annotations.as_ref(),
    );
    let own = format!("{}/{}", machine.namespace(), machine.name());
    if node.annotation(annotation::MACHINE) != Some(&own) {
        annotations.insert(annotation::MACHINE.to_owned(), json!(own));
    }
    annotations.retain(|key, _| may_be_put(&Item::Annotation(key.clone())));
    puts.extend(annotations.keys().cloned().map(Item::Annotation));
    let wanted = usable.node_metadata.annotations.as_ref();
    replaces |= replace(&mut annotations, no_longer.annotations(node), wanted);
    let mut taints = node.spec.taints.clone();
    taints.retain(|taint| !no_longer.has(taint));
    for taint in self::taints(machine, usable, node) {
        let item = Item::Taint(taint.key.clone(), taint.effect.clone());
        let is_there = taints
            .iter()
            .any(|t| t.key == taint.key && t.effect == taint.effect);
        if !is_there && may_be_put(&item) {
            taints.push(taint.clone());
            puts.push(item);
        }
    }
    let mut metadata = Map::new();
    let mut spec = Map::new();
    if !labels.is_empty() {
        metadata.insert("labels".to_owned(), Value::Object(labels));
    }
    if !annotations.is_empty() {
        metadata.insert("annotations".to_owned(), Value::Object(annotations));
    }
    if taints != node.spec.taints {
        spec.insert("taints".to_owned(), json!(taints));
        replaces = true;
    }
    if replaces {
        // A merge patch replaces the whole list, so it must not be an old one; nor must a value that is replaced.
        metadata.insert(
            "resourceVersion".to_owned(),
            json!(node.metadata.resource_version),
        );
    }
    if !external_ccm && node.spec.provider_id.as_deref().is_none_or(str::is_empty) {
        spec.insert("providerID".to_owned(), json!(provider_id_of(machine)));
    }
    if metadata.is_empty() && spec.is_empty() {
        return Decoration {
            again,
            ..Decoration::default()
        };
    }
    metadata.insert("uid".to_owned(), json!(node.uid()));
    let mut patch = Map::from_iter([("metadata".to_owned(), Value::Object(metadata))]);
    if !spec.is_empty() {
        patch.insert("spec".to_owned(), Value::Object(spec));
    }
    Decoration {
        patch: Some(Value::Object(patch)),
        puts,
        again,
    }
}

/// Gives what has one of our former values the one that is wanted now, or takes it away; whether there is any.
fn replace<'a>(
    changes: &mut Map<String, Value>,
    former: impl Iterator<Item = &'a str>,
    wanted: Option<&BTreeMap<String, String>>,
) -> bool {
    let mut any = false;
    for key in former {
        let wanted = wanted.and_then(|wanted| wanted.get(key));
        changes.insert(key.to_owned(), json!(wanted));
        any = true;
    }
    any
}

fn missing(
    wanted: Option<&BTreeMap<String, String>>,
    present: Option<&BTreeMap<String, String>>,
) -> Map<String, Value> {
    let wanted = wanted.into_iter().flatten();
    let absent = wanted.filter(|(key, _)| present.is_none_or(|present| !present.contains_key(*key)));
    absent.map(|(key, value)| (key.clone(), json!(value))).collect()
}
