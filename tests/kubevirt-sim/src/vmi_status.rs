//! The status of a VirtualMachineInstance, built up phase by phase.

use jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use crate::instance;
use crate::objects::{Condition, Times, condition, find_condition, list, stamp, text};
use crate::vm::phase;
use crate::vmi::{self, Power, VmiInputs, other};

/// The Ready condition of the next status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// The pod is ready.
    Yes,
    /// The guest is not up, or no longer.
    GuestNotRunning,
    /// The pod is on its way out.
    PodTerminating,
    /// There is no pod.
    PodNotExists,
}

/// The next status.
#[derive(Debug, Clone)]
pub struct Change {
    phase: String,
    ready: Option<Ready>,
    missing_claim: Option<String>,
    unschedulable: Option<String>,
    image_pull: Option<String>,
    provisioning: bool,
    evacuating: bool,
    migrating: bool,
    /// The new node; `None` if it does not change.
    node: Option<&'static str>,
}

impl Change {
    /// A phase without any condition.
    pub fn phase(phase: &str) -> Self {
        Self {
            phase: phase.to_owned(),
            ready: None,
            missing_claim: None,
            unschedulable: None,
            image_pull: None,
            provisioning: false,
            evacuating: false,
            migrating: false,
            node: None,
        }
    }

    /// With a Ready condition.
    #[must_use]
    pub fn ready(mut self, ready: Ready) -> Self {
        self.ready = Some(ready);
        self
    }

    /// A claim is not there.
    #[must_use]
    pub fn missing_claim(mut self, message: String) -> Self {
        self.ready = Some(Ready::PodNotExists);
        self.missing_claim = Some(message);
        self
    }

    /// The scheduler finds no node.
    #[must_use]
    pub fn unschedulable(mut self, message: String) -> Self {
        self.unschedulable = Some(message);
        self
    }

    /// A pod makes the scheduler choose where volumes are made.
    #[must_use]
    pub fn provisioning(mut self) -> Self {
        self.ready = Some(Ready::PodNotExists);
        self.provisioning = true;
        self
    }

    /// The launcher's image cannot be pulled.
    #[must_use]
    pub fn image_pull(mut self, message: String) -> Self {
        self.image_pull = Some(message);
        self
    }

    /// An eviction is under way.
    #[must_use]
    pub fn evacuating(mut self) -> Self {
        self.evacuating = true;
        self
    }

    /// A live migration is under way.
    #[must_use]
    pub fn migrating(mut self) -> Self {
        self.migrating = true;
        self
    }

    /// Runs on this node.
    #[must_use]
    pub fn on(mut self, node: &'static str) -> Self {
        self.node = Some(node);
        self
    }
}

/// Whether the Ready condition is True; nothing without one.
pub fn ready(vmi: &DynamicObject) -> Option<bool> {
    Some(find_condition(list(vmi, "/status/conditions"), "Ready")?["status"] == "True")
}

/// Reason of the Ready condition.
pub fn ready_reason(vmi: &DynamicObject) -> Option<&str> {
    find_condition(list(vmi, "/status/conditions"), "Ready")?["reason"].as_str()
}

/// Whether every disk is shared, so that the VMI can be live-migrated.
pub fn migratable(seen: &VmiInputs) -> bool {
    unshared(seen).is_none()
}

fn unshared<'a>(seen: &'a VmiInputs) -> Option<&'a str> {
    let shared = |pvc: &DynamicObject| {
        list(pvc, "/spec/accessModes")
            .iter()
            .any(|mode| mode == "ReadWriteMany")
    };
    let disk = seen
        .disks
        .iter()
        .find(|disk| !disk.pvc.as_deref().is_some_and(shared))?;
    Some(&disk.claim)
}

/// The status after a change. Fields that an earlier phase wrote stay.
pub fn after(seen: &VmiInputs, change: &Change, now: Timestamp) -> Value {
    let vmi = seen.vmi;
    let mut status = vmi
        .data
        .get("status")
        .filter(|status| status.is_object())
        .cloned()
        .unwrap_or(json!({}));
    if phase(vmi) != change.phase {
        let mut passed = list(vmi, "/status/phaseTransitionTimestamps").to_vec();
        passed.push(json!({"phase": change.phase, "phaseTransitionTimestamp": stamp(now)}));
        status["phaseTransitionTimestamps"] = Value::Array(passed);
    }
    status["phase"] = json!(change.phase);
    match change.phase.as_str() {
        "Pending" => pending(vmi, &mut status),
        "Scheduling" => scheduling(vmi, &mut status),
        "Scheduled" => scheduled(seen, &mut status),
        "Running" => running(seen, change, &mut status, now),
        _ => ended(&mut status),
    }
    let before = list(vmi, "/status/conditions");
    let conditions: Vec<Value> = conditions(seen, change, &status)
        .iter()
        .map(|condition| condition.json(before, now))
        .collect();
    if conditions.is_empty() {
        remove(&mut status, "conditions");
    } else {
        status["conditions"] = Value::Array(conditions);
    }
    status
}

fn remove(status: &mut Value, field: &str) {
    if let Some(map) = status.as_object_mut() {
        map.remove(field);
    }
}

/// UID of the launcher's pod: made of the VMI's, so that it need not be remembered.
fn pod_uid(vmi: &DynamicObject) -> String {
    let uid = vmi.uid().unwrap_or_default();
    let (head, rest) = uid.split_at_checked(8).unwrap_or((&uid, ""));
    format!("{}{rest}", head.chars().rev().collect::<String>())
}

fn pending(vmi: &DynamicObject, status: &mut Value) {
    let memory = instance::size(vmi).1;
    if let Some(topology) = vmi.data.pointer("/spec/domain/cpu").and_then(Value::as_object) {
        let known = ["cores", "sockets", "threads"].into_iter();
        let topology: serde_json::Map<_, _> = known
            .filter_map(|name| Some((name.to_owned(), topology.get(name)?.clone())))
            .collect();
        status["currentCPUTopology"] = Value::Object(topology);
    }
    status["guestOSInfo"] = json!({});
    status["memory"] = json!({"guestAtBoot": memory, "guestCurrent": memory, "guestRequested": memory});
    status["runtimeUser"] = json!(107);
    let owner = vmi
        .owner_references()
        .first()
        .map(|owner| owner.uid.clone())
        .unwrap_or_default();
    let generation = vmi
        .annotations()
        .get("kubevirt.io/vm-generation")
        .map_or("1", String::as_str);
    status["virtualMachineRevisionName"] = json!(format!("revision-start-vm-{owner}-{generation}"));
}

fn scheduling(vmi: &DynamicObject, status: &mut Value) {
    status["activePods"] = json!({pod_uid(vmi): ""});
    status["launcherContainerImageVersion"] = json!("registry.test/virt-launcher:v1");
    status["memory"]["memoryOverhead"] = json!("400Mi");
}

fn scheduled(seen: &VmiInputs, status: &mut Value) {
    status["activePods"] = json!({pod_uid(seen.vmi): seen.host});
    status["nodeName"] = json!(seen.host);
    status["qosClass"] = json!("Guaranteed");
    status["migrationTransport"] = json!("Unix");
    status["interfaces"] = json!([{"name": "default", "podInterfaceName": "eth0"}]);
    let mut volumes: Vec<Value> = list(seen.vmi, "/spec/volumes")
        .iter()
        .filter_map(|volume| Some(volume_status(seen, volume["name"].as_str()?)))
        .collect();
    volumes.sort_by_key(|volume| volume["name"].as_str().map(str::to_owned));
    status["volumeStatus"] = Value::Array(volumes);
}

fn volume_status(seen: &VmiInputs, name: &str) -> Value {
    let mut status = json!({"name": name, "target": ""});
    let disk = seen.disks.iter().find(|disk| disk.volume == name);
    if let Some(disk) = disk
        && let Some(pvc) = &disk.pvc
    {
        let mut info = json!({
            "claimName": disk.claim,
            "filesystemOverhead": "0.055",
            "volumeMode": text(pvc, "/spec/volumeMode").unwrap_or("Filesystem"),
        });
        // KubeVirt's schema takes no null.
        for (field, path) in [
            ("accessModes", "/spec/accessModes"),
            ("capacity", "/status/capacity"),
            ("requests", "/spec/resources/requests"),
        ] {
            if let Some(value) = pvc.data.pointer(path) {
                info[field] = value.clone();
            }
        }
        status["persistentVolumeClaimInfo"] = info;
    }
    status
}

/// What virt-handler says of the interfaces of a guest.
pub(crate) fn interfaces(seen: &VmiInputs) -> Value {
    let mut interfaces = vec![interface(seen)];
    if let Some(address) = &seen.faults.agent_address {
        interfaces.push(json!({
            "name": "bridged", "interfaceName": "eth1", "ipAddress": address, "ipAddresses": [address],
            "mac": simulated_mac(address), "infoSource": "domain, guest-agent",
        }));
    }
    Value::Array(interfaces)
}

fn running(seen: &VmiInputs, change: &Change, status: &mut Value, now: Timestamp) {
    status["interfaces"] = interfaces(seen);
    let before = text(seen.vmi, "/status/nodeName").unwrap_or(seen.host);
    let host = change.node.unwrap_or(before);
    status["nodeName"] = json!(host);
    status["activePods"] = json!({pod_uid(seen.vmi): host});
    if change.evacuating {
        status["evacuationNodeName"] = json!(host);
    } else {
        remove(status, "evacuationNodeName");
    }
    let state = seen.vmi.data.pointer("/status/migrationState");
    match (change.migrating, state) {
        (true, None) => {
            status["migrationState"] = json!({
                "sourceNode": before, "targetNode": other(before), "startTimestamp": stamp(now),
            });
        }
        (false, Some(state)) if state["completed"] != true => {
            status["migrationState"]["completed"] = json!(true);
            status["migrationState"]["endTimestamp"] = json!(stamp(now));
        }
        _ => {}
    }
}

fn interface(seen: &VmiInputs) -> Value {
    let known = text(seen.vmi, "/status/interfaces/0/ipAddress");
    let (address, mac) = match &seen.power {
        Power::Simulated => {
            let address = known.unwrap_or(seen.address);
            (Some(address), Some(simulated_mac(address)))
        }
        Power::Real(hardware) => {
            let hardware = hardware.as_ref();
            let address = hardware.and_then(|hardware| hardware.address.as_deref());
            (address.or(known), hardware.map(|hardware| hardware.mac.clone()))
        }
    };
    let mut interface = json!({"name": "default", "podInterfaceName": "eth0"});
    if seen.faults.no_ip {
        return interface;
    }
    if let Some(mac) = mac {
        interface["infoSource"] = json!("domain");
        interface["queueCount"] = json!(1);
        interface["mac"] = json!(mac);
    }
    if let Some(address) = address {
        interface["ipAddress"] = json!(address);
        interface["ipAddresses"] = json!([address]);
    }
    interface
}

fn simulated_mac(address: &str) -> String {
    let parts: Vec<u8> = address.split('.').filter_map(|part| part.parse().ok()).collect();
    let mac: Vec<String> = parts.iter().skip(1).map(|part| format!("{part:02x}")).collect();
    format!("02:00:00:{}", mac.join(":"))
}

fn ended(status: &mut Value) {
    remove(status, "evacuationNodeName");
    remove(status, "activePods");
}

fn conditions(seen: &VmiInputs, change: &Change, status: &Value) -> Vec<Condition> {
    let mut out: Vec<Condition> = change.ready.map(ready_condition).into_iter().collect();
    if let Some(message) = &change.missing_claim {
        out.push(condition(
            "PodScheduled",
            "False",
            "Unschedulable",
            message,
            Times::None,
        ));
        out.push(condition(
            "Synchronized",
            "False",
            "FailedPvcNotFound",
            message,
            Times::Transition,
        ));
    }
    let has_pod = !matches!(change.phase.as_str(), "" | "Pending");
    if (has_pod || change.provisioning) && seen.disks.iter().any(|disk| disk.is_data_volume) {
        let (status, reason, message) = if seen.disks.iter().all(vmi::Disk::is_filled) {
            ("True", "AllDVsReady", "All of the VMI's DVs are bound and ready")
        } else {
            ("False", "NotAllDVsReady", "Not all of the VMI's DVs are ready")
        };
        out.push(condition(
            "DataVolumesReady",
            status,
            reason,
            message,
            Times::None,
        ));
    }
    if change.provisioning {
        out.push(condition("Provisioning", "True", "", "", Times::None));
    }
    if let Some(message) = &change.unschedulable {
        out.push(condition(
            "PodScheduled",
            "False",
            "Unschedulable",
            message,
            Times::Transition,
        ));
    }
    if let Some(message) = &change.image_pull {
        out.push(condition(
            "Synchronized",
            "False",
            "ErrImagePull",
            message,
            Times::Transition,
        ));
    }
    if change.phase != "Running" {
        return out;
    }
    out.extend(handler_conditions(seen, status));
    // virt-api marks the VMI, and virt-controller reports the mark.
    if change.evacuating && text(seen.vmi, "/status/evacuationNodeName").is_some() {
        let message = "VMI is marked for eviction";
        out.push(condition(
            "EvictionRequested",
            "True",
            "EvictionRequested",
            message,
            Times::Both,
        ));
    }
    out
}

/// Types of the conditions that virt-handler writes.
pub(crate) const HANDLER_CONDITIONS: [&str; 3] = ["LiveMigratable", "AgentConnected", "Paused"];

/// The conditions that virt-handler writes on the VMI of a guest that runs.
pub(crate) fn handler_conditions(seen: &VmiInputs, status: &Value) -> Vec<Condition> {
    let mut out = vec![match unshared(seen) {
        Some(claim) => {
            let message = format!("cannot migrate VMI: PVC {claim} is not shared");
            condition(
                "LiveMigratable",
                "False",
                "DisksNotLiveMigratable",
                &message,
                Times::Transition,
            )
        }
        None => condition("LiveMigratable", "True", "", "", Times::Transition),
    }];
    // A real guest has no agent.
    if seen.power == Power::Simulated && status.pointer("/interfaces/0/ipAddress").is_some() {
        out.push(condition("AgentConnected", "True", "", "", Times::Probe));
    }
    if let Some(reason) = &seen.faults.paused {
        out.push(condition("Paused", "True", reason, "VMI was paused", Times::Both));
    }
    out
}

fn ready_condition(ready: Ready) -> Condition {
    let (reason, message) = match ready {
        Ready::Yes => return condition("Ready", "True", "", "", Times::Transition),
        Ready::GuestNotRunning => ("GuestNotRunning", "Guest VM is not reported as running"),
        Ready::PodTerminating => ("PodTerminating", "virt-launcher pod is terminating"),
        Ready::PodNotExists => ("PodNotExists", "virt-launcher pod has not yet been scheduled"),
    };
    condition("Ready", "False", reason, message, Times::Both)
}
