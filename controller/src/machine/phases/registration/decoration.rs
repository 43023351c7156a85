//! What a Node is given: labels, annotations and taints that its Machine asks for, our marks, and the providerID.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use machinist_shared::admission::startup_taints;
use machinist_shared::api::names::{annotation, label};
use serde_json::{Map, Value, json};

use super::super::super::node_conflicts::{Item, Waits};
use super::super::super::node_metadata::Retired;
use super::super::super::ownership::provider_id_of;
use super::super::super::plan::Step;
use super::super::super::record::Record;
use super::super::super::snapshot::types::Usable;
use super::super::{PhaseResult, View};
use super::recorded_node;
use crate::cache::{Node, StoredMachine};

/// Puts onto the Node what is missing, if it is known what that is.
pub(super) fn decorate(view: &View<'_>, node: &Node) -> PhaseResult {
    let Some(usable) = view.usable() else {
        return PhaseResult::default();
    };
    let external_ccm = view.observed.settings.external_cloud_provider;
    let decoration = decoration(view.machine(), usable, node, external_ccm, &view.observed.waits);
    let (uid, puts) = (node.uid().to_owned(), decoration.puts);
    let step = decoration.patch.map(|patch| Step::PatchNode { uid, patch, puts });
    // Once the Node is as the Machine asks, what it asked for before is history.
    let record = view.record().filter(|record| record.retired.is_some());
    let mut result = PhaseResult::default()
        .requeue(decoration.again)
        .record(record.map(|record| Record {
            retired: None,
            ..record.clone()
        }));
    result.steps.extend(step);
    result
}

/// What gives a Node what its Machine asks for.
#[derive(Debug, Default)]
struct Decoration {
    /// The one patch; `None` if nothing is missing.
    patch: Option<Value>,
    /// What it puts onto the Node.
    puts: Vec<Item>,
    /// When something may be put back that is missing and must wait.
    again: Option<Duration>,
}

/// Whether the Node has not been given anything yet by the one that made its VM: machine-controller leaves the same marks.
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
fn decoration(
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
