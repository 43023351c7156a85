//! Prints the CRDs of KubeVirt and of the two CDI kinds that machines need, as one JSON `List`.
//!
//! A program of its own, because the crate with KubeVirt's schemas is pinned to an older kube and takes minutes to
//! compile; the testbed runs it once and keeps what it printed.

use k8s_crds_kube_virt::{
    VirtualMachine, VirtualMachineInstance, VirtualMachineInstanceMigration,
    virtualmachineclusterinstancetypes::VirtualMachineClusterInstancetype,
    virtualmachineclusterpreferences::VirtualMachineClusterPreference,
    virtualmachineinstancetypes::VirtualMachineInstancetype,
    virtualmachinepreferences::VirtualMachinePreference,
};
use k8s_openapi_for_crds as _;
use kube_for_crds::CustomResourceExt;
use serde_json::{Value, json};

fn main() -> serde_json::Result<()> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": crds()?});
    serde_json::to_writer(std::io::stdout().lock(), &list)
}

fn crds() -> serde_json::Result<Vec<Value>> {
    Ok(vec![
        kubevirt::<VirtualMachine>(&["vm", "vms"], Status::Subresource, VM_COLUMNS)?,
        // KubeVirt serves no status subresource here: its own components write the status with the object.
        kubevirt::<VirtualMachineInstance>(&["vmi", "vmis"], Status::InObject, VMI_COLUMNS)?,
        kubevirt::<VirtualMachineInstanceMigration>(&["vmim", "vmims"], Status::Subresource, VMIM_COLUMNS)?,
        kubevirt::<VirtualMachineInstancetype>(&["vminstancetype", "vmf"], Status::InObject, &[])?,
        kubevirt::<VirtualMachineClusterInstancetype>(
            &["vmclusterinstancetype", "vmcf"],
            Status::InObject,
            &[],
        )?,
        kubevirt::<VirtualMachinePreference>(&["vmpref", "vmp"], Status::InObject, &[])?,
        kubevirt::<VirtualMachineClusterPreference>(&["vmcp"], Status::InObject, &[])?,
        cdi(
            "DataVolume",
            "datavolumes",
            "Namespaced",
            &["dv", "dvs"],
            DV_COLUMNS,
        ),
        cdi("StorageProfile", "storageprofiles", "Cluster", &[], &[]),
    ])
}

/// Where a kind's status is written.
#[derive(Clone, Copy)]
enum Status {
    Subresource,
    InObject,
}

/// Name, type and JSON path of a printer column.
type Column = (&'static str, &'static str, &'static str);

const AGE: Column = ("Age", "date", ".metadata.creationTimestamp");
const VM_COLUMNS: &[Column] = &[
    AGE,
    ("Status", "string", ".status.printableStatus"),
    ("Ready", "string", ".status.conditions[?(@.type=='Ready')].status"),
];
const VMI_COLUMNS: &[Column] = &[
    AGE,
    ("Phase", "string", ".status.phase"),
    ("IP", "string", ".status.interfaces[0].ipAddress"),
    ("NodeName", "string", ".status.nodeName"),
    ("Ready", "string", ".status.conditions[?(@.type=='Ready')].status"),
];
const VMIM_COLUMNS: &[Column] = &[
    ("Phase", "string", ".status.phase"),
    ("VMI", "string", ".spec.vmiName"),
];
const DV_COLUMNS: &[Column] = &[
    ("Phase", "string", ".status.phase"),
    ("Progress", "string", ".status.progress"),
    AGE,
];

/// The CRD of a generated type, as KubeVirt installs it.
fn kubevirt<K: CustomResourceExt>(
    short: &[&str],
    status: Status,
    columns: &[Column],
) -> serde_json::Result<Value> {
    let mut crd = serde_json::to_value(K::crd())?;
    let names = &mut crd["spec"]["names"];
    names["shortNames"] = json!(short);
    names["categories"] = json!(["all"]);
    let version = &mut crd["spec"]["versions"][0];
    drop_null_from_enums(&mut version["schema"]);
    kubevirt_conditions(&mut version["schema"]);
    keep_what_is_free(&mut version["schema"]);
    version["subresources"] = match status {
        Status::Subresource => json!({"status": {}}),
        Status::InObject => json!({}),
    };
    version["additionalPrinterColumns"] = printer_columns(columns);
    Ok(crd)
}

/// CDI's kinds have no crate, and its own webhook judges them, not the schema: every field is kept.
fn cdi(kind: &str, plural: &str, scope: &str, short: &[&str], columns: &[Column]) -> Value {
    let kept = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.cdi.kubevirt.io")},
        "spec": {
            "group": "cdi.kubevirt.io",
            "scope": scope,
            "names": {
                "kind": kind,
                "plural": plural,
                "singular": kind.to_lowercase(),
                "shortNames": short,
                "categories": ["all"],
            },
            "versions": [{
                "name": "v1beta1",
                "served": true,
                "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": kept, "status": kept}}},
                "subresources": {"status": {}},
                "additionalPrinterColumns": printer_columns(columns),
            }],
        },
    })
}

fn printer_columns(columns: &[Column]) -> Value {
    let column = |(name, kind, path): &Column| json!({"name": name, "type": kind, "jsonPath": path});
    columns.iter().map(column).collect()
}

/// The generator takes every `conditions` for metav1.Condition, which knows no `lastProbeTime` and wants a reason, a
/// message and a time. KubeVirt's own conditions have nullable times and require only type and status.
fn kubevirt_conditions(schema: &mut Value) {
    let path = "/openAPIV3Schema/properties/status/properties/conditions";
    let Some(conditions) = schema.pointer_mut(path) else {
        return;
    };
    let time = json!({"type": "string", "format": "date-time", "nullable": true});
    let text = json!({"type": "string"});
    conditions["items"] = json!({
        "type": "object",
        "properties": {
            "lastProbeTime": time, "lastTransitionTime": time,
            "message": text, "reason": text, "status": text, "type": text,
        },
        "required": ["status", "type"],
    });
}

/// `additionalProperties: true` keeps the keys of a template's metadata, but prunes what is below them, labels and
/// annotations included; KubeVirt's CRDs preserve all of it.
fn keep_what_is_free(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.get("additionalProperties") == Some(&Value::Bool(true)) {
                map.remove("additionalProperties");
                map.insert("x-kubernetes-preserve-unknown-fields".into(), Value::Bool(true));
            }
            map.values_mut().for_each(keep_what_is_free);
        }
        Value::Array(items) => items.iter_mut().for_each(keep_what_is_free),
        _ => {}
    }
}

/// schemars lists `null` among the values of an optional enum; a CRD must not, it says `nullable` beside.
fn drop_null_from_enums(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::Array(values)) = map.get_mut("enum") {
                values.retain(|value| !value.is_null());
            }
            map.values_mut().for_each(drop_null_from_enums);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_null_from_enums),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has_null_enum(schema: &Value) -> bool {
        match schema {
            Value::Object(map) => {
                map.get("enum")
                    .and_then(Value::as_array)
                    .is_some_and(|v| v.iter().any(Value::is_null))
                    || map.values().any(has_null_enum)
            }
            Value::Array(items) => items.iter().any(has_null_enum),
            _ => false,
        }
    }

    #[test]
    fn no_enum_lists_null_and_every_kind_is_there() {
        let crds = crds().unwrap();
        let kinds: Vec<_> = crds
            .iter()
            .map(|crd| crd["spec"]["names"]["kind"].as_str().unwrap())
            .collect();
        assert_eq!(kinds.len(), 9, "{kinds:?}");
        assert!(
            kinds.contains(&"VirtualMachine") && kinds.contains(&"DataVolume"),
            "{kinds:?}"
        );
        assert!(
            has_null_enum(&serde_json::to_value(VirtualMachine::crd()).unwrap()),
            "the rule is needed"
        );
        assert!(!crds.iter().any(has_null_enum));
    }
}
