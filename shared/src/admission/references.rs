//! The Secrets and ConfigMaps of the user cluster that an object makes the controller read.
//!
//! The controller can read all of them, but the author of the object cannot. A reference could reveal a Secret (for
//! example as the label of a VM), so the author must be allowed to read the referenced object.

use serde_json::Value;

use crate::api::ValueAt;
use crate::api::config_var::{KeyRef, RefKind};
use crate::api::field::FieldPath;
use crate::api::raw::{Object, any_case};

/// A reference, and the field that contains it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Like `….auth.kubeconfig.secretKeyRef`.
    pub path: FieldPath,
    /// The referenced key.
    pub key: KeyRef,
}

/// The references of `new` that `old` does not have in the same field, in any field of the provider's spec: whether a
/// field is used is decided elsewhere, and may change.
pub fn new_references(old: Option<&Value>, new: &Value, at: ValueAt) -> Vec<Reference> {
    let references = |object: &Value| {
        let mut found = Vec::new();
        if let Some(value) = object.pointer(at.pointer) {
            collect(value, &FieldPath::new(at.path), &mut found);
        }
        found
    };
    let before = old.map(references).unwrap_or_default();
    let mut found = references(new);
    found.retain(|reference| !before.contains(reference));
    found
}

fn collect(value: &Value, path: &FieldPath, found: &mut Vec<Reference>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let path = path.child(name);
                found.extend(reference(name, field).map(|key| Reference {
                    path: path.clone(),
                    key,
                }));
                collect(field, &path, found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                collect(item, &path.index(index), found);
            }
        }
        _ => {}
    }
}

/// A complete reference: with namespace, name and key, as [`crate::api::config_var`] reads it, in any letter case.
fn reference(name: &str, field: &Value) -> Option<KeyRef> {
    let kind = if name.eq_ignore_ascii_case("secretKeyRef") {
        RefKind::Secret
    } else if name.eq_ignore_ascii_case("configMapKeyRef") {
        RefKind::ConfigMap
    } else {
        return None;
    };
    let text = |fields: &Object, part| {
        let text = any_case(fields, part).and_then(Value::as_str)?;
        (!text.is_empty()).then(|| text.to_owned())
    };
    let fields = field.as_object()?;
    Some(KeyRef {
        kind,
        namespace: text(fields, "namespace")?,
        name: text(fields, "name")?,
        key: text(fields, "key")?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn machine(value: &Value) -> Value {
        json!({"spec": {"providerSpec": {"value": value}}})
    }

    fn secret(name: &str) -> Value {
        json!({"secretKeyRef": {"namespace": "n", "name": name, "key": "k"}})
    }

    fn found(old: Option<&Value>, new: &Value) -> Vec<(String, String)> {
        let shown = |reference: Reference| (reference.path.to_string(), reference.key.to_string());
        new_references(old, new, ValueAt::MACHINE)
            .into_iter()
            .map(shown)
            .collect()
    }

    #[test]
    fn every_reference_is_found_in_any_case_and_place() {
        let value = json!({
            "cloudProviderSpec": {
                "clusterName": secret("a"),
                "Auth": {"kubeconfig": {"ConfigMapKeyRef": {"Namespace": "n", "NAME": "b", "key": "k"}}},
                "virtualMachine": {"template": {"secondaryDisks": [{"size": secret("c")}]}},
            },
            "somewhere": {"else": [secret("d")]},
            "half": {"secretKeyRef": {"namespace": "n", "name": "e"}},
            "empty": {"secretKeyRef": {"namespace": "", "name": "e", "key": "k"}},
            "odd": {"secretKeyRef": ["e"]},
        });
        let mut found = found(None, &machine(&value));
        found.sort();
        let root = "spec.providerSpec.value";
        let want = [
            (
                format!("{root}.cloudProviderSpec.Auth.kubeconfig.ConfigMapKeyRef"),
                "key \"k\" of ConfigMap n/b",
            ),
            (
                format!("{root}.cloudProviderSpec.clusterName.secretKeyRef"),
                "key \"k\" of Secret n/a",
            ),
            (
                format!(
                    "{root}.cloudProviderSpec.virtualMachine.template.secondaryDisks[0].size.secretKeyRef"
                ),
                "key \"k\" of Secret n/c",
            ),
            (
                format!("{root}.somewhere.else[0].secretKeyRef"),
                "key \"k\" of Secret n/d",
            ),
        ];
        assert_eq!(found, want.map(|(path, key)| (path, key.to_owned())));
    }

    #[test]
    fn what_is_stored_at_the_same_place_is_not_new() {
        let old = machine(&json!({"cloudProviderSpec": {"clusterName": secret("a")}}));
        assert_eq!(found(Some(&old), &old), []);
        let moved = machine(&json!({"cloudProviderSpec": {"projectID": secret("a")}}));
        assert_eq!(found(Some(&old), &moved).len(), 1);
        let mut renamed = old.clone();
        renamed["spec"]["providerSpec"]["value"]["cloudProviderSpec"]["clusterName"] = secret("b");
        assert_eq!(found(Some(&old), &renamed).len(), 1);
    }

    #[test]
    fn a_template_has_its_own_path() {
        let value = json!({"x": secret("a")});
        let set = json!({"spec": {"template": {"spec": {"providerSpec": {"value": value}}}}});
        let found = new_references(None, &set, ValueAt::TEMPLATE);
        assert_eq!(
            found[0].path.to_string(),
            "spec.template.spec.providerSpec.value.x.secretKeyRef"
        );
    }
}
