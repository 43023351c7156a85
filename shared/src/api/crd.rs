//! The CustomResourceDefinitions, generated from the API types.
//!
//! Their schemas only describe, for `kubectl explain`, and validate nothing. Schema validation runs between the
//! mutating and the validating step of admission; it would hide the list of all errors, prune legal keys, and refuse
//! the nulls that Go clients stored. So every object preserves unknown fields, everything is nullable, and nothing is
//! required or limited.

use schemars::JsonSchema;
use serde_json::{Map, Value, json};

use crate::api::names::{GROUP, VERSION};
use crate::api::schema::{self, single_type};
use crate::api::{Machine, MachineDeployment, MachineSet};

/// The three definitions: Machine, MachineSet, MachineDeployment.
pub fn all() -> [Value; 3] {
    [machine(), machine_set(), machine_deployment()]
}

/// Name of a definition's manifest in the chart, like `machines.yaml`.
pub fn file_name(crd: &Value) -> String {
    let plural = crd
        .pointer("/spec/names/plural")
        .and_then(Value::as_str)
        .unwrap_or_default();
    format!("{plural}.yaml")
}

fn machine() -> Value {
    let columns = [
        column("Phase", ".status.phase"),
        column("Ready", &condition("Ready", "status")),
        column("Reason", &condition("Ready", "reason")),
        column("Node", ".status.nodeRef.name"),
        column("Version", ".status.versions.kubelet"),
        age(),
        wide(column("Message", &condition("Ready", "message"))),
        wide(column("OS", ".spec.providerSpec.value.operatingSystem")),
        wide(column("Address", ".status.addresses[0].address")),
        wide(column("ProviderID", ".spec.providerID")),
        wide(column("Host", ".status.providerStatus.host")),
    ];
    let selectable = [
        ".status.phase",
        ".status.nodeRef.name",
        ".status.versions.kubelet",
    ];
    // There is no status subresource: the controller writes status together with finalizers and providerID.
    definition::<Machine>("Machine", "ma", &columns, &selectable, &Value::Null)
}

fn machine_set() -> Value {
    let mut columns = replica_columns();
    columns.extend([
        column("Owner", ".metadata.ownerReferences[0].name"),
        age(),
        wide(column("Reason", &condition("Ready", "reason"))),
        wide(column("Message", &condition("Ready", "message"))),
    ]);
    definition::<MachineSet>("MachineSet", "ms", &columns, &[], &scalable())
}

fn machine_deployment() -> Value {
    let mut columns = replica_columns();
    columns.insert(3, integer("Up-To-Date", ".status.updatedReplicas"));
    columns.extend([
        column("Rollout", &condition("Progressing", "reason")),
        age(),
        wide(column("Message", &condition("Progressing", "message"))),
    ]);
    definition::<MachineDeployment>("MachineDeployment", "md", &columns, &[], &scalable())
}

fn condition(kind: &str, field: &str) -> String {
    format!(r#".status.conditions[?(@.type=="{kind}")].{field}"#)
}

fn replica_columns() -> Vec<Value> {
    vec![
        integer("Desired", ".spec.replicas"),
        integer("Current", ".status.replicas"),
        integer("Ready", ".status.readyReplicas"),
        integer("Available", ".status.availableReplicas"),
    ]
}

fn age() -> Value {
    json!({ "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp" })
}

fn integer(name: &str, path: &str) -> Value {
    json!({ "name": name, "type": "integer", "jsonPath": path })
}

fn column(name: &str, path: &str) -> Value {
    json!({ "name": name, "type": "string", "jsonPath": path })
}

/// Only with `-o wide`.
fn wide(mut column: Value) -> Value {
    column["priority"] = json!(1);
    column
}

fn scalable() -> Value {
    json!({
        "status": {},
        "scale": {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.labelSelector",
        },
    })
}

fn definition<T: JsonSchema>(
    kind: &str,
    short: &str,
    columns: &[Value],
    selectable: &[&str],
    subresources: &Value,
) -> Value {
    let singular = kind.to_lowercase();
    let plural = format!("{singular}s");
    let mut version = json!({
        "name": VERSION,
        "served": true,
        "storage": true,
        "additionalPrinterColumns": columns,
        "schema": { "openAPIV3Schema": described::<T>() },
    });
    if !selectable.is_empty() {
        let fields = selectable.iter().map(|path| json!({ "jsonPath": path }));
        version["selectableFields"] = fields.collect();
    }
    if !subresources.is_null() {
        version["subresources"] = subresources.clone();
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.{GROUP}"),
            "annotations": {
                // The group is a protected Kubernetes group, so the API server requires this.
                "api-approved.kubernetes.io": "unapproved, legacy API",
                // Deleting the definitions would delete every Machine.
                "helm.sh/resource-policy": "keep",
            },
        },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": format!("{kind}List"),
                "plural": plural,
                "singular": singular,
                "shortNames": [short],
                "categories": ["machinist"],
            },
            "versions": [version],
        },
    })
}

fn described<T: JsonSchema>() -> Value {
    let mut root = describe(&schema::of::<T>());
    if let Some(root) = root.as_object_mut() {
        root.remove("nullable");
    }
    root
}

/// A reduced schema: description, type if there is exactly one, and nested schemas.
fn describe(schema: &Value) -> Value {
    let mut out = Map::from_iter([("nullable".to_owned(), json!(true))]);
    if let Some(description) = schema.get("description") {
        out.insert("description".to_owned(), description.clone());
    }
    if schema.get("x-kubernetes-int-or-string").is_some() {
        out.insert("x-kubernetes-int-or-string".to_owned(), json!(true));
        return Value::Object(out);
    }
    match single_type(schema) {
        Some("object") => {
            out.insert("type".to_owned(), json!("object"));
            out.insert("x-kubernetes-preserve-unknown-fields".to_owned(), json!(true));
            if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
                let properties = properties
                    .iter()
                    .map(|(key, value)| (key.clone(), describe(value)));
                out.insert("properties".to_owned(), properties.collect());
            }
        }
        Some("array") => {
            out.insert("type".to_owned(), json!("array"));
            out.insert(
                "items".to_owned(),
                describe(schema.get("items").unwrap_or(&Value::Null)),
            );
        }
        Some(scalar) => {
            out.insert("type".to_owned(), json!(scalar));
        }
        None => {
            out.insert("x-kubernetes-preserve-unknown-fields".to_owned(), json!(true));
        }
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn walk(schema: &Value, path: &str, visit: &mut dyn FnMut(&str, &Map<String, Value>)) {
        let object = schema.as_object().unwrap();
        visit(path, object);
        for (key, property) in object
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            walk(property, &format!("{path}.{key}"), visit);
        }
        if let Some(items) = object.get("items") {
            walk(items, &format!("{path}[]"), visit);
        }
    }

    #[test]
    fn schemas_describe_everything_and_judge_nothing() {
        for crd in all() {
            let schema = crd.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap();
            let mut fields = 0;
            walk(schema, "", &mut |path, field| {
                fields += 1;
                assert!(
                    path.ends_with("[]") || field.contains_key("description"),
                    "{path} has no description"
                );
                assert!(
                    path.is_empty() || field["nullable"] == true,
                    "{path} is not nullable"
                );
                let typed = field.contains_key("type") || field.contains_key("x-kubernetes-int-or-string");
                let open = field.contains_key("x-kubernetes-preserve-unknown-fields");
                assert!(typed || open, "{path} is not structural");
                assert!(
                    field.get("type") != Some(&json!("object")) || open,
                    "{path} is pruned"
                );
                let allowed = [
                    "description",
                    "nullable",
                    "type",
                    "properties",
                    "items",
                    "x-kubernetes-preserve-unknown-fields",
                    "x-kubernetes-int-or-string",
                ];
                assert!(
                    field.keys().all(|key| allowed.contains(&key.as_str())),
                    "{path} judges: {field:?}"
                );
            });
            assert!(fields > 40, "{} has only {fields} fields", file_name(&crd));
        }
    }

    #[rstest]
    #[case(0, &["Phase", "Ready", "Reason", "Node", "Version", "Age"], &["Message", "OS", "Address", "ProviderID", "Host"])]
    #[case(1, &["Desired", "Current", "Ready", "Available", "Owner", "Age"], &["Reason", "Message"])]
    #[case(2, &["Desired", "Current", "Ready", "Up-To-Date", "Available", "Rollout", "Age"], &["Message"])]
    fn columns_tell_what_is_wrong(#[case] index: usize, #[case] always: &[&str], #[case] wide: &[&str]) {
        let crd = &all()[index];
        let columns = crd.pointer("/spec/versions/0/additionalPrinterColumns");
        let columns = columns.and_then(Value::as_array).unwrap();
        let (hidden, shown): (Vec<_>, Vec<_>) = columns.iter().partition(|column| column["priority"] == 1);
        let names = |columns: Vec<&Value>| -> Vec<String> {
            let names = columns
                .iter()
                .map(|column| column["name"].as_str().unwrap().to_owned());
            names.collect()
        };
        assert_eq!(
            (names(shown), names(hidden)),
            (
                always.iter().map(|s| (*s).to_owned()).collect(),
                wide.iter().map(|s| (*s).to_owned()).collect()
            )
        );
    }

    #[test]
    fn only_sets_and_deployments_have_subresources() {
        let found = all().map(|crd| crd.pointer("/spec/versions/0/subresources").cloned());
        assert_eq!(found, [None, Some(scalable()), Some(scalable())]);
    }
}
