//! virt-handler: guests of the VMIs of its Node, live migrations between Nodes, and the guests' shutdown.

use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use crate::faults::Crash;
use crate::objects::{Kind, deleting, list, stamp, text};
use crate::plan::{Clock, Plan, Write, with_status};
use crate::vm::phase;
use crate::vmi::{ENDS_AFTER, MIGRATION, VmiInputs};
use crate::vmi_status;

/// How soon a drain that was refused tries again.
const EVICT_INTERVAL: Duration = Duration::from_millis(300);

/// The next step of a VMI whose launcher is `pod`.
pub(crate) fn sync(seen: &VmiInputs, pod: Option<&DynamicObject>, clock: &mut Clock, now: Timestamp) -> Plan {
    let goes = |next: &str| write(seen, next, now);
    match phase(seen.vmi) {
        "Scheduled" if seen.faults.crash == Some(Crash::BeforeRunning) => goes("Failed"),
        "Scheduled" if deleting(seen.vmi) => goes("Succeeded"),
        "Scheduled" => match clock.left("scheduled", seen.options.boot / 2) {
            Some(wait) => Plan::after(wait),
            None => goes("Running"),
        },
        "Running" => run(seen, pod, clock, now),
        _ => Plan::idle(),
    }
}

fn run(seen: &VmiInputs, pod: Option<&DynamicObject>, clock: &mut Clock, now: Timestamp) -> Plan {
    let stays = write(seen, "Running", now);
    if !stays.writes.is_empty() {
        return stays;
    }
    if deleting(seen.vmi) || pod.is_some_and(deleting) {
        let shutdown = seen.faults.slow_delete.unwrap_or(seen.options.shutdown);
        return match clock.left("stopping", shutdown) {
            Some(wait) => Plan::after(wait),
            None => write(seen, "Succeeded", now),
        };
    }
    if let Some(plan) = migrate(seen, clock, now) {
        return plan;
    }
    if let (true, Some(pod)) = (evicts(seen), pod) {
        if let Some(wait) = clock.left("evicting", EVICT_INTERVAL) {
            return Plan::after(wait);
        }
        clock.since("evicted");
        return Plan::one(Write::Evict(pod.clone()));
    }
    let end = match (seen.faults.crash, seen.faults.power_off) {
        (Some(Crash::Running), _) => "Failed",
        (_, true) => "Succeeded",
        _ => return Plan::idle(),
    };
    match clock.left("ending", ENDS_AFTER) {
        Some(wait) => Plan::after(wait),
        None => write(seen, end, now),
    }
}

/// Whether the drain of its Node is still blocked.
fn evicts(seen: &VmiInputs) -> bool {
    seen.faults.evacuate
        && text(seen.vmi, "/status/evacuationNodeName").is_none()
        && seen.vmi.data.pointer("/status/migrationState/completed") != Some(&json!(true))
}

/// Both handlers' part of a live migration that virt-controller has prepared.
fn migrate(seen: &VmiInputs, clock: &mut Clock, now: Timestamp) -> Option<Plan> {
    let state = seen.vmi.data.pointer("/status/migrationState")?;
    let target = state["targetNode"].as_str().filter(|node| !node.is_empty())?;
    if state["completed"] == true || state["failed"] == true {
        return None;
    }
    let mut status = seen.vmi.data["status"].clone();
    let migration = &mut status["migrationState"];
    if state["targetNodeAddress"].as_str().is_none_or(str::is_empty) {
        migration["targetNodeAddress"] = json!("192.0.2.2");
        migration["targetNodeDomainDetected"] = json!(true);
    } else if state["startTimestamp"].is_null() {
        migration["startTimestamp"] = json!(stamp(now));
    } else if let Some(wait) = clock.left("migrating", MIGRATION) {
        return Some(Plan::after(wait));
    } else {
        migration["targetNodeDomainReadyTimestamp"] = json!(stamp(now));
        migration["endTimestamp"] = json!(stamp(now));
        migration["completed"] = json!(true);
        status["nodeName"] = json!(target);
        if let Some(status) = status.as_object_mut() {
            status.remove("evacuationNodeName");
        }
        let mut moved = seen.vmi.clone();
        moved
            .labels_mut()
            .insert("kubevirt.io/nodeName".to_owned(), target.to_owned());
        return Some(Plan::one(with_status(Kind::Vmi, &moved, status)));
    }
    Some(Plan::one(with_status(Kind::Vmi, seen.vmi, status)))
}

/// The status with virt-handler's fields of a guest; virt-controller writes the others.
fn write(seen: &VmiInputs, next: &str, now: Timestamp) -> Plan {
    let mut status = seen.vmi.data["status"].clone();
    if phase(seen.vmi) != next {
        let mut passed = list(seen.vmi, "/status/phaseTransitionTimestamps").to_vec();
        passed.push(json!({"phase": next, "phaseTransitionTimestamp": stamp(now)}));
        status["phaseTransitionTimestamps"] = Value::Array(passed);
        status["phase"] = json!(next);
    }
    if next == "Running" {
        status["interfaces"] = vmi_status::interfaces(seen);
        // These hosts have no SELinux. No migration begins unless the status reports that.
        status["selinuxContext"] = json!("none");
        let before = list(seen.vmi, "/status/conditions");
        let own = vmi_status::handler_conditions(seen, &status);
        let mut conditions: Vec<Value> = before
            .iter()
            .filter(|condition| {
                !vmi_status::HANDLER_CONDITIONS
                    .iter()
                    .any(|kind| condition["type"] == *kind)
            })
            .cloned()
            .collect();
        conditions.extend(own.iter().map(|condition| condition.json(before, now)));
        conditions.sort_by_key(|condition| {
            let known = before.iter().position(|old| old["type"] == condition["type"]);
            known.unwrap_or(usize::MAX)
        });
        status["conditions"] = Value::Array(conditions);
    }
    Plan::status_or(Kind::Vmi, seen.vmi, status, Plan::idle())
}
