//! The status of a VirtualMachine, as a function of what virt-controller sees.

use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use crate::data_volume;
use crate::objects::{Condition, Times, condition, deleting, find_condition, list, stamp, text};
use crate::vm::{self, Memory, VmInputs, is_final, phase, run_strategy};

/// Why the last sync of the VM failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Reason of the condition.
    pub reason: &'static str,
    /// Message of the condition.
    pub message: String,
}

/// Whether a VMI is about to be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// In this very step.
    Expected,
    /// Not now.
    No,
}

/// The whole status. Fields that are false or empty are absent.
pub fn of(
    seen: &VmInputs,
    memory: &Memory,
    failure: Option<&Failure>,
    start: Start,
    now: Timestamp,
) -> Value {
    let vm = seen.vm;
    let mut status = json!({});
    let start_failure = start_failure(vm, seen.vmi, now);
    if let Some(start_failure) = &start_failure {
        status["startFailure"] = start_failure.clone();
    }
    status["printableStatus"] = json!(printable(seen, start, start_failure.is_some()));
    status["conditions"] = conditions(seen, memory, failure, now);
    // Once written, they stay, even without a VMI.
    for field in [
        "runStrategy",
        "observedGeneration",
        "desiredGeneration",
        "instancetypeRef",
        "preferenceRef",
    ] {
        if let Some(value) = vm.data.pointer(&format!("/status/{field}")) {
            status[field] = value.clone();
        }
    }
    if let Some(vmi) = seen.vmi {
        status["created"] = json!(true);
        status["runStrategy"] = json!(run_strategy(vm));
        status["desiredGeneration"] = json!(vm.metadata.generation.unwrap_or(1));
        let observed = vmi
            .annotations()
            .get("kubevirt.io/vm-generation")
            .and_then(|text| text.parse::<i64>().ok());
        status["observedGeneration"] = json!(observed.unwrap_or(1));
        if find_condition(list(vmi, "/status/conditions"), "Ready")
            .is_some_and(|ready| ready["status"] == "True")
        {
            status["ready"] = json!(true);
        }
    }
    if let Ok(found) = &seen.found {
        for (field, reference) in found.references(&vm.name_any()) {
            status[field] = reference;
        }
    }
    if run_strategy(vm) == "RerunOnFailure" && seen.vmi.is_some_and(|vmi| phase(vmi) == "Failed") {
        status["stateChangeRequests"] = json!([{"action": "Start"}]);
    }
    status
}

/// First match wins, in KubeVirt's order.
fn printable(seen: &VmInputs, start: Start, failed_start: bool) -> &'static str {
    let disks = || seen.disks.iter().filter_map(|(_, disk)| disk.as_deref());
    let disk_error = disks().any(data_volume::in_error);
    let provisioning = disks().any(|disk| text(disk, "/status/phase") != Some("Succeeded"));
    let retried = matches!(run_strategy(seen.vm), "Always" | "RerunOnFailure" | "Once");
    if deleting(seen.vm) {
        return "Terminating";
    }
    let ended = |vmi: &DynamicObject| {
        if is_final(vmi) && failed_start && retried {
            "CrashLoopBackOff"
        } else {
            "Stopped"
        }
    };
    let Some(vmi) = seen.vmi else {
        return match (disk_error, provisioning, start) {
            (true, ..) => "DataVolumeError",
            (_, true, _) => "Provisioning",
            (_, _, Start::Expected) => "Starting",
            _ if failed_start && retried => "CrashLoopBackOff",
            _ => "Stopped",
        };
    };
    let conditions = list(vmi, "/status/conditions");
    let says = |kind: &str, status: &str, reason: &str| {
        find_condition(conditions, kind)
            .is_some_and(|condition| condition["status"] == status && condition["reason"] == reason)
    };
    let migrating = vmi
        .data
        .pointer("/status/migrationState")
        .is_some_and(|state| state["completed"] != true);
    let paused = find_condition(conditions, "Paused").is_some_and(|paused| paused["status"] == "True");
    let running = phase(vmi) == "Running";
    match () {
        () if !is_final(vmi) && (deleting(vmi) || run_strategy(seen.vm) == "Halted") => "Stopping",
        () if running && migrating => "Migrating",
        () if running && paused => "Paused",
        () if running => "Running",
        () if says("Synchronized", "False", "FailedPvcNotFound") => "ErrorPvcNotFound",
        () if disk_error => "DataVolumeError",
        () if says("PodScheduled", "False", "Unschedulable") => "ErrorUnschedulable",
        () if provisioning => "Provisioning",
        () if says("Synchronized", "False", "ErrImagePull") => "ErrImagePull",
        () if says("Synchronized", "False", "ImagePullBackOff") => "ImagePullBackOff",
        () if !is_final(vmi) => "Starting",
        () => ended(vmi),
    }
}

fn conditions(seen: &VmInputs, memory: &Memory, failure: Option<&Failure>, now: Timestamp) -> Value {
    let before = list(seen.vm, "/status/conditions");
    let mut out = Vec::new();
    let own = |condition: Condition| condition.json(before, now);
    let of_vmi = seen
        .vmi
        .map(|vmi| list(vmi, "/status/conditions"))
        .unwrap_or_default();
    out.push(match (seen.vmi, find_condition(of_vmi, "Ready")) {
        (None, _) => own(condition(
            "Ready",
            "False",
            "VMINotExists",
            "VMI does not exist",
            Times::Both,
        )),
        (Some(_), None) => own(condition(
            "Ready",
            "False",
            "VMIConditionMissing",
            "VMI is missing the Ready condition",
            Times::Both,
        )),
        (Some(_), Some(ready)) => ready.clone(),
    });
    if let Some(Failure { reason, message }) = failure {
        out.push(own(condition(
            "Failure",
            "True",
            reason,
            message,
            Times::Transition,
        )));
    }
    out.extend(
        of_vmi
            .iter()
            .filter(|condition| condition["type"] != "Ready")
            .cloned(),
    );
    let changed = memory.started_from.as_ref().is_some_and(|from| {
        seen.vm
            .data
            .pointer("/spec/template/spec")
            .is_some_and(|spec| spec != from)
    });
    if changed && seen.vmi.is_some_and(|vmi| !is_final(vmi)) {
        let message = "a non-live-updatable field was changed in the template spec";
        out.push(own(condition(
            "RestartRequired",
            "True",
            "",
            message,
            Times::Transition,
        )));
    }
    Value::Array(out)
}

/// `status.startFailure`: counts guests that failed before they ever ran; a running guest clears it.
fn start_failure(vm: &DynamicObject, vmi: Option<&DynamicObject>, now: Timestamp) -> Option<Value> {
    let known = vm.data.pointer("/status/startFailure");
    let Some(vmi) = vmi else { return known.cloned() };
    let ran = list(vmi, "/status/phaseTransitionTimestamps")
        .iter()
        .any(|passed| passed["phase"] == "Running");
    if ran {
        return None;
    }
    let uid = vmi.uid().unwrap_or_default();
    let counted = known.is_some_and(|known| known["lastFailedVMIUID"] == uid);
    if phase(vmi) != "Failed" || counted {
        return known.cloned();
    }
    let count = known
        .and_then(|known| known["consecutiveFailCount"].as_u64())
        .unwrap_or(0)
        + 1;
    let retry = now + vm::back_off_after(count);
    Some(json!({
        "consecutiveFailCount": count, "lastFailedVMIUID": uid, "retryAfterTimestamp": stamp(retry),
    }))
}

/// How long the next start still has to wait.
pub fn back_off(vm: &DynamicObject, now: Timestamp) -> Option<Duration> {
    let retry: Timestamp = text(vm, "/status/startFailure/retryAfterTimestamp")?
        .parse()
        .ok()?;
    Duration::try_from(
        now.until(retry)
            .ok()?
            .to_duration(jiff::SpanRelativeTo::days_are_24_hours())
            .ok()?,
    )
    .ok()
    .filter(|wait| !wait.is_zero())
}
