//! The capacity of a VM, as far as it is known without the infra cluster.

use serde_json::Value;

use super::spec::VirtualMachine;
use crate::api::config_var::ConfigVarString;
use crate::api::quantity;
use crate::provider::{Lookup, NodeCapacity};

/// Capacity of a VM: its own, or that of its instancetype. `instancetype` is the instancetype's `spec`, if known.
pub(super) fn capacity(
    vm: &VirtualMachine,
    lookup: &Lookup<'_>,
    instancetype: Option<&Value>,
) -> NodeCapacity {
    let mut known = NodeCapacity::new();
    let amount = |var: &ConfigVarString| {
        let text = var.resolve(lookup).ok()??;
        quantity::parse(&text)
            .is_some_and(|amount| amount > 0.0)
            .then_some(text)
    };
    if let Some(size) = amount(&vm.primary_disk.size) {
        known.insert("ephemeral-disk", Some(size));
    }
    if vm.instancetype.is_none() {
        let cpu = cores(vm, &amount);
        let found = [("cpu", cpu), ("memory", amount(&vm.memory))];
        known.extend(found.into_iter().filter(|(_, found)| found.is_some()));
        known.extend([("gpu-count", None), ("gpu-type", None)]);
    } else if let Some(found) = instancetype {
        known.extend(of_instancetype(found));
    }
    known
}

/// The guest's CPUs, rounded up.
fn cores(vm: &VirtualMachine, amount: &dyn Fn(&ConfigVarString) -> Option<String>) -> Option<String> {
    if vm.vcpu_cores > 0 {
        return Some(vm.vcpu_cores.to_string());
    }
    let cpus = quantity::parse(&amount(&vm.cpus)?)?;
    Some(format!("{:.0}", cpus.ceil()))
}

fn of_instancetype(spec: &Value) -> [(&'static str, Option<String>); 4] {
    let cpu = spec.pointer("/cpu/guest").and_then(Value::as_u64);
    let memory = spec.pointer("/memory/guest").and_then(Value::as_str);
    let gpus = spec.pointer("/gpus").and_then(Value::as_array);
    let gpus = gpus.filter(|gpus| !gpus.is_empty());
    // Device names on the infra cluster vary; in the guest, the vendor's device plugin has only one name.
    let vendor = gpus
        .and_then(|gpus| gpus.first()?.get("deviceName")?.as_str()?.split_once('/'))
        .map(|(vendor, _)| vendor)
        .filter(|vendor| ["nvidia.com", "amd.com"].contains(vendor));
    [
        ("cpu", cpu.filter(|n| *n > 0).map(|n| n.to_string())),
        (
            "memory",
            memory
                .filter(|text| quantity::parse(text).is_some())
                .map(str::to_owned),
        ),
        (
            "gpu-count",
            gpus.filter(|_| vendor.is_some())
                .map(|gpus| gpus.len().to_string()),
        ),
        ("gpu-type", vendor.map(|vendor| format!("{vendor}/gpu"))),
    ]
}
