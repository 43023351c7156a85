//! What MachineSets and MachineDeployments have in common: a template, and a selector that must match it.

use serde_json::Value;

use super::mutate::default_spec;
use super::subject::Subject;
use super::validate::{validate_provider_id, validate_spec, validate_startup_taints, warn_annotations};
use super::{AdmissionSettings, selector};
use crate::admission::template;
use crate::api::field::{FieldPath, Report};
use crate::api::raw::{Object, object_at};
use crate::provider::{MachineOwnerKind, Spec};
use crate::providers;

/// Adds defaults to the spec of a template; `old` is the stored object, if this is an update.
///
/// Defaults from outside the spec (the namespace of the VMs, topology) are part of the template, and a changed template
/// replaces every Machine. So an update takes them from `old` (absent stays absent), unless the fields that determine
/// them have changed.
pub(super) fn default_template(old: Option<&Value>, template: &mut Object, settings: &AdmissionSettings) {
    default_spec(template);
    let stored = old.and_then(|old| object_at(old.as_object()?, &["spec", "template", "spec"]));
    if let Some(provider) = providers::of_spec(template) {
        provider.add_defaults(template, stored, &settings.infra_namespace);
    }
}

/// Whether an update changes the template; every new object does.
pub(super) fn template_changed(old: Option<&Value>, new: &Value) -> bool {
    let template = |object: &Value| object.pointer("/spec/template").cloned().unwrap_or_default();
    old.is_none_or(|old| !template::equal(&template(old), &template(new)))
}

/// Validates the selector, which must match the template's labels.
pub(super) fn validate_selector(spec: &Object, path: &FieldPath, report: &mut Report) {
    let labels = object_at(spec, &["template", "metadata", "labels"]);
    if selector::validate(spec, labels, &path.child("selector"), report) == Some(false) {
        let labels = path.child("template").child("metadata").child("labels");
        report.invalid(&labels, "the selector does not match them");
    }
}

/// Validates the number of Machines.
pub(super) fn validate_replicas(spec: &Object, path: &FieldPath, report: &mut Report) {
    match spec.get("replicas") {
        None | Some(Value::Null) => report.required(path, "must be set"),
        Some(replicas) if replicas.as_i64().is_some_and(|n| n < 0) => {
            report.invalid(path, format!("{replicas} must not be negative"));
        }
        Some(_) => {}
    }
}

/// Validates the template in `spec` like one of its Machines. Returns the provider's part, as far as it could be
/// decoded.
pub(super) fn validate_template<'a>(
    subject: &'a Subject<'_>,
    spec: &Object,
    path: &FieldPath,
    settings: &AdmissionSettings,
    report: &mut Report,
    policy: &mut Report,
) -> Option<&'a dyn Spec> {
    let template = object_at(spec, &["template"]);
    let of_machine = template.and_then(|template| template.get("spec"));
    let cloud = validate_spec(subject, of_machine, &path.child("spec"), settings, report, policy);
    validate_provider_id(of_machine, None, &path.child("spec"), policy);
    let labels = template.and_then(|template| object_at(template, &["metadata", "labels"]));
    let provider = of_machine.and_then(Value::as_object).and_then(providers::of_spec);
    provider.unwrap_or(providers::DEFAULT).validate_labels(
        &mut labels.into_iter().flatten().map(|(key, _)| key.as_str()),
        &path.child("metadata").child("labels"),
        report,
    );
    let annotations = template.and_then(|template| template.get("metadata")?.get("annotations"));
    warn_annotations(annotations, &path.child("metadata"), report);
    validate_startup_taints(annotations, of_machine, &path.child("metadata"), policy);
    cloud
}

/// Validates the name of the owner of Machines of that template.
pub(super) fn validate_name(
    object: &Value,
    maker: MachineOwnerKind,
    cloud: Option<&dyn Spec>,
    report: &mut Report,
) {
    let name = object.pointer("/metadata/name").and_then(Value::as_str);
    if let (Some(name), Some(cloud)) = (name, cloud) {
        let path = FieldPath::new("metadata").child("name");
        cloud.validate_owner_name(name, maker, &path, report);
    }
}
