//! What MachineSets and MachineDeployments have in common: a template, and a selector that must match it.

use serde_json::{Value, json};

use super::mutate::{default_cluster_namespace, default_spec, default_topology, has_own_labels, is_kubevirt};
use super::raw::{self, Object, object_at, object_at_mut};
use super::validate::validate_spec;
use super::{AdmissionSettings, selector};
use crate::field::{FieldPath, Report};
use crate::names::{annotation, label};
use crate::{kubevirt, template};

/// Fills in the spec of a template; `old` is the object that is stored now, if it is an update.
///
/// Defaults that come from outside (the namespace of the VMs, topology) are part of the template, and a template that
/// changes rolls every Machine. So on an update they are taken from `old`, absent staying absent, unless the fields
/// that they follow from have changed.
pub(super) fn default_template(old: Option<&Value>, template: &mut Object, settings: &AdmissionSettings) {
    default_spec(template);
    let stored = old.and_then(|old| object_at(old.as_object()?, &["spec", "template", "spec"]));
    match stored {
        Some(stored) => keep_outside_defaults(stored, template, settings),
        None if is_kubevirt(template) => {
            default_cluster_namespace(template, &settings.infra_namespace);
            if has_own_labels(template) {
                default_topology(template);
            }
        }
        None => {}
    }
}

fn keep_outside_defaults(stored: &Object, template: &mut Object, settings: &AdmissionSettings) {
    if !is_kubevirt(template) {
        return;
    }
    if !is_kubevirt(stored) {
        default_cluster_namespace(template, &settings.infra_namespace);
    } else if let Some(namespace) = object_at(stored, &["metadata", "annotations"])
        .and_then(|annotations| annotations.get(annotation::CLUSTER_NAMESPACE)?.as_str())
    {
        default_cluster_namespace(template, namespace);
    } else if let Some(annotations) = object_at_mut(template, &["metadata", "annotations"])
        && annotations.contains_key(annotation::CLUSTER_NAMESPACE)
    {
        annotations.insert(
            annotation::CLUSTER_NAMESPACE.to_owned(),
            json!(settings.infra_namespace),
        );
    }
    if !has_own_labels(template) {
        return;
    }
    if topology_source(stored) != topology_source(template) {
        default_topology(template);
        return;
    }
    let kept = object_at(stored, &["metadata", "labels"]);
    let kept =
        [label::REGION, label::ZONE].map(|key| (key, kept.and_then(|labels| labels.get(key)).cloned()));
    if let Some(labels) = object_at_mut(template, &["metadata", "labels"]) {
        for (key, value) in kept {
            if let Some(value) = value {
                labels.insert(key.to_owned(), value);
            }
        }
    }
}

/// The fields that topology labels follow from: the location, and the StorageClass of the primary disk.
fn topology_source(spec: &Object) -> [Option<&Value>; 2] {
    let vm = object_at(spec, &["providerSpec", "value", "cloudProviderSpec"])
        .and_then(|cloud| raw::any_case(cloud, "virtualMachine")?.as_object());
    let disk = vm
        .and_then(|vm| raw::any_case(vm, "template")?.as_object())
        .and_then(|template| raw::any_case(template, "primaryDisk")?.as_object());
    [
        vm.and_then(|vm| raw::any_case(vm, "location")),
        disk.and_then(|disk| raw::any_case(disk, "storageClassName")),
    ]
}

/// Whether an update is another template; so is every new object's.
pub(super) fn template_changed(old: Option<&Value>, new: &Value) -> bool {
    let template = |object: &Value| object.pointer("/spec/template").cloned().unwrap_or_default();
    old.is_none_or(|old| !template::equal(&template(old), &template(new)))
}

/// Judges the selector, which must match the template's labels.
pub(super) fn judge_selector(spec: &Object, path: &FieldPath, report: &mut Report) {
    let labels = object_at(spec, &["template", "metadata", "labels"]);
    if selector::validate(spec, labels, &path.child("selector"), report) == Some(false) {
        let labels = path.child("template").child("metadata").child("labels");
        report.invalid(&labels, "the selector does not match them");
    }
}

/// Judges the number of Machines.
pub(super) fn judge_replicas(spec: &Object, path: &FieldPath, report: &mut Report) {
    match spec.get("replicas") {
        None | Some(Value::Null) => report.required(path, "must be set"),
        Some(replicas) if replicas.as_i64().is_some_and(|n| n < 0) => {
            report.invalid(path, format!("{replicas} must not be negative"));
        }
        Some(_) => {}
    }
}

/// Judges the template in `spec` as a Machine of its would be.
pub(super) fn judge_template(
    spec: &Object,
    path: &FieldPath,
    settings: &AdmissionSettings,
    report: &mut Report,
    policy: &mut Report,
) {
    let template = object_at(spec, &["template"]);
    let of_machine = template.and_then(|template| template.get("spec"));
    validate_spec(of_machine, &path.child("spec"), settings, report, policy);
    let labels = template.and_then(|template| object_at(template, &["metadata", "labels"]));
    kubevirt::validate::labels(
        labels.into_iter().flatten().map(|(key, _)| key.as_str()),
        &path.child("metadata").child("labels"),
        report,
    );
}
