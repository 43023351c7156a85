//! Region and zone of a Node from the StorageClass of its disk: a default that requires the infra cluster.

use serde_json::{Value, json};

use super::NAME;
use super::defaults::{has_own_labels, located, topology_source};
use crate::api::ValueAt;
use crate::api::field::{FieldPath, Report};
use crate::api::names::label;
use crate::api::raw::{Object, object_at, object_at_mut};
use crate::provider::named_by;

/// Where the spec of a Machine is.
fn keys(at: ValueAt) -> &'static [&'static str] {
    if at == ValueAt::MACHINE {
        &["spec"]
    } else {
        &["spec", "template", "spec"]
    }
}

fn is_ours(spec: &Object) -> bool {
    named_by(spec) == Some(NAME)
}

/// Warns of a location that no Node gets: its labels are added to, as machine-controller does, only where
/// `spec.metadata.labels` is there. The spec of a Machine is found at `path`.
pub(crate) fn warn_unlabelled(spec: &Object, path: &FieldPath, report: &mut Report) {
    if !is_ours(spec) || has_own_labels(spec) || located(spec).iter().all(Option::is_none) {
        return;
    }
    let keys = [
        "providerSpec",
        "value",
        "cloudProviderSpec",
        "virtualMachine",
        "location",
    ];
    let location = keys.iter().fold(path.clone(), |path, key| path.child(key));
    let labels = path.child("metadata").child("labels");
    report.warn(
        &location,
        format!("only the VM gets it, and neither the Node nor the cluster-autoscaler: for that, write {labels}, which may be empty"),
    );
}

/// Whether the StorageClass can add labels to the object: `spec.metadata.labels` exists, and the location leaves region
/// or zone unset. On an update, only if the fields that determine the labels have changed; otherwise they stay as
/// stored.
pub fn needed(old: Option<&Value>, new: &Value, at: ValueAt) -> bool {
    let spec_of = |object| object_at(Value::as_object(object)?, keys(at));
    let Some(spec) = spec_of(new).filter(|spec| is_ours(spec) && has_own_labels(spec)) else {
        return false;
    };
    let stored = old.and_then(spec_of);
    let is_new = old.is_none() || stored.is_none_or(|old| topology_source(old) != topology_source(spec));
    let has_class = topology_source(spec)[1].is_some_and(|class| !class.is_null());
    is_new && has_class && located(spec).iter().any(Option::is_none)
}

/// Whether all labels that the StorageClass can add exist. On an update they must differ from the previous ones, which
/// may be those of another StorageClass.
pub fn known(old: Option<&Value>, new: &Value, at: ValueAt) -> bool {
    let labels_of = |object: &Value| {
        let labels =
            object_at(object.as_object()?, keys(at)).and_then(|it| object_at(it, &["metadata", "labels"]))?;
        Some([label::REGION, label::ZONE].map(|key| labels.get(key).cloned()))
    };
    let labels = labels_of(new);
    let all = labels
        .as_ref()
        .is_some_and(|labels| labels.iter().all(Option::is_some));
    all && old.is_none_or(|old| labels_of(old) != labels)
}

/// Whether the object has the labels of its StorageClass.
pub fn is_written(object: &Value, at: ValueAt, found: (Option<String>, Option<String>)) -> bool {
    write(object.clone(), at, found) == *object
}

/// The object with region and zone of its StorageClass; the location takes precedence.
pub fn write(mut object: Value, at: ValueAt, (region, zone): (Option<String>, Option<String>)) -> Value {
    let spec: Option<&mut Object> = object
        .as_object_mut()
        .and_then(|root| object_at_mut(root, keys(at)));
    let Some(spec) = spec else {
        return object;
    };
    let located = located(spec);
    if let Some(labels) = object_at_mut(spec, &["metadata", "labels"]) {
        let found = [(label::REGION, region), (label::ZONE, zone)];
        for ((key, found), located) in found.into_iter().zip(located) {
            if let (Some(found), None) = (found, located) {
                labels.insert(key.to_owned(), json!(found));
            }
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn machine(labels: &Value, location: &Value, class: &Value) -> Value {
        json!({"spec": {"metadata": {"labels": labels}, "providerSpec": {"value": {
            "cloudProvider": "kubevirt",
            "cloudProviderSpec": {"virtualMachine": {
                "location": location, "template": {"primaryDisk": {"storageClassName": class}}}},
        }}}})
    }

    fn deployment(labels: &Value, location: &Value, class: &Value) -> Value {
        json!({"spec": {"template": machine(labels, location, class)}})
    }

    #[rstest]
    #[case::labels_and_no_location(json!({"a": "b"}), json!(null), json!("fast"), true)]
    #[case::an_empty_map(json!({}), json!(null), json!("fast"), true)]
    #[case::half_a_location(json!({"a": "b"}), json!({"region": "r"}), json!("fast"), true)]
    #[case::no_labels(json!(null), json!(null), json!("fast"), false)]
    #[case::a_location(json!({"a": "b"}), json!({"region": "r", "zone": "z"}), json!("fast"), false)]
    #[case::no_class(json!({"a": "b"}), json!(null), json!(null), false)]
    fn the_class_is_asked_for_what_the_location_leaves_open(
        #[case] labels: Value,
        #[case] location: Value,
        #[case] class: Value,
        #[case] want: bool,
    ) {
        let machine = machine(&labels, &location, &class);
        assert_eq!(needed(None, &machine, ValueAt::MACHINE), want);
    }

    #[rstest]
    #[case::no_labels(json!(null), json!({"zone": "z"}), true)]
    #[case::only_a_region(json!(null), json!({"region": "r"}), true)]
    #[case::an_empty_map(json!({}), json!({"zone": "z"}), false)]
    #[case::labels(json!({"a": "b"}), json!({"zone": "z"}), false)]
    #[case::no_location(json!(null), json!(null), false)]
    #[case::an_empty_location(json!(null), json!({"zone": ""}), false)]
    fn a_location_that_no_node_gets_is_reported(
        #[case] labels: Value,
        #[case] location: Value,
        #[case] want: bool,
    ) {
        let machine = machine(&labels, &location, &json!("fast"));
        let mut report = Report::new();
        warn_unlabelled(
            machine["spec"].as_object().unwrap(),
            &FieldPath::new("spec"),
            &mut report,
        );
        assert_eq!(!report.warnings.is_empty(), want, "{:?}", report.warnings);
    }

    #[rstest]
    #[case::nothing_changed(json!({"a": "b"}), json!("fast"), false)]
    #[case::another_label(json!({"a": "c"}), json!("fast"), false)]
    #[case::another_class(json!({"a": "b"}), json!("slow"), true)]
    fn on_an_update_only_another_class_or_location_asks(
        #[case] labels: Value,
        #[case] class: Value,
        #[case] want: bool,
    ) {
        let old = deployment(&json!({"a": "b"}), &json!(null), &json!("fast"));
        let new = deployment(&labels, &json!(null), &class);
        assert_eq!(needed(Some(&old), &new, ValueAt::TEMPLATE), want);
    }

    #[rstest]
    #[case::none(None, json!({}), false)]
    #[case::half(None, json!({label::ZONE: "z"}), false)]
    #[case::both(None, json!({label::ZONE: "z", label::REGION: "r"}), true)]
    #[case::as_before(Some(json!({label::ZONE: "z", label::REGION: "r"})), json!({label::ZONE: "z", label::REGION: "r"}), false)]
    #[case::others(Some(json!({label::ZONE: "y", label::REGION: "r"})), json!({label::ZONE: "z", label::REGION: "r"}), true)]
    fn labels_of_another_class_are_not_known_to_be_those_of_this(
        #[case] old: Option<Value>,
        #[case] labels: Value,
        #[case] want: bool,
    ) {
        let of = |labels: &Value| machine(labels, &json!(null), &json!("fast"));
        let old = old.as_ref().map(of);
        assert_eq!(known(old.as_ref(), &of(&labels), ValueAt::MACHINE), want);
    }

    #[test]
    fn what_a_class_gives_is_written_or_not() {
        let zone = || (None, Some("z".to_owned()));
        let of = |labels: Value, location: Value| machine(&labels, &location, &json!("fast"));
        let is = |machine: &Value, found| is_written(machine, ValueAt::MACHINE, found);
        assert!(is(&of(json!({label::ZONE: "z"}), json!(null)), zone()));
        assert!(!is(&of(json!({label::ZONE: "y"}), json!(null)), zone()));
        assert!(!is(&of(json!({}), json!(null)), zone()));
        assert!(is(&of(json!({}), json!({"zone": "of the author"})), zone()));
        assert!(is(&of(json!({label::ZONE: "y"}), json!(null)), (None, None)));
    }

    #[test]
    fn the_location_goes_before_the_class() {
        let found = (Some("of the class".to_owned()), Some("z1".to_owned()));
        let located = deployment(&json!({"a": "b"}), &json!({"region": "r"}), &json!("fast"));
        let written = write(located, ValueAt::TEMPLATE, found.clone());
        assert_eq!(
            written.pointer("/spec/template/spec/metadata/labels"),
            Some(&json!({"a": "b", label::ZONE: "z1"}))
        );
        let bare = machine(&json!(null), &json!(null), &json!("fast"));
        assert_eq!(write(bare.clone(), ValueAt::MACHINE, found), bare);
    }
}
