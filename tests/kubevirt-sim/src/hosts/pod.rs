//! Scheduler and kubelet: pods of launchers, importers and cloners from Pending to their removal.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use crate::faults::Faults;
use crate::objects::{Kind, deleting, find_condition, list, stamp, text};
use crate::options::Options;
use crate::plan::{Clock, Plan, Write};

/// The scheduler's annotation of a claim with the Node of its consumer.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// How long an importer works before it fails.
const FAILS_AFTER: Duration = Duration::from_millis(300);
/// How long a kubelet waits before it starts a failed container again. Real ones begin with ten seconds.
const BACK_OFF: Duration = Duration::from_secs(3);

/// The purpose of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// It runs a guest until that ends.
    Launcher,
    /// It fills a disk, or helps another that does.
    Transfer,
}

/// What a pod depends on.
#[derive(Debug)]
pub(crate) struct PodInputs<'a> {
    pub(crate) pod: &'a DynamicObject,
    /// The Node that it can go to.
    pub(crate) node: Option<String>,
    /// Its claims; `None` for one that does not exist.
    pub(crate) claims: Vec<Option<Arc<DynamicObject>>>,
    /// Whether the Secrets that it mounts are there.
    pub(crate) secrets: bool,
    /// Whether its guest has ended, or has moved to another Node.
    pub(crate) over: bool,
    pub(crate) faults: &'a Faults,
    pub(crate) options: &'a Options,
    pub(crate) address: &'a str,
}

/// The purpose of a pod.
pub(crate) fn work(pod: &DynamicObject) -> Work {
    match pod.labels().get("kubevirt.io").map(String::as_str) {
        Some(_) => Work::Launcher,
        None => Work::Transfer,
    }
}

/// The VMI of a launcher.
pub(crate) fn vmi_of(pod: &DynamicObject) -> Option<&str> {
    pod.annotations().get("kubevirt.io/domain").map(String::as_str)
}

/// Names of the claims that a pod mounts.
pub(crate) fn claim_names(pod: &DynamicObject) -> impl Iterator<Item = &str> {
    list(pod, "/spec/volumes")
        .iter()
        .filter_map(|volume| volume.pointer("/persistentVolumeClaim/claimName")?.as_str())
}

/// Names of the Secrets without which a pod does not start.
pub(crate) fn secret_names(pod: &DynamicObject) -> impl Iterator<Item = &str> {
    list(pod, "/spec/volumes")
        .iter()
        .filter(|volume| volume.pointer("/secret/optional") != Some(&json!(true)))
        .filter_map(|volume| volume.pointer("/secret/secretName")?.as_str())
}

/// Whether a pod takes up its Node.
pub(crate) fn is_there(pod: &DynamicObject) -> bool {
    !matches!(text(pod, "/status/phase"), Some("Succeeded" | "Failed"))
}

/// The next step of a pod.
pub(crate) fn sync(seen: &PodInputs, clock: &mut Clock, now: Timestamp) -> Plan {
    let phase = text(seen.pod, "/status/phase").unwrap_or("Pending");
    let bound = text(seen.pod, "/spec/nodeName").is_some();
    if deleting(seen.pod) {
        return terminate(seen, clock, now, bound && phase == "Running");
    }
    match phase {
        "Pending" if !bound => schedule(seen, now),
        "Pending" => start(seen, clock, now),
        "Running" => run(seen, clock, now),
        _ => Plan::idle(),
    }
}

fn schedule(seen: &PodInputs, now: Timestamp) -> Plan {
    let refused = |message: &str| {
        let scheduled = condition(
            seen.pod,
            "PodScheduled",
            "False",
            Some(("Unschedulable", message)),
            now,
        );
        let mut status = seen.pod.data["status"].clone();
        status["conditions"] = json!([scheduled]);
        Plan::status_or(Kind::Pod, seen.pod, status, Plan::idle())
    };
    // Importers of such a VM are scheduled nevertheless.
    if let (Some(message), Work::Launcher) = (&seen.faults.unschedulable, work(seen.pod)) {
        return refused(message);
    }
    let Some(node) = &seen.node else {
        return refused("0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules.");
    };
    for claim in &seen.claims {
        let Some(claim) = claim else {
            return refused("0/2 nodes are available: persistentvolumeclaim not found.");
        };
        if text(claim, "/status/phase") == Some("Bound") {
            continue;
        }
        if claim.annotations().get(SELECTED_NODE) == Some(node) {
            return Plan::idle();
        }
        let mut claim = DynamicObject::clone(claim);
        claim
            .annotations_mut()
            .insert(SELECTED_NODE.to_owned(), node.clone());
        return Plan::one(Write::Update(Kind::Pvc, claim));
    }
    Plan::one(Write::Bind(seen.pod.clone(), node.clone()))
}

fn start(seen: &PodInputs, clock: &mut Clock, now: Timestamp) -> Plan {
    let waiting = |reason: &str, message: &str| {
        let state = json!({"waiting": {"reason": reason, "message": message}});
        let status = status(seen, "Pending", &state, false, now);
        Plan::status_or(Kind::Pod, seen.pod, status, Plan::idle())
    };
    let launcher = work(seen.pod) == Work::Launcher;
    if let (Some(message), true) = (&seen.faults.image_pull, launcher) {
        return waiting("ErrImagePull", message);
    }
    if !seen.secrets {
        return waiting("ContainerCreating", "");
    }
    if launcher && let Some(wait) = clock.left("starting", seen.options.boot / 2) {
        return Plan::after(wait);
    }
    running(seen, now)
}

fn running(seen: &PodInputs, now: Timestamp) -> Plan {
    let since = started(seen.pod).unwrap_or_else(|| stamp(now));
    let state = json!({"running": {"startedAt": since}});
    let status = status(seen, "Running", &state, true, now);
    Plan::status_or(Kind::Pod, seen.pod, status, Plan::idle())
}

fn started(pod: &DynamicObject) -> Option<String> {
    text(pod, "/status/containerStatuses/0/state/running/startedAt").map(str::to_owned)
}

fn run(seen: &PodInputs, clock: &mut Clock, now: Timestamp) -> Plan {
    if work(seen.pod) == Work::Launcher {
        if seen.over {
            return ended(seen, now);
        }
        clock.since("running");
        return Plan::idle();
    }
    if let Some(message) = &seen.faults.import_failing {
        return fail(seen, message, clock, now);
    }
    match clock.left("working", seen.options.import) {
        Some(wait) => Plan::after(wait),
        // After this exit, CDI starts no other importer.
        None if seen.faults.import_failed => ended_saying(seen, r#"{"message": "checksum mismatch"}"#, now),
        None => ended(seen, now),
    }
}

/// The container works for a moment, fails, waits and works again.
fn fail(seen: &PodInputs, message: &str, clock: &mut Clock, now: Timestamp) -> Plan {
    let container = seen.pod.data.pointer("/status/containerStatuses/0");
    let container = container.cloned().unwrap_or_default();
    let mut restarts = container["restartCount"].as_u64().unwrap_or_default();
    let failed = json!({"terminated": {
        "exitCode": 1, "reason": "Error", "message": message, "startedAt": stamp(now), "finishedAt": stamp(now),
    }});
    let (lasts, state, ready) = if container["state"].get("running").is_some() {
        (FAILS_AFTER, failed.clone(), false)
    } else if container["state"].get("terminated").is_some() {
        let message = "back-off restarting failed container";
        let waiting = json!({"waiting": {"reason": "CrashLoopBackOff", "message": message}});
        (FAILS_AFTER, waiting, false)
    } else {
        restarts += 1;
        (BACK_OFF, json!({"running": {"startedAt": stamp(now)}}), true)
    };
    if let Some(wait) = clock.left(&container["state"].to_string(), lasts) {
        return Plan::after(wait);
    }
    let mut status = status(seen, "Running", &state, ready, now);
    for container in status["containerStatuses"].as_array_mut().into_iter().flatten() {
        container["restartCount"] = json!(restarts);
        container["lastState"] = failed.clone();
    }
    Plan::status_or(Kind::Pod, seen.pod, status, Plan::idle())
}

fn ended(seen: &PodInputs, now: Timestamp) -> Plan {
    // CDI reads it as JSON.
    ended_saying(seen, "{}", now)
}

fn ended_saying(seen: &PodInputs, message: &str, now: Timestamp) -> Plan {
    let state = json!({"terminated": {
        "exitCode": 0, "reason": "Completed", "message": message, "startedAt": stamp(now), "finishedAt": stamp(now),
    }});
    let status = status(seen, "Succeeded", &state, false, now);
    Plan::status_or(Kind::Pod, seen.pod, status, Plan::idle())
}

/// The kubelet ends the containers, and then the pod is gone.
fn terminate(seen: &PodInputs, clock: &mut Clock, now: Timestamp, runs: bool) -> Plan {
    if runs && work(seen.pod) == Work::Launcher {
        if !seen.over {
            let shutdown = seen.faults.slow_delete.unwrap_or(seen.options.shutdown);
            if let Some(wait) = clock.left("stopping", shutdown) {
                return Plan::after(wait);
            }
        }
        if let Some(wait) = seen.faults.slow_pod.and_then(|lasts| clock.left("ending", lasts)) {
            return Plan::after(wait);
        }
        return ended(seen, now);
    }
    Plan::one(Write::Delete(Kind::Pod, seen.pod.clone()))
}

fn status(seen: &PodInputs, phase: &str, state: &Value, ready: bool, now: Timestamp) -> Value {
    let mut status = seen.pod.data["status"].clone();
    let text = if ready { "True" } else { "False" };
    let reason = (!ready).then_some(match phase {
        "Succeeded" => ("PodCompleted", ""),
        _ => ("ContainersNotReady", ""),
    });
    status["phase"] = json!(phase);
    status["conditions"] = json!([
        condition(seen.pod, "PodScheduled", "True", None, now),
        condition(seen.pod, "Initialized", "True", None, now),
        condition(seen.pod, "ContainersReady", text, reason, now),
        condition(seen.pod, "Ready", text, reason, now),
    ]);
    if phase == "Running" {
        status["podIP"] = json!(seen.address);
        status["podIPs"] = json!([{"ip": seen.address}]);
        status["hostIP"] = json!("192.0.2.1");
    }
    let containers = list(seen.pod, "/spec/containers").iter().map(|container| {
        json!({
            "name": container["name"], "image": container["image"], "imageID": "", "ready": ready, "started": ready,
            "restartCount": 0, "state": state,
        })
    });
    status["containerStatuses"] = Value::Array(containers.collect());
    status
}

fn condition(
    pod: &DynamicObject,
    kind: &str,
    status: &str,
    reason: Option<(&str, &str)>,
    now: Timestamp,
) -> Value {
    let before = find_condition(list(pod, "/status/conditions"), kind);
    let time = match before.filter(|before| before["status"] == status) {
        Some(before) => before["lastTransitionTime"].clone(),
        None => json!(stamp(now)),
    };
    let mut condition = json!({"type": kind, "status": status, "lastTransitionTime": time});
    if let Some((reason, message)) = reason {
        condition["reason"] = json!(reason);
        if !message.is_empty() {
            condition["message"] = json!(message);
        }
    }
    condition
}
