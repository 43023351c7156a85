//! MachineSets: defaults and verdicts as on a MachineDeployment, as far as a set has the fields.

use serde_json::{Value, json};

use super::pool::{
    default_template, judge_name, judge_replicas, judge_selector, judge_template, template_changed,
};
use super::shape::SET;
use super::subject::Subject;
use super::update::{is_deleting, only_new};
use super::validate::{merge, not_an_object};
use super::{AdmissionSettings, Author};
use crate::admission::autoscaler;
use crate::api::ValueAt;
use crate::api::field::{FieldPath, Report};
use crate::api::raw::{Object, object_at_mut};
use crate::provider::MachineOwnerKind;

const POLICIES: [&str; 3] = ["Random", "Newest", "Oldest"];

/// A MachineSet as it is to be stored; `old` is what is stored now, if it is an update. One that is being deleted stays
/// as it is.
///
/// So does what our own controller writes: the template of a deployment, which has its defaults or shall do without.
/// A set without a number that is stored already stays without one: nobody knows how many Machines it has.
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
        let replicas = spec.entry("replicas").or_insert(Value::Null);
        if replicas.is_null() {
            *replicas = json!(1);
        }
    }
    if let Some(template) = object_at_mut(spec, &["template", "spec"]) {
        default_template(old, template, settings);
    }
    autoscaler::write(old, set, None)
}

/// Judges a MachineSet after [`mutate_set`]; `old` is what is stored now, if it is an update. One that is being deleted
/// always passes, and what is stored already is no reason to refuse. Our own controller is refused only for what
/// no Machine could be made of, or a pool that was taken over could not heal.
pub fn validate_set(
    old: Option<&Value>,
    new: &Value,
    author: Author,
    settings: &AdmissionSettings,
) -> Report {
    let subject = |object| Subject::new(object, ValueAt::TEMPLATE);
    judge_set(old.map(subject).as_ref(), &subject(new), author, settings)
}

/// The same of a MachineSet of which others will ask more.
pub fn judge_set(
    old: Option<&Subject<'_>>,
    new: &Subject<'_>,
    author: Author,
    settings: &AdmissionSettings,
) -> Report {
    let object = new.object();
    if is_deleting(object) {
        return Report::new();
    }
    if !object.is_object() {
        return not_an_object();
    }
    let with_template = template_changed(old.map(Subject::object), object);
    only_new(&SET, old, new, |subject| {
        judge(subject, author, settings, with_template)
    })
}

/// Everything but shapes.
fn judge(subject: &Subject<'_>, author: Author, settings: &AdmissionSettings, with_template: bool) -> Report {
    let object = subject.object();
    let (mut report, mut policy, path) = (Report::new(), Report::new(), FieldPath::new("spec"));
    let empty = Object::new();
    let spec = match object.get("spec") {
        None | Some(Value::Null) => &empty,
        Some(Value::Object(spec)) => spec,
        Some(_) => return report,
    };
    judge_selector(spec, &path, &mut report);
    judge_replicas(spec, &path.child("replicas"), &mut report);
    let delete_policy = spec.get("deletePolicy").and_then(Value::as_str);
    if let Some(found) = delete_policy.filter(|text| !text.is_empty() && !POLICIES.contains(text)) {
        policy.not_supported(&path.child("deletePolicy"), found, &POLICIES);
    }
    let ready = spec.get("minReadySeconds").and_then(Value::as_i64);
    if let Some(seconds) = ready.filter(|seconds| *seconds < 0) {
        policy.invalid(
            &path.child("minReadySeconds"),
            format!("{seconds} must not be negative"),
        );
    }
    autoscaler::judge(object, &mut policy);
    if with_template {
        let cloud = judge_template(
            subject,
            spec,
            &path.child("template"),
            settings,
            &mut report,
            &mut policy,
        );
        judge_name(object, MachineOwnerKind::Set, cloud, &mut report);
    }
    merge(report, policy, author)
}
