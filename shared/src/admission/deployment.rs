//! MachineDeployments: defaults of the rollout, and the same defaults and verdicts on the template as on a Machine.

use serde_json::{Value, json};

use super::mutate::{default_cluster_namespace, default_spec, default_topology, has_own_labels, is_kubevirt};
use super::raw::{self, Object, child, object_at, object_at_mut};
use super::shape::{DEPLOYMENT, TEMPLATE};
use super::update::{is_deleting, new_faults};
use super::validate::{merge, not_an_object, validate_spec, warn_annotations};
use super::{AdmissionSettings, Author, selector};
use crate::field::{FieldPath, Report};
use crate::names::{annotation, label};
use crate::{kubevirt, syntax};

/// A MachineDeployment as it is to be stored; `old` is what is stored now, if it is an update. One that is being
/// deleted stays as it is.
///
/// Defaults that come from outside (the namespace of the VMs, topology) are part of the template, and a template that
/// changes rolls every Machine. So on an update they are taken from `old`, absent staying absent, unless the fields
/// that they follow from have changed.
pub fn mutate_deployment(old: Option<&Value>, raw: &Value, settings: &AdmissionSettings) -> Value {
    let mut deployment = raw.clone();
    if is_deleting(raw) {
        return deployment;
    }
    let Some(spec) = deployment
        .as_object_mut()
        .and_then(|root| object_at_mut(root, &["spec"]))
    else {
        return deployment;
    };
    default_rollout(spec);
    let Some(template) = object_at_mut(spec, &["template", "spec"]) else {
        return deployment;
    };
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
    deployment
}

fn default_rollout(spec: &mut Object) {
    let mut default = |key: &str, value: Value| {
        let field = spec.entry(key).or_insert(Value::Null);
        if field.is_null() {
            *field = value;
        }
    };
    default("replicas", json!(1));
    default("minReadySeconds", json!(0));
    default("revisionHistoryLimit", json!(1));
    default("progressDeadlineSeconds", json!(600));
    let Some(strategy) = child(spec, "strategy") else {
        return;
    };
    if strategy
        .get("type")
        .is_none_or(|t| t.is_null() || t.as_str() == Some(""))
    {
        strategy.insert("type".to_owned(), json!("RollingUpdate"));
    }
    if strategy.get("type").and_then(Value::as_str) != Some("RollingUpdate") {
        return;
    }
    let Some(rolling) = child(strategy, "rollingUpdate") else {
        return;
    };
    for (key, value) in [("maxSurge", 1), ("maxUnavailable", 0)] {
        if rolling.get(key).is_none_or(Value::is_null) {
            rolling.insert(key.to_owned(), json!(value));
        }
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

/// Judges a MachineDeployment after [`mutate_deployment`]; `old` is what is stored now, if it is an update. One that
/// is being deleted always passes, and what is stored already is no reason to refuse.
pub fn validate_deployment(old: Option<&Value>, new: &Value, settings: &AdmissionSettings) -> Report {
    if is_deleting(new) {
        return Report::new();
    }
    if !new.is_object() {
        return not_an_object();
    }
    let mut report = judge(new, settings, template_changed(old, new));
    if let Some(old) = old {
        let before = judge(old, settings, true);
        report.errors.retain(|error| !before.errors.contains(error));
        report
            .warnings
            .retain(|warning| !before.warnings.contains(warning));
        let shape = new_faults(&DEPLOYMENT, old, new);
        report.errors.splice(0..0, shape.errors);
        report.warnings.splice(0..0, shape.warnings);
    } else {
        let mut shape = Report::new();
        DEPLOYMENT.check(new, &FieldPath::default(), &mut shape);
        shape.extend(report);
        report = shape;
    }
    report
}

fn template_changed(old: Option<&Value>, new: &Value) -> bool {
    let template = |object: &Value| TEMPLATE.normal(object.pointer("/spec/template").unwrap_or(&Value::Null));
    old.is_none_or(|old| template(old) != template(new))
}

/// Everything but shapes.
fn judge(object: &Value, settings: &AdmissionSettings, with_template: bool) -> Report {
    let (mut report, mut policy, path) = (Report::new(), Report::new(), FieldPath::new("spec"));
    let empty = Object::new();
    let spec = match object.get("spec") {
        None | Some(Value::Null) => &empty,
        Some(Value::Object(spec)) => spec,
        Some(_) => return report,
    };
    let labels = object_at(spec, &["template", "metadata", "labels"]);
    if selector::validate(spec, labels, &path.child("selector"), &mut report) == Some(false) {
        let labels = path.child("template").child("metadata").child("labels");
        report.invalid(&labels, "the selector does not match them");
    }
    let name = object.pointer("/metadata/name").and_then(Value::as_str);
    if name.is_some_and(|name| name.len() > syntax::LABEL_MAX) {
        let why =
            "is longer than 63 characters; no infra cluster takes it as a label of the virtual machines";
        report.warn(&FieldPath::new("metadata.name"), why);
    }
    validate_replicas(spec, &path.child("replicas"), &mut report);
    validate_strategy(spec, &path.child("strategy"), &mut report);
    if with_template {
        let template = object_at(spec, &["template"]).and_then(|template| template.get("spec"));
        let path = path.child("template");
        validate_spec(template, &path.child("spec"), settings, &mut report, &mut policy);
        kubevirt::validate::labels(
            labels.into_iter().flatten().map(|(key, _)| key.as_str()),
            &path.child("metadata").child("labels"),
            &mut report,
        );
        warn_annotations(
            object.pointer("/spec/template/metadata/annotations"),
            &path.child("metadata"),
            &mut report,
        );
    }
    merge(report, policy, Author::Person)
}

fn validate_replicas(spec: &Object, path: &FieldPath, report: &mut Report) {
    match spec.get("replicas") {
        None | Some(Value::Null) => report.required(path, "must be set"),
        Some(replicas) if replicas.as_i64().is_some_and(|n| n < 0) => {
            report.invalid(path, format!("{replicas} must not be negative"));
        }
        Some(_) => {}
    }
}

fn validate_strategy(spec: &Object, path: &FieldPath, report: &mut Report) {
    let Some(strategy) = object_at(spec, &["strategy"]) else {
        return;
    };
    let kind = strategy.get("type").and_then(Value::as_str).unwrap_or_default();
    if kind != "RollingUpdate" {
        // The path as it has always been reported, capital T.
        report.not_supported(&path.child("Type"), kind, &["RollingUpdate"]);
        return;
    }
    let path = path.child("rollingUpdate");
    let Some(rolling) = object_at(strategy, &["rollingUpdate"]) else {
        return;
    };
    let resolved = |key: &str, report: &mut Report| {
        let (value, path) = (rolling.get(key).unwrap_or(&Value::Null), path.child(key));
        let amount = match value {
            Value::Null => return Some(0),
            // The shape has told.
            Value::String(text) => text.replace('%', "").parse::<i64>().ok(),
            other => Some(other.as_i64()?),
        };
        match amount {
            None => report.invalid(
                &path,
                format!("{value} is neither a number nor a percentage, like 1 or 25%"),
            ),
            Some(n) if n < 0 => report.invalid(&path, format!("{value} must not be negative")),
            Some(n) if n > 100 && value.is_string() && key == "maxUnavailable" => {
                report.invalid(&path, format!("{value} must not be more than 100%"));
            }
            Some(n) => return Some(n),
        }
        None
    };
    let (unavailable, surge) = (resolved("maxUnavailable", report), resolved("maxSurge", report));
    if (unavailable, surge) == (Some(0), Some(0)) {
        report.invalid(
            &path.child("maxUnavailable"),
            "must not be 0 when maxSurge is 0, or nothing could ever be replaced",
        );
    }
}
