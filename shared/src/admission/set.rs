//! MachineSets: defaults and validation as of a MachineDeployment, as far as a MachineSet has the fields.

use serde_json::Value;

use super::pool::{default_replicas, default_template, validate_pool, validate_replicas};
use super::shape::SET;
use super::subject::Subject;
use super::update::is_deleting;
use super::{AdmissionSettings, Author, own_names};
use crate::admission::autoscaler;
use crate::api::ValueAt;
use crate::api::field::{FieldPath, Report};
use crate::api::names::annotation;
use crate::api::raw::{child, object_at_mut};
use crate::provider::MachineOwnerKind;

const POLICIES: [&str; 3] = ["Random", "Newest", "Oldest"];

/// Adds defaults to a MachineSet; `old` is the stored object, if this is an update. A MachineSet that is being deleted
/// is not changed.
///
/// Neither is an object that Machinist's controller writes: its template comes from a MachineDeployment, with that
/// one's defaults. A stored MachineSet without `replicas` stays without it, because the number of its Machines is
/// unknown.
pub fn mutate_set(old: Option<&Value>, raw: &Value, author: Author, settings: &AdmissionSettings) -> Value {
    let mut set = raw.clone();
    if is_deleting(raw) || author == Author::SetController {
        return set;
    }
    let Some(spec) = set
        .as_object_mut()
        .and_then(|root| object_at_mut(root, &["spec"]))
    else {
        return set;
    };
    let counted = |set: &Value| set.pointer("/spec/replicas").is_some_and(|n| !n.is_null());
    if old.is_none_or(counted) {
        default_replicas(old, raw, spec);
    }
    if let Some(template) = object_at_mut(spec, &["template", "spec"]) {
        default_template(old, template, settings);
    }
    if old.is_none() {
        let annotations = set
            .as_object_mut()
            .and_then(|root| child(child(root, "metadata")?, "annotations"));
        if let Some(annotations) = annotations {
            let dns = annotations.entry(annotation::CLUSTER_DNS);
            dns.or_insert_with(|| annotation::FIND_DNS.into());
        }
    }
    autoscaler::write(old, set, None)
}

/// Validates a MachineSet after [`mutate_set`]; `old` is the stored object, if this is an update. A MachineSet that is
/// being deleted always passes, and stored values are never a reason to refuse. Machinist's controller is refused only
/// for specs that cannot be rendered, or an adopted pool could not recover.
pub fn validate_set(
    old: Option<&Value>,
    new: &Value,
    author: Author,
    settings: &AdmissionSettings,
) -> Report {
    let subject = |object| Subject::new(object, ValueAt::TEMPLATE);
    validate_set_subject(old.map(subject).as_ref(), &subject(new), author, settings)
}

/// Validates a [`Subject`], whose decoded spec later checks reuse.
pub fn validate_set_subject(
    old: Option<&Subject<'_>>,
    new: &Subject<'_>,
    author: Author,
    settings: &AdmissionSettings,
) -> Report {
    let pool = (&*SET, MachineOwnerKind::Set);
    validate_pool(
        pool,
        old,
        new,
        author,
        settings,
        &|object, spec, report, policy| {
            let path = FieldPath::new("spec");
            own_names::warn_of_set(object, report);
            validate_replicas(spec, &path.child("replicas"), report);
            let delete_policy = spec.get("deletePolicy").and_then(Value::as_str);
            if let Some(found) = delete_policy.filter(|text| !text.is_empty() && !POLICIES.contains(text)) {
                policy.not_supported(&path.child("deletePolicy"), found, &POLICIES);
            }
            let ready = spec.get("minReadySeconds").and_then(Value::as_i64);
            if let Some(seconds) = ready.filter(|seconds| *seconds < 0) {
                let why = format!("{seconds} must not be negative");
                policy.invalid(&path.child("minReadySeconds"), why);
            }
            autoscaler::validate(object, policy);
        },
    )
}
