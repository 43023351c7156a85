//! What MachineSets and MachineDeployments have in common: a template, and a selector that must match it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::mutate::{default_spec, write_as_machine_controller};
use super::shape::Shape;
use super::subject::Subject;
use super::update::{is_deleting, only_new};
use super::validate::{
    merge, not_an_object, validate_annotations, validate_provider_id, validate_spec, validate_startup_taints,
};
use super::{AdmissionSettings, Author, autoscaler, own_names, selector};
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
    // It belongs to one Machine.
    template.remove("providerID");
    let value = |spec: &Object| object_at(spec, &["providerSpec", "value"]).cloned();
    let stored = old.and_then(|old| object_at(old.as_object()?, &["spec", "template", "spec"]));
    // A stored value stays until a user writes another one.
    if stored.is_none_or(|stored| value(stored) != value(template)) {
        write_as_machine_controller(template);
    }
    if let Some(provider) = providers::of_spec(template) {
        provider.add_defaults(template, stored, &settings.infra_namespace);
    }
}

/// Whether an update writes another template; every new object does. Even a template of which the same is made may have
/// another mistake in it.
pub(super) fn template_changed(old: Option<&Value>, new: &Value) -> bool {
    let template = |object: &Value| object.pointer("/spec/template").cloned().unwrap_or_default();
    old.is_none_or(|old| template(old) != template(new))
}

/// Validates the selector, which must match the template's labels.
pub(super) fn validate_selector(spec: &Object, path: &FieldPath, report: &mut Report) {
    let labels = object_at(spec, &["template", "metadata", "labels"]);
    if selector::validate(spec, labels, &path.child("selector"), report) == Some(false) {
        let labels = path.child("template").child("metadata").child("labels");
        report.invalid(&labels, "the selector does not match them");
    }
}

/// Fills in the number of Machines. Of a node group of the cluster-autoscaler it is the autoscaler's: a manifest without it
/// leaves what is stored, within the sizes, and a new group begins with the smallest.
pub(super) fn default_replicas(old: Option<&Value>, object: &Value, spec: &mut Object) {
    let replicas = spec.entry("replicas").or_insert(Value::Null);
    if !replicas.is_null() {
        return;
    }
    let stored = old.and_then(|old| old.pointer("/spec/replicas")?.as_i64());
    *replicas = match (autoscaler::sizes(object), stored) {
        (None, _) => Value::from(1),
        (Some(sizes), None) => Value::from(sizes.min),
        (Some(sizes), Some(stored)) => Value::from(stored.clamp(sizes.min, sizes.max)),
    };
}

/// Refuses another selector than is stored: the Machines that it does not select would be left without an owner.
pub(super) fn validate_selector_change(old: Option<&Value>, new: &Value, report: &mut Report) {
    let Some(old) = old else { return };
    let of = |object: &Value| selector::normal(object.pointer("/spec/selector").unwrap_or(&Value::Null));
    let (before, after) = (of(old), of(new));
    if !before.is_empty() && before != after {
        let path = FieldPath::new("spec").child("selector");
        let text = |selector: &BTreeSet<selector::Requirement>| {
            let texts: Vec<_> = selector.iter().map(ToString::to_string).collect();
            texts.join(", ")
        };
        report.forbidden(
            &path,
            format!(
                "{:?} must stay {:?}: the Machines that are there would be left without an owner. Make another \
                 object with the new selector, and delete this one when its Machines are ready",
                text(&after),
                text(&before)
            ),
        );
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

/// Rules that only one kind of pool has, of its object and spec: errors, and errors that are warnings for the controller.
type OwnRules<'a> = dyn Fn(&Value, &Object, &mut Report, &mut Report) + 'a;

/// Validates a MachineSet or MachineDeployment, whose Machines' names `owner` determines, by the common rules and `own_rules`.
pub(super) fn validate_pool(
    (shape, owner): (&Shape, MachineOwnerKind),
    old: Option<&Subject<'_>>,
    new: &Subject<'_>,
    author: Author,
    settings: &AdmissionSettings,
    own_rules: &OwnRules<'_>,
) -> Report {
    let object = new.object();
    if is_deleting(object) {
        return Report::new();
    }
    if !object.is_object() {
        return not_an_object();
    }
    let with_template = template_changed(old.map(Subject::object), object);
    let mut report = only_new(shape, old, new, |subject| {
        let object = subject.object();
        let (mut report, mut policy, path) = (Report::new(), Report::new(), FieldPath::new("spec"));
        let empty = Object::new();
        let spec = match object.get("spec") {
            None | Some(Value::Null) => &empty,
            Some(Value::Object(spec)) => spec,
            Some(_) => return report,
        };
        validate_selector(spec, &path, &mut report);
        own_rules(object, spec, &mut report, &mut policy);
        if with_template {
            let path = path.child("template");
            let cloud = validate_template(subject, spec, &path, settings, &mut report, &mut policy);
            validate_name(object, owner, cloud, &mut report);
        }
        merge(report, policy, author)
    });
    if author == Author::Person {
        validate_selector_change(old.map(Subject::object), object, &mut report);
    }
    report
}

/// Validates the template in `spec` like one of its Machines. Returns the provider's part, as far as it could be
/// decoded.
fn validate_template<'a>(
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
    let is_builtin = settings.is_builtin(subject.object());
    let metadata = path.child("metadata");
    validate_annotations(annotations, is_builtin, &metadata, report, policy);
    own_names::warn_of_machine(
        template.and_then(|template| template.get("metadata")),
        &metadata,
        report,
    );
    validate_startup_taints(annotations, of_machine, &path.child("metadata"), policy);
    cloud
}

/// Validates the name of the owner of Machines of that template.
fn validate_name(object: &Value, maker: MachineOwnerKind, cloud: Option<&dyn Spec>, report: &mut Report) {
    let name = object.pointer("/metadata/name").and_then(Value::as_str);
    if let (Some(name), Some(cloud)) = (name, cloud) {
        let path = FieldPath::new("metadata").child("name");
        cloud.validate_owner_name(name, maker, &path, report);
    }
}
