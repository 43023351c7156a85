//! The manifest of a row: a valid Machine, with the values of the row.

use serde_json::{Value, json};

use super::Row;
use crate::rules::machine;

const CLOUD: &str = "/spec/providerSpec/value/cloudProviderSpec";

/// Fields that may come from a Secret or ConfigMap; the others are plain JSON.
pub const VARS: &[&str] = &[
    "clusterName",
    "projectID",
    "virtualMachine.template.cpus",
    "virtualMachine.template.memory",
    "virtualMachine.template.primaryDisk.size",
    "virtualMachine.template.primaryDisk.storageClassName",
    "virtualMachine.template.primaryDisk.storageAccessType",
    "virtualMachine.template.primaryDisk.storageTarget",
    "virtualMachine.template.primaryDisk.osImage",
    "virtualMachine.template.primaryDisk.source",
    "virtualMachine.template.primaryDisk.pullMethod",
    "virtualMachine.template.primaryDisk.dataVolumeSecretRef",
    "virtualMachine.template.primaryDisk.extraHeadersSecretRef",
    "virtualMachine.template.secondaryDisks",
    "virtualMachine.dnsPolicy",
    "virtualMachine.enableNetworkMultiQueue",
    "affinity.nodeAffinityPreset.type",
    "affinity.nodeAffinityPreset.key",
    "affinity.nodeAffinityPreset.values",
    "topologySpreadConstraints",
];

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Inline, as plain JSON.
    Literal,
    /// `{value: …}`.
    Value,
    /// `{secretKeyRef: …}`, to a key that holds it.
    Secret,
    /// `{configMapKeyRef: …}`, to a key that holds it.
    ConfigMap,
}

impl Form {
    fn write(self, value: &Value) -> Value {
        match value {
            Value::Array(items) => items.iter().map(|item| self.write(item)).collect(),
            Value::Object(fields) => fields
                .iter()
                .map(|(key, field)| (key.clone(), self.write(field)))
                .collect(),
            Value::Null => Value::Null,
            scalar => self.write_scalar(scalar),
        }
    }

    fn write_scalar(self, scalar: &Value) -> Value {
        let text = scalar.as_str().map_or_else(|| scalar.to_string(), str::to_owned);
        // The value of each key is the key's name.
        let reference = json!({"namespace": "kube-system", "name": "values", "key": text});
        match self {
            Self::Literal => scalar.clone(),
            Self::Value if scalar.is_boolean() => json!({"value": scalar}),
            Self::Value => json!({"value": text}),
            Self::Secret => json!({"secretKeyRef": reference}),
            Self::ConfigMap => json!({"configMapKeyRef": reference, "value": null}),
        }
    }
}

impl Row {
    /// The Machine as kubectl sends it, with the values that may be references in that form.
    pub fn manifest(&self, form: Form) -> Value {
        let mut machine = machine();
        for (path, value) in &self.given {
            if path.starts_with('/') {
                put(&mut machine, path, value.clone());
                continue;
            }
            let value = if VARS.contains(path) {
                form.write(value)
            } else {
                value.clone()
            };
            put(
                &mut machine,
                &format!("{CLOUD}/{}", path.replace('.', "/")),
                value,
            );
        }
        machine
    }
}

/// Sets a value at a pointer, and creates missing objects on the path. `null` removes the value.
fn put(object: &mut Value, pointer: &str, value: Value) {
    let Some((parent, key)) = pointer.rsplit_once('/') else {
        return;
    };
    let mut place = object;
    for key in parent.split('/').skip(1) {
        if place[key].is_null() {
            place[key] = json!({});
        }
        place = &mut place[key];
    }
    let key = key.replace("~1", "/");
    if value.is_null() {
        if let Some(fields) = place.as_object_mut() {
            fields.remove(&key);
        }
    } else {
        place[key] = value;
    }
}
