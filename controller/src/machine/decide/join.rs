//! The Node: whose it is, how it is decorated, and how long it may take to come.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ObjectReference;
use machinist_shared::names::{annotation, condition, label};
use serde_json::{Map, Value, json};

use super::super::conditions::{Condition, Reason, Status};
use super::super::observed::{Open, Usable};
use super::super::ownership::{NodeClaim, NodeVerdict, node_verdict, provider_id_of};
use super::super::plan::Step;
use super::draft::{Draft, Field};
use crate::user::{Node, StoredMachine, owner};

/// Answers `NodeReady`, links and decorates the Node. Whether the Machine has joined.
pub(super) fn node(draft: &mut Draft<'_>, usable: &Usable, open: &Open) -> bool {
    let answer =
        |status, reason, message: String| Condition::new(condition::NODE_READY, status, reason, message);
    let joined_before = draft
        .record
        .as_ref()
        .is_some_and(|record| record.node_uid.is_some());
    let Some(node) = draft.observed.node.clone() else {
        draft.node_ref = Field::Remove;
        if joined_before {
            let message = "the Node was deleted; it comes back when its kubelet registers again".to_owned();
            draft.condition(answer(Status::False, Reason::NodeDeleted, message));
        } else {
            waiting(draft, open);
        }
        return joined_before;
    };
    let machine = &draft.observed.machine;
    let claim = NodeClaim {
        machine,
        node: &node,
        firmware_uuid: open.firmware_uuid.as_deref(),
        addresses: &open.addresses,
    };
    if let NodeVerdict::Stranger(why) = node_verdict(claim) {
        let message = format!(
            "a Node {} exists that is not this Machine's: {why}. It is left alone",
            node.name()
        );
        draft.condition(answer(Status::False, Reason::NodeNameTaken, message));
        return joined_before;
    }
    if let Some(patch) = decoration(
        machine,
        usable,
        &node,
        draft.observed.settings.external_cloud_provider,
    ) {
        draft.plan.push(Step::PatchNode {
            uid: node.uid().to_owned(),
            patch,
        });
    }
    if let Some(record) = &mut draft.record {
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
    if node.is_ready() {
        draft.condition(answer(
            Status::True,
            Reason::NodeReady,
            format!("Node {} is Ready", node.name()),
        ));
    } else {
        let said = node
            .ready()
            .and_then(|c| c.message.clone())
            .unwrap_or_else(|| "no Ready condition yet".to_owned());
        draft.condition(answer(Status::False, Reason::NodeNotReady, said));
    }
    true
}

/// No Node yet: what is being waited for, and until when.
fn waiting(draft: &mut Draft<'_>, open: &Open) {
    let machine = draft.observed.machine.clone();
    if !open.state.ready {
        let message = "there is no running VM yet";
        draft.condition(
            Condition::new(
                condition::NODE_READY,
                Status::False,
                Reason::WaitingForVM,
                message,
            )
            .lazy(),
        );
    }
    if let Some(timeout) = draft.observed.settings.join_timeout
        && let Some(created) = machine.metadata.creation_timestamp.as_ref().map(|t| t.0)
        && let Ok(deadline) = created.checked_add(timeout)
    {
        if deadline <= draft.now {
            timed_out(draft, open, timeout);
            return;
        }
        let wait = draft.until(deadline);
        draft.plan.look_again(wait);
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
        "the VM runs, but its kubelet did not register"
    } else {
        &open.state.message
    };
    let message = format!("no Node within {} s: {stage}", timeout.as_secs());
    draft.condition(Condition::new(
        condition::NODE_READY,
        Status::False,
        Reason::JoinTimeout,
        message.clone(),
    ));
    draft.fail("JoinClusterTimeoutError", message.clone());
    if draft.observed.machine.machine_set().is_some() {
        draft.tell_after_patch(
            true,
            "JoinTimeout",
            format!("{message}; the MachineSet replaces the Machine"),
        );
        draft.patch_now();
        note_failure(draft, &message);
        draft.plan.push(Step::DeleteMachine);
    }
}

fn note_failure(draft: &mut Draft<'_>, message: &str) {
    let machine = draft.observed.machine.clone();
    let owner = owner::controller(&machine.metadata).filter(|owner| owner.kind == "MachineSet");
    if let Some(owner) = owner {
        draft.plan.push(Step::NoteFailure {
            set: owner.name.clone(),
            uid: owner.uid.clone(),
            message: format!("Machine {}: {message}", machine.name()),
        });
    }
}

/// The one patch that gives a Node what its Machine asks for: missing labels, annotations and taints, our marks, and
/// the providerID where no CCM sets it. `None` if nothing is missing. Nothing is overwritten or removed.
pub(super) fn decoration(
    machine: &StoredMachine,
    usable: &Usable,
    node: &Node,
    external_ccm: bool,
) -> Option<Value> {
    let mut labels = missing(
        usable.node_metadata.labels.as_ref(),
        node.metadata.labels.as_ref(),
    );
    if node.label(label::OWNED_BY) != Some(machine.uid()) {
        labels.insert(label::OWNED_BY.to_owned(), json!(machine.uid()));
    }
    let mut annotations = missing(
        usable.node_metadata.annotations.as_ref(),
        node.metadata.annotations.as_ref(),
    );
    let own = format!("{}/{}", machine.namespace(), machine.name());
    if node.annotation(annotation::MACHINE) != Some(&own) {
        annotations.insert(annotation::MACHINE.to_owned(), json!(own));
    }
    let mut taints = node.spec.taints.clone();
    for taint in &usable.taints {
        if !taints
            .iter()
            .any(|t| t.key == taint.key && t.effect == taint.effect)
        {
            taints.push(taint.clone());
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
    if taints.len() != node.spec.taints.len() {
        spec.insert("taints".to_owned(), json!(taints));
        // A merge patch replaces the whole list, so it must not be an old one.
        metadata.insert(
            "resourceVersion".to_owned(),
            json!(node.metadata.resource_version),
        );
    }
    if !external_ccm && node.spec.provider_id.as_deref().is_none_or(str::is_empty) {
        spec.insert("providerID".to_owned(), json!(provider_id_of(machine)));
    }
    if metadata.is_empty() && spec.is_empty() {
        return None;
    }
    metadata.insert("uid".to_owned(), json!(node.uid()));
    let mut patch = Map::from_iter([("metadata".to_owned(), Value::Object(metadata))]);
    if !spec.is_empty() {
        patch.insert("spec".to_owned(), Value::Object(spec));
    }
    Some(Value::Object(patch))
}

fn missing(
    wanted: Option<&BTreeMap<String, String>>,
    present: Option<&BTreeMap<String, String>>,
) -> Map<String, Value> {
    let wanted = wanted.into_iter().flatten();
    let absent = wanted.filter(|(key, _)| present.is_none_or(|present| !present.contains_key(*key)));
    absent.map(|(key, value)| (key.clone(), json!(value))).collect()
}
