//! Defaults from outside the spec: the namespace of its VMs, and the Node's region and zone.

use serde_json::{Value, json};

use super::NAME;
use crate::api::names::{annotation, label};
use crate::api::raw::{self, Object, child, object_at, object_at_mut, text};
use crate::provider::named_by;

/// Adds the defaults. On an update, they come from `stored`, the stored spec (absent stays absent), unless the fields
/// that determine them have changed.
pub(super) fn add(spec: &mut Object, stored: Option<&Object>, infra_namespace: &str) {
    if let Some(stored) = stored {
        keep(stored, spec, infra_namespace);
        return;
    }
    default_cluster_namespace(spec, infra_namespace);
    if has_own_labels(spec) {
        default_topology(spec);
    }
}

fn keep(stored: &Object, template: &mut Object, infra_namespace: &str) {
    if named_by(stored) != Some(NAME) {
        default_cluster_namespace(template, infra_namespace);
    } else if let Some(namespace) = object_at(stored, &["metadata", "annotations"])
        .and_then(|annotations| annotations.get(annotation::CLUSTER_NAMESPACE)?.as_str())
    {
        default_cluster_namespace(template, namespace);
    } else if let Some(annotations) = object_at_mut(template, &["metadata", "annotations"])
        && annotations.contains_key(annotation::CLUSTER_NAMESPACE)
    {
        annotations.insert(annotation::CLUSTER_NAMESPACE.to_owned(), json!(infra_namespace));
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
            // Values that the author sets count; unset ones stay as stored.
            if let (Some(value), true) = (value, labels.get(key).is_none_or(Value::is_null)) {
                labels.insert(key.to_owned(), value);
            }
        }
    }
}

/// The fields that determine topology labels: the location, and the StorageClass of the primary disk.
pub(super) fn topology_source(spec: &Object) -> [Option<&Value>; 2] {
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

/// Records the namespace of the VM on the Node.
fn default_cluster_namespace(spec: &mut Object, namespace: &str) {
    let annotations = child(spec, "metadata").and_then(|metadata| child(metadata, "annotations"));
    if let Some(annotations) = annotations {
        annotations.insert(annotation::CLUSTER_NAMESPACE.to_owned(), json!(namespace));
    }
}

/// Whether `spec.metadata.labels` exists, even if empty. Topology labels have always been added only then. A map with
/// only the operating system does not count: admission may have written it, and defaulting must be idempotent.
pub(super) fn has_own_labels(spec: &Object) -> bool {
    object_at(spec, &["metadata", "labels"])
        .is_some_and(|labels| labels.is_empty() || labels.keys().any(|key| key != label::OPERATING_SYSTEM))
}

/// Region and zone from the spec itself.
pub(super) fn located(spec: &Object) -> [Option<String>; 2] {
    object_at(spec, &["providerSpec", "value"])
        .and_then(|value| raw::any_case(value, "cloudProviderSpec")?.as_object())
        .and_then(|cloud| raw::any_case(cloud, "virtualMachine")?.as_object())
        .and_then(|vm| raw::any_case(vm, "location")?.as_object())
        .map(|location| ["region", "zone"].map(|key| text(location, key).map(str::to_owned)))
        .unwrap_or_default()
}

/// Labels of the Node from `virtualMachine.location`.
fn default_topology(spec: &mut Object) {
    let [region, zone] = located(spec);
    let Some(labels) = object_at_mut(spec, &["metadata", "labels"]) else {
        return;
    };
    for (key, value) in [(label::REGION, region), (label::ZONE, zone)] {
        if let Some(value) = value {
            labels.insert(key.to_owned(), json!(value));
        }
    }
}
