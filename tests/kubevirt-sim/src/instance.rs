//! Creates a VirtualMachineInstance from a VirtualMachine, as virt-controller and virt-api do together.

use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use crate::instancetype::{Found, quantity, whole_cpus};
use crate::objects::{Kind, controlled_by, object};

/// Kept until virt-controller has seen the guest end.
pub const CONTROLLER_FINALIZER: &str = "kubevirt.io/virtualMachineControllerFinalize";
/// Kept until the launcher's pod is gone.
pub const FOREGROUND_FINALIZER: &str = "kubevirt.io/foregroundDeleteVirtualMachine";

/// Name of the ControllerRevision that a VMI is started from.
pub fn revision_name(vm: &DynamicObject) -> String {
    let generation = vm.metadata.generation.unwrap_or(1);
    format!("revision-start-vm-{}-{generation}", vm.uid().unwrap_or_default())
}

/// That ControllerRevision.
pub fn revision(vm: &DynamicObject) -> DynamicObject {
    let spec = vm.data.get("spec").cloned().unwrap_or_default();
    let content = json!({"data": {"spec": spec}, "revision": vm.metadata.generation.unwrap_or(1)});
    let mut revision = object(Kind::Revision, &revision_name(vm), content);
    revision.metadata.owner_references = Some(vec![controlled_by(Kind::Vm, vm)]);
    revision
}

/// The VMI, or why virt-api would refuse it.
pub fn render(vm: &DynamicObject, found: &Found) -> Result<DynamicObject, String> {
    let template = vm.data.pointer("/spec/template").cloned().unwrap_or_default();
    let mut spec = template.get("spec").cloned().unwrap_or(json!({}));
    found.apply(&mut spec);
    default_cpu(&mut spec);
    default_memory(&mut spec);
    add_missing_disks(&mut spec);
    let memory = ["/domain/memory/guest", "/domain/resources/requests/memory"];
    let given = |pointer: &&str| {
        let text = spec.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        quantity(text)
            .zip(quantity("0"))
            .is_some_and(|(given, zero)| given > zero)
    };
    if !memory.iter().any(given) && spec.pointer("/domain/memory/hugepages/pageSize").is_none() {
        return Err(
            "no memory requested, at least one of 'spec.domain.memory.guest', \
             'spec.domain.memory.hugepages.pageSize' or 'spec.domain.resources.requests.memory' must be set"
                .to_owned(),
        );
    }
    let mut vmi = object(Kind::Vmi, &vm.name_any(), json!({"spec": spec}));
    let map = |pointer: &str| {
        let value = template.pointer(pointer).cloned().unwrap_or_default();
        serde_json::from_value(value).unwrap_or_default()
    };
    vmi.metadata.labels = map("/metadata/labels");
    let mut annotations: std::collections::BTreeMap<String, String> =
        map("/metadata/annotations").unwrap_or_default();
    let generation = vm.metadata.generation.unwrap_or(1).to_string();
    annotations.insert("kubevirt.io/vm-generation".to_owned(), generation);
    annotations.extend(found.annotations());
    vmi.metadata.annotations = Some(annotations);
    vmi.metadata.owner_references = Some(vec![controlled_by(Kind::Vm, vm)]);
    vmi.metadata.finalizers = Some(vec![
        CONTROLLER_FINALIZER.to_owned(),
        FOREGROUND_FINALIZER.to_owned(),
    ]);
    Ok(vmi)
}

/// No topology given: as many sockets as CPUs are limited to, or requested.
fn default_cpu(spec: &mut Value) {
    let set = |name: &str| {
        spec.pointer(&format!("/domain/cpu/{name}"))
            .is_some_and(|value| *value != 0)
    };
    if set("cores") || set("sockets") || set("threads") {
        return;
    }
    let resource = |list: &str| match spec.pointer(&format!("/domain/resources/{list}/cpu")) {
        Some(Value::String(text)) => whole_cpus(text),
        Some(number) => number.as_u64(),
        None => None,
    };
    let sockets = resource("limits")
        .or_else(|| resource("requests"))
        .unwrap_or(1)
        .max(1);
    spec["domain"]["cpu"]["sockets"] = json!(sockets);
    spec["domain"]["cpu"]["cores"] = json!(1);
    spec["domain"]["cpu"]["threads"] = json!(1);
}

fn default_memory(spec: &mut Value) {
    if spec.pointer("/domain/memory/guest").is_none()
        && let Some(requested) = spec.pointer("/domain/resources/requests/memory").cloned()
    {
        spec["domain"]["memory"]["guest"] = requested;
    }
}

/// A volume without a disk gets one.
fn add_missing_disks(spec: &mut Value) {
    let names = |value: Option<&Value>| -> Vec<String> {
        let items = value.and_then(Value::as_array).into_iter().flatten();
        items
            .filter_map(|item| item["name"].as_str().map(str::to_owned))
            .collect()
    };
    let mut known = names(spec.pointer("/domain/devices/disks"));
    known.extend(names(spec.pointer("/domain/devices/filesystems")));
    let missing: Vec<_> = names(spec.get("volumes"))
        .into_iter()
        .filter(|name| !known.contains(name))
        .collect();
    for name in missing {
        let disks = &mut spec["domain"]["devices"]["disks"];
        if disks.is_null() {
            *disks = json!([]);
        }
        if let Some(disks) = disks.as_array_mut() {
            disks.push(json!({"name": name}));
        }
    }
}

/// Guest CPUs and memory of a VMI.
pub fn size(vmi: &DynamicObject) -> (u64, String) {
    let number = |name: &str| {
        let value = vmi
            .data
            .pointer(&format!("/spec/domain/cpu/{name}"))
            .and_then(Value::as_u64);
        value.unwrap_or(1).max(1)
    };
    let memory = vmi
        .data
        .pointer("/spec/domain/memory/guest")
        .and_then(Value::as_str)
        .unwrap_or("1Gi");
    (
        number("cores") * number("sockets") * number("threads"),
        memory.to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn vm(domain: &Value) -> DynamicObject {
        let spec = json!({"template": {
            "metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}},
            "spec": {"domain": domain, "volumes": [{"name": "v"}]},
        }});
        object(Kind::Vm, "a", json!({"spec": spec}))
    }

    #[rstest]
    #[case::requested(json!({"resources": {"requests": {"cpu": "1500m", "memory": "1Gi"}}}), json!({"sockets": 2, "cores": 1, "threads": 1}))]
    #[case::limited(json!({"resources": {"requests": {"memory": "1Gi"}, "limits": {"cpu": "3"}}}), json!({"sockets": 3, "cores": 1, "threads": 1}))]
    #[case::cores(json!({"cpu": {"cores": 4}, "resources": {"requests": {"memory": "1Gi"}}}), json!({"cores": 4}))]
    fn the_topology_of_the_guest(#[case] domain: Value, #[case] expected: Value) {
        let vmi = render(&vm(&domain), &Found::default()).unwrap();
        assert_eq!(vmi.data.pointer("/spec/domain/cpu"), Some(&expected));
    }

    #[test]
    fn the_instance_carries_the_templates_labels_and_a_disk_for_each_volume() {
        let vmi = render(&vm(&json!({"memory": {"guest": "1Gi"}})), &Found::default()).unwrap();
        assert_eq!(vmi.labels()["a"], "b");
        assert_eq!(vmi.annotations()["c"], "d");
        assert_eq!(vmi.annotations()["kubevirt.io/vm-generation"], "1");
        assert_eq!(
            vmi.data.pointer("/spec/domain/devices/disks"),
            Some(&json!([{"name": "v"}]))
        );
        assert_eq!(vmi.finalizers(), [CONTROLLER_FINALIZER, FOREGROUND_FINALIZER]);
    }

    #[rstest]
    #[case::none(json!({}))]
    #[case::zero(json!({"resources": {"requests": {"memory": "0"}}}))]
    fn an_instance_without_memory_is_refused(#[case] domain: Value) {
        assert!(
            render(&vm(&domain), &Found::default())
                .unwrap_err()
                .starts_with("no memory requested")
        );
    }
}
