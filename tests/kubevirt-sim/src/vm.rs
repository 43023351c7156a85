//! virt-controller's VM controller: disks, instances and finalizers, one step at a time.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use crate::data_volume;
use crate::instance::{self, CONTROLLER_FINALIZER};
use crate::instancetype::{Found, NotFound};
use crate::objects::{Kind, controlled_by, controller_of, deleting, object, text};
use crate::plan::{Plan, Write, with_status};
use crate::vm_status::{self, Failure, Start};

/// What a VM depends on.
#[derive(Debug)]
pub struct VmInputs<'a> {
    /// The VM.
    pub vm: &'a DynamicObject,
    /// Its VMI.
    pub vmi: Option<&'a DynamicObject>,
    /// Its templates, each with the DataVolume of that name.
    pub disks: Vec<(&'a Value, Option<Arc<DynamicObject>>)>,
    /// Its instancetype and preference.
    pub found: Result<Found, NotFound>,
}

/// virt-controller's in-memory state of a VM.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// RerunOnFailure: the guest has ended well and is not started again.
    pub finished: bool,
    /// The template's spec that the present VMI was started from.
    pub started_from: Option<Value>,
    /// The failure an Event was written for.
    reported: Option<String>,
}

/// `spec.runStrategy`, or what `spec.running` means.
pub fn run_strategy(vm: &DynamicObject) -> &str {
    match (
        text(vm, "/spec/runStrategy"),
        vm.data.pointer("/spec/running").and_then(Value::as_bool),
    ) {
        (Some(strategy), _) => strategy,
        (None, Some(true)) => "Always",
        (None, _) => "Halted",
    }
}

/// Phase of a VMI; empty before the first.
pub fn phase(vmi: &DynamicObject) -> &str {
    text(vmi, "/status/phase").unwrap_or_default()
}

/// Whether the guest has ended.
pub fn is_final(vmi: &DynamicObject) -> bool {
    matches!(phase(vmi), "Succeeded" | "Failed")
}

/// The VM controller's next step.
pub fn sync(seen: &VmInputs, memory: &mut Memory, now: Timestamp) -> Plan {
    if deleting(seen.vm) {
        return terminate(seen, now);
    }
    if text(seen.vm, "/status/printableStatus").is_none() {
        // Regardless of the run strategy, and before any other check.
        return Plan::one(with_status(
            Kind::Vm,
            seen.vm,
            json!({"printableStatus": "Stopped"}),
        ));
    }
    if !seen
        .vm
        .finalizers()
        .iter()
        .any(|name| name == CONTROLLER_FINALIZER)
    {
        return Plan::one(Write::Update(Kind::Vm, claimed(seen.vm)));
    }
    let disks = match &seen.found {
        Ok(_) => missing_disks(seen),
        Err(not_found) => {
            let failure = Failure {
                reason: not_found.reason,
                message: not_found.message.clone(),
            };
            return settle(seen, memory, Some(failure), Start::No, now);
        }
    };
    match disks {
        Err(failure) => return settle(seen, memory, Some(failure), Start::No, now),
        Ok(writes) if !writes.is_empty() => return Plan { writes, again: None },
        Ok(_) => {}
    }
    match seen.vmi {
        Some(vmi) => keep(seen, vmi, memory, now),
        None => start(seen, memory, now),
    }
}

fn claimed(vm: &DynamicObject) -> DynamicObject {
    let mut vm = vm.clone();
    vm.finalizers_mut().push(CONTROLLER_FINALIZER.to_owned());
    for name in ["latest", "storage"] {
        vm.annotations_mut().insert(
            format!("kubevirt.io/{name}-observed-api-version"),
            "v1".to_owned(),
        );
    }
    vm
}

/// The VM is deleted only after its VMI; the garbage collector deletes the disks.
fn terminate(seen: &VmInputs, now: Timestamp) -> Plan {
    if !seen
        .vm
        .finalizers()
        .iter()
        .any(|name| name == CONTROLLER_FINALIZER)
    {
        return Plan::idle();
    }
    match seen.vmi {
        None => {
            let mut vm = seen.vm.clone();
            vm.finalizers_mut().retain(|name| name != CONTROLLER_FINALIZER);
            Plan::one(Write::Update(Kind::Vm, vm))
        }
        Some(vmi) if !deleting(vmi) => stop(seen.vm, vmi),
        Some(_) => {
            let status = vm_status::of(seen, &Memory::default(), None, Start::No, now);
            Plan::status_or(Kind::Vm, seen.vm, status, Plan::idle())
        }
    }
}

fn stop(vm: &DynamicObject, vmi: &DynamicObject) -> Plan {
    let message = format!(
        "Stopped the virtual machine by deleting the virtual machine instance {}",
        vmi.uid().unwrap_or_default()
    );
    Plan::one(Write::Delete(Kind::Vmi, vmi.clone())).and(event(vm, "Normal", "SuccessfulDelete", message))
}

fn event(vm: &DynamicObject, class: &'static str, reason: &'static str, message: String) -> Write {
    Write::Event {
        kind: Kind::Vm,
        about: vm.clone(),
        class,
        reason,
        message,
    }
}

/// Creates the DataVolumes of all templates at once, and adopts those without an owner.
fn missing_disks(seen: &VmInputs) -> Result<Vec<Write>, Failure> {
    let mut writes = Vec::new();
    for (template, existing) in &seen.disks {
        let Some(existing) = existing else {
            if let Some(refusal) = data_volume::refusal(template) {
                return if writes.is_empty() {
                    Err(refused_disk(&refusal))
                } else {
                    Ok(writes)
                };
            }
            let disk = disk(seen.vm, template);
            let message = format!("Created DataVolume {}", disk.name_any());
            writes.push(Write::Create(Kind::DataVolume, disk));
            writes.push(event(seen.vm, "Normal", "SuccessfulDataVolumeCreate", message));
            continue;
        };
        if controller_of(existing).is_none() && !deleting(existing) {
            let mut adopted = DynamicObject::clone(existing);
            adopted
                .owner_references_mut()
                .push(controlled_by(Kind::Vm, seen.vm));
            writes.push(Write::Update(Kind::DataVolume, adopted));
        }
    }
    Ok(writes)
}

fn refused_disk(refusal: &str) -> Failure {
    Failure {
        reason: "FailedCreate",
        message: format!(
            "Error encountered while creating DataVolumes: failed to create DataVolume: admission webhook \
             \"datavolume-validate.cdi.kubevirt.io\" denied the request: {refusal}"
        ),
    }
}

fn disk(vm: &DynamicObject, template: &Value) -> DynamicObject {
    let name = template
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let spec = template.get("spec").cloned().unwrap_or_default();
    let mut disk = object(Kind::DataVolume, name, json!({"spec": spec}));
    let map = |field: &str| {
        let value = template
            .pointer(&format!("/metadata/{field}"))
            .cloned()
            .unwrap_or_default();
        serde_json::from_value(value).unwrap_or_default()
    };
    disk.metadata.annotations = map("annotations");
    disk.metadata.labels = map("labels");
    disk.labels_mut()
        .insert("kubevirt.io/created-by".to_owned(), vm.uid().unwrap_or_default());
    disk.metadata.owner_references = Some(vec![controlled_by(Kind::Vm, vm)]);
    disk
}

/// No VMI: starts one if the run strategy says so and the disks are ready.
fn start(seen: &VmInputs, memory: &mut Memory, now: Timestamp) -> Plan {
    let ready = seen.disks.iter().all(|(_, disk)| {
        disk.as_ref()
            .is_some_and(|disk| !deleting(disk) && data_volume::ready(disk))
    });
    let wanted = match run_strategy(seen.vm) {
        "Once" | "Always" => true,
        "RerunOnFailure" => !memory.finished,
        _ => false,
    };
    let refused = seen
        .disks
        .iter()
        .find_map(|(_, disk)| data_volume::refused_claim(disk.as_deref()?));
    if let Some(refused) = refused {
        let failure = Failure {
            reason: "FailedCreate",
            message: format!("Error encountered while creating DataVolumes: {refused}"),
        };
        return settle(seen, memory, Some(failure), Start::No, now);
    }
    if !ready || !wanted {
        return settle(seen, memory, None, Start::No, now);
    }
    if let Some(wait) = vm_status::back_off(seen.vm, now) {
        let mut plan = settle(seen, memory, None, Start::No, now);
        plan.again = Some(wait);
        return plan;
    }
    let found = seen.found.clone().unwrap_or_default();
    let vmi = match instance::render(seen.vm, &found) {
        Ok(vmi) => vmi,
        Err(refusal) => {
            let message = format!(
                "Failure while starting VMI: admission webhook \"virtualmachineinstances-create-validator.kubevirt.io\" \
                 denied the request: {refusal}"
            );
            let failure = Failure {
                reason: "FailedCreate",
                message,
            };
            return settle(seen, memory, Some(failure), Start::No, now);
        }
    };
    let plan = settle(seen, memory, None, Start::Expected, now);
    if !plan.writes.is_empty() {
        return plan;
    }
    memory.started_from = seen.vm.data.pointer("/spec/template/spec").cloned();
    let message = format!(
        "Started the virtual machine by creating the new virtual machine instance {}",
        seen.vm.name_any()
    );
    Plan::one(Write::Create(Kind::Revision, instance::revision(seen.vm)))
        .and(Write::Create(Kind::Vmi, vmi))
        .and(event(seen.vm, "Normal", "SuccessfulCreate", message))
}

/// There is a VMI: stops or replaces it where the run strategy says so.
fn keep(seen: &VmInputs, vmi: &DynamicObject, memory: &mut Memory, now: Timestamp) -> Plan {
    // The status is updated with the guest's exit (start failures) before the VMI is deleted.
    let plan = settle(seen, memory, None, Start::No, now);
    if !plan.writes.is_empty() || deleting(vmi) {
        return plan;
    }
    match (run_strategy(seen.vm), phase(vmi)) {
        ("Halted", _) | ("Always", "Succeeded" | "Failed") | ("RerunOnFailure", "Failed") => {
            stop(seen.vm, vmi)
        }
        ("RerunOnFailure", "Succeeded") => {
            memory.finished = true;
            stop(seen.vm, vmi)
        }
        _ => plan,
    }
}

/// Brings the status up to date.
fn settle(
    seen: &VmInputs,
    memory: &mut Memory,
    failure: Option<Failure>,
    start: Start,
    now: Timestamp,
) -> Plan {
    let status = vm_status::of(seen, memory, failure.as_ref(), start, now);
    let mut plan = Plan::status_or(Kind::Vm, seen.vm, status, Plan::idle());
    let message = failure.map(|failure| (failure.reason, failure.message));
    if let Some(("FailedCreate", message)) = &message
        && memory.reported.as_ref() != Some(message)
    {
        let disk = message.starts_with("Error encountered while creating DataVolumes");
        let reason = if disk {
            "FailedDataVolumeCreate"
        } else {
            "FailedCreate"
        };
        plan.writes
            .push(event(seen.vm, "Warning", reason, message.clone()));
    }
    memory.reported = message.map(|(_, message)| message);
    plan
}

/// How long the n-th failed start holds up the next one: 10·n² s, at most 300 s.
pub fn back_off_after(failures: u64) -> Duration {
    Duration::from_secs((10 * failures * failures).min(300))
}
