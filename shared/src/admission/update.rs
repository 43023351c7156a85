//! Validation of updates of a Machine: metadata and status may change, the spec may not.

use serde_json::Value;

use super::shape::{MACHINE, Shape};
use super::subject::Subject;
use super::validate::{inspect_spec, not_an_object};
use super::{AdmissionSettings, Author, bypass};
use crate::admission::template;
use crate::api::field::{FieldError, FieldPath, Report};

/// Validates the update of the Machine `old` to `new`, after [`super::mutate_update`].
///
/// Only changes are validated: stored values are never a reason to refuse, and a Machine that is being deleted always
/// passes. The spec must stay what typed clients see of it (`null`, absent, empty and zero are the same outside of
/// `providerSpec.value`, and differ inside), with three exceptions: a providerID is set where none was, the Node is
/// named like the Machine, or the bypass of immutability is used, which permits every change but that of a providerID.
/// Machinist's controller may also change values of the Node, which were validated with its MachineSet (ADR 011).
pub fn validate_update(old: &Value, new: &Value, author: Author, settings: &AdmissionSettings) -> Report {
    if !new.is_object() {
        return not_an_object();
    }
    let mut report = Report::new();
    if !is_deleting(new) {
        report.extend(new_faults(&MACHINE, old, new));
    }
    validate_spec_change(old, new, author, settings, &mut report);
    report
}

/// Whether an object is being deleted.
pub(super) fn is_deleting(object: &Value) -> bool {
    object
        .pointer("/metadata/deletionTimestamp")
        .is_some_and(|time| !time.is_null())
}

/// The shape errors of `new` that `old` does not have.
fn new_faults(shape: &Shape, old: &Value, new: &Value) -> Report {
    let (mut before, mut after) = (Report::new(), Report::new());
    shape.check(old, &FieldPath::default(), &mut before);
    shape.check(new, &FieldPath::default(), &mut after);
    after.errors.retain(|error| !before.errors.contains(error));
    after
        .warnings
        .retain(|warning| !before.warnings.contains(warning));
    after
}

/// Whether both say the same of the same thing, which may be elsewhere in its list by now.
fn is_same(one: &FieldError, other: &FieldError) -> bool {
    let path = |error: &FieldError| {
        let path = error.path.to_string();
        path.split(['[', ']'])
            .filter(|part| part.parse::<usize>().is_err())
            .collect::<String>()
    };
    (one.kind, &one.message) == (other.kind, &other.message) && path(one) == path(other)
}

/// The errors of `new`, by shape and by `validate`, without those that `old` has, too: stored values are never a reason to
/// refuse.
pub(super) fn only_new(
    shape: &Shape,
    old: Option<&Subject<'_>>,
    new: &Subject<'_>,
    validate: impl Fn(&Subject<'_>) -> Report,
) -> Report {
    let mut judged = validate(new);
    let mut report = Report::new();
    if let Some(old) = old {
        let before = validate(old);
        judged
            .errors
            .retain(|error| !before.errors.iter().any(|stored| is_same(stored, error)));
        judged
            .warnings
            .retain(|warning| !before.warnings.contains(warning));
        report = new_faults(shape, old.object(), new.object());
    } else {
        shape.check(new.object(), &FieldPath::default(), &mut report);
    }
    report.extend(judged);
    report
}

fn validate_spec_change(
    old: &Value,
    new: &Value,
    author: Author,
    settings: &AdmissionSettings,
    report: &mut Report,
) {
    if old.get("spec") == new.get("spec") {
        return;
    }
    let (mut before, mut after) = (bypass::spec(old), bypass::spec(new));
    let path = FieldPath::new("spec");
    let id = |spec: &Value| spec.get("providerID").cloned();
    match (id(&before), id(&after)) {
        (Some(was), Some(is)) if was != is => {
            report.forbidden(&path.child("providerID"), "is immutable once set");
            // Already reported; not to be reported again as a change.
            forget(&mut before, &["providerID"]);
            forget(&mut after, &["providerID"]);
        }
        (None, Some(_)) => forget(&mut after, &["providerID"]),
        _ => {}
    }
    let name = new.pointer("/metadata/name").filter(|name| name.is_string());
    if name.is_some() && after.pointer("/metadata/name") == name {
        forget(&mut before, &["metadata", "name"]);
        forget(&mut after, &["metadata", "name"]);
    }
    if before == after || (author == Author::SetController && is_in_place(&before, &after)) {
        return;
    }
    if bypass::permits(old, new) {
        // The author uses the bypass and gets a warning.
        let faults = inspect_spec(new, settings);
        report
            .warnings
            .extend(faults.errors.iter().map(ToString::to_string));
        report.warnings.extend(faults.warnings);
        return;
    }
    let mut changed = Vec::new();
    differences(&before, &after, &path, &mut changed);
    for path in changed {
        report.forbidden(
            &path,
            "a Machine's spec is immutable; create a new Machine, or change its MachineDeployment",
        );
    }
}

/// Whether the Machine of one spec becomes that of the other without a new virtual machine.
fn is_in_place(before: &Value, after: &Value) -> bool {
    let template = |spec: &Value| serde_json::json!({ "spec": spec });
    let name = |spec: &Value| spec.pointer("/metadata/name").cloned();
    name(before) == name(after) && template::equal_in_place(&template(before), &template(after))
}

/// Removes a key from a normalized spec, and the object around it if it was the last one.
fn forget(spec: &mut Value, path: &[&str]) {
    let Some(((key, rest), map)) = path.split_first().zip(spec.as_object_mut()) else {
        return;
    };
    if rest.is_empty() {
        map.remove(*key);
    } else if let Some(inner) = map.get_mut(*key) {
        forget(inner, rest);
        if inner.as_object().is_some_and(serde_json::Map::is_empty) {
            map.remove(*key);
        }
    }
}

/// Paths of the deepest fields in which two values differ. A list is one field, and so is an object of several fields
/// that was added or removed as a whole.
fn differences(old: &Value, new: &Value, path: &FieldPath, found: &mut Vec<FieldPath>) {
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        if old != new {
            found.push(path.clone());
        }
        return;
    };
    for (key, value) in before.iter().filter(|(key, _)| !after.contains_key(*key)) {
        found.push(only_field(value, path.child(key)));
    }
    for (key, value) in after {
        match before.get(key) {
            Some(was) => differences(was, value, &path.child(key), found),
            None => found.push(only_field(value, path.child(key))),
        }
    }
}

/// Descends into objects that have only one field.
fn only_field(value: &Value, path: FieldPath) -> FieldPath {
    let mut fields = value.as_object().into_iter().flatten();
    match (fields.next(), fields.next()) {
        (Some((key, value)), None) => only_field(value, path.child(key)),
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::super::mutate_update;
    use super::*;
    use crate::api::names::annotation::{BYPASS_IMMUTABILITY, SPEC_CHANGE};

    fn machine(spec: &Value, annotations: &Value) -> Value {
        json!({"metadata": {"name": "m", "uid": "u", "annotations": annotations}, "spec": spec})
    }

    /// Through both steps, as the API server does; what is stored, and the errors' paths.
    fn update(old: &Value, new: &Value) -> (Value, Vec<String>) {
        let stored = mutate_update(old, new);
        let report = validate_update(old, &stored, Author::Person, &AdmissionSettings::default());
        (stored, report.errors.iter().map(|e| e.path.to_string()).collect())
    }

    #[rstest]
    #[case::nothing(json!({"versions": {"kubelet": "1"}}), &[])]
    #[case::another_version(json!({"versions": {"kubelet": "2"}}), &["spec.versions.kubelet"])]
    #[case::a_version_gone(json!({}), &["spec.versions.kubelet"])]
    #[case::null_for_absent(json!({"versions": {"kubelet": "1"}, "taints": null}), &[])]
    #[case::an_unknown_key(json!({"versions": {"kubelet": "1"}, "foo": 1}), &[])]
    #[case::a_provider_id(json!({"versions": {"kubelet": "1"}, "providerID": "x"}), &[])]
    #[case::the_nodes_name(json!({"versions": {"kubelet": "1"}, "metadata": {"name": "m"}}), &[])]
    #[case::another_name(json!({"versions": {"kubelet": "1"}, "metadata": {"name": "n"}}), &["spec.metadata.name"])]
    #[case::a_wrong_type(json!({"versions": {"kubelet": "1"}, "taints": "x"}), &["spec.taints", "spec.taints"])]
    fn a_spec_may_change_in_few_ways(#[case] spec: Value, #[case] want: &[&str]) {
        let old = machine(&json!({"versions": {"kubelet": "1"}}), &json!(null));
        assert_eq!(update(&old, &machine(&spec, &json!(null))).1, want);
    }

    #[rstest]
    #[case::another_id(json!({"providerID": "y"}), true, &["spec.providerID"])]
    #[case::no_id(json!({}), false, &["spec.providerID"])]
    #[case::no_id_with_bypass(json!({}), true, &[])]
    fn a_provider_id_stays(#[case] spec: Value, #[case] bypass: bool, #[case] want: &[&str]) {
        let annotations = if bypass {
            json!({BYPASS_IMMUTABILITY: "true"})
        } else {
            json!({})
        };
        let old = machine(&json!({"providerID": "x"}), &json!(null));
        assert_eq!(update(&old, &machine(&spec, &annotations)).1, want);
    }

    #[test]
    fn the_way_around_opens_one_change_once() {
        let [a, b] = ["1", "2"].map(|v| json!({"versions": {"kubelet": v}}));
        let bypass = json!({BYPASS_IMMUTABILITY: "true"});
        let (stored, errors) = update(&machine(&a, &json!({})), &machine(&b, &bypass));
        assert!(errors.is_empty());
        let annotations = stored.pointer("/metadata/annotations").unwrap().clone();
        assert_eq!(
            annotations.as_object().unwrap().keys().collect::<Vec<_>>(),
            [SPEC_CHANGE]
        );

        // The trace is used up: neither the way back nor another change goes through with it.
        let (_, errors) = update(&stored, &machine(&a, &annotations));
        assert_eq!(errors, ["spec.versions.kubelet"]);
        // And any other write removes it.
        let (stored, errors) = update(&stored, &machine(&b, &annotations));
        assert!(errors.is_empty());
        assert_eq!(stored.pointer("/metadata/annotations"), Some(&json!({})));
    }

    #[rstest]
    #[case::a_label(json!({"metadata": {"labels": {"a": "b"}}}), true)]
    #[case::an_annotation(json!({"metadata": {"annotations": {"a": "b"}}}), true)]
    #[case::a_taint(json!({"taints": [{"key": "a", "effect": "NoSchedule"}]}), true)]
    #[case::a_version(json!({"versions": {"kubelet": "2"}}), false)]
    #[case::a_zone(json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "z"}}}), false)]
    #[case::a_setting_of_the_kubelet(
        json!({"metadata": {"annotations": {"v1.kubelet-config.machine-controller.kubermatic.io/MaxPods": "9"}}}), false)]
    #[case::a_label_and_a_version(json!({"metadata": {"labels": {"a": "b"}}, "versions": {"kubelet": "2"}}), false)]
    #[case::another_provider_id(json!({"metadata": {"labels": {"a": "b"}}, "providerID": "y"}), false)]
    fn values_of_the_node_are_changed_only_by_our_controller(#[case] change: Value, #[case] in_place: bool) {
        let old = machine(
            &json!({"versions": {"kubelet": "1"}, "providerID": "x", "taints": []}),
            &json!(null),
        );
        let mut new = old.clone();
        json_patch::merge(&mut new["spec"], &change);
        let settings = AdmissionSettings::default();
        let passes = |author| validate_update(&old, &mutate_update(&old, &new), author, &settings).is_ok();
        assert_eq!(passes(Author::SetController), in_place);
        assert!(!passes(Author::Person));
    }

    #[test]
    fn only_true_opens_and_any_value_goes() {
        let old = machine(&json!({"versions": {"kubelet": "1"}}), &json!({}));
        let new = machine(
            &json!({"versions": {"kubelet": "2"}}),
            &json!({BYPASS_IMMUTABILITY: "True"}),
        );
        let (stored, errors) = update(&old, &new);
        assert_eq!(errors, ["spec.versions.kubelet"]);
        assert_eq!(stored.pointer("/metadata/annotations"), Some(&json!({})));
    }

    #[test]
    fn what_is_stored_is_no_reason_to_refuse() {
        let old = machine(&json!({"taints": "x"}), &json!({}));
        let new = machine(&json!({"taints": "x"}), &json!({"a": "b"}));
        assert_eq!(update(&old, &new).1, [""; 0]);
    }

    #[test]
    fn a_deleting_machine_passes_unless_its_spec_changes() {
        let deleting = |mut machine: Value, status: Value| {
            machine["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            machine["status"] = status;
            machine
        };
        let old = machine(&json!({"versions": {"kubelet": "1"}}), &json!({}));
        let passes = deleting(old.clone(), json!("nonsense"));
        assert_eq!(update(&old, &passes).1, [""; 0]);
        let changed = deleting(machine(&json!({}), &json!({})), json!({}));
        assert_eq!(update(&old, &changed).1, ["spec.versions.kubelet"]);
    }
}
