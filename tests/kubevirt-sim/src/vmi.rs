//! virt-controller's VMI controller and virt-handler: an instance from Pending to its removal.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::DynamicObject;

use crate::data_volume::Class;
use crate::faults::{Crash, Faults};
use crate::instance::{CONTROLLER_FINALIZER, FOREGROUND_FINALIZER};
use crate::objects::{Kind, deleting, list, text};
use crate::options::Options;
use crate::plan::{Clock, Plan, Write};
use crate::real::{GuestExit, Hardware};
use crate::vm::phase;
use crate::vmi_status::{self, Change, Ready};

/// The node of the infra cluster that launchers are scheduled to, unless it was the last one to be drained.
pub const NODE: &str = "node1";
/// Where they are scheduled to then.
const OTHER_NODE: &str = "node2";

/// Where a VM goes that leaves this node.
pub fn other(node: &str) -> &'static str {
    if node == NODE { OTHER_NODE } else { NODE }
}

/// From Running to Ready.
const READY_AFTER: Duration = Duration::from_millis(30);
/// From Ready to the shutdown of a guest with the fault `poweroff`.
pub(crate) const ENDS_AFTER: Duration = Duration::from_millis(200);
/// How long a live migration takes.
pub(crate) const MIGRATION: Duration = Duration::from_millis(500);

/// What a VMI depends on.
#[derive(Debug)]
pub struct VmiInputs<'a> {
    /// The VMI.
    pub vmi: &'a DynamicObject,
    /// Per claim of its volumes: name, DataVolume, PVC.
    pub disks: Vec<Disk>,
    /// Whether the Secret of its cloud-init volume is there (true without one).
    pub secret: bool,
    /// Faults of the VM.
    pub faults: &'a Faults,
    /// Timing.
    pub options: &'a Options,
    /// The node that it is scheduled to.
    pub host: &'a str,
    /// Address for the interface of a simulated guest.
    pub address: &'a str,
    /// The behavior of the guest.
    pub power: Power,
}

/// What decides when a running VMI ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Power {
    /// The simulator's options and faults.
    Simulated,
    /// A real guest; nothing is known of its hardware before it was switched on.
    Real(Option<Hardware>),
}

/// A claim that a VMI uses.
#[derive(Debug, Clone)]
pub struct Disk {
    /// Name of the volume.
    pub volume: String,
    /// Name of the claim.
    pub claim: String,
    /// Whether the volume names a DataVolume.
    pub is_data_volume: bool,
    /// How the StorageClass of the DataVolume makes volumes.
    pub class: Class,
    /// The DataVolume, if there is one.
    pub data_volume: Option<Arc<DynamicObject>>,
    /// The claim itself, if it exists.
    pub pvc: Option<Arc<DynamicObject>>,
}

impl Disk {
    /// Whether there is all of its data, on a volume of its own.
    pub fn is_filled(&self) -> bool {
        let Some(data_volume) = &self.data_volume else {
            return true;
        };
        let claim = self.pvc.as_deref();
        text(data_volume, "/status/phase") == Some("Succeeded")
            && claim.is_some_and(|claim| text(claim, "/status/phase") == Some("Bound"))
    }

    /// Whether the import waits for a pod that is not the launcher.
    fn needs_a_pod_first(&self) -> bool {
        !(self.is_filled() || self.class.csi && self.class.waits)
    }
}

/// The next step of a VMI.
pub fn sync(seen: &VmiInputs, clock: &mut Clock, now: Timestamp) -> Plan {
    let change = |change: Change| {
        Plan::status_or(
            Kind::Vmi,
            seen.vmi,
            vmi_status::after(seen, &change, now),
            Plan::idle(),
        )
    };
    let phase = phase(seen.vmi);
    if matches!(phase, "Succeeded" | "Failed") {
        return end(seen, clock, now);
    }
    if deleting(seen.vmi) && phase != "Running" {
        return change(Change::phase("Failed").ready(Ready::GuestNotRunning));
    }
    match phase {
        "" => change(Change::phase("Pending")),
        "Pending" => pending(seen, now),
        "Scheduling" => scheduling(seen, clock, now),
        "Scheduled" => scheduled(seen, clock, now),
        _ => running(seen, clock, now),
    }
}

/// Writes the status if it differs, and waits otherwise.
fn change_or(seen: &VmiInputs, change: &Change, now: Timestamp, otherwise: Plan) -> Plan {
    Plan::status_or(
        Kind::Vmi,
        seen.vmi,
        vmi_status::after(seen, change, now),
        otherwise,
    )
}

fn pending(seen: &VmiInputs, now: Timestamp) -> Plan {
    let missing = seen.disks.iter().find(|disk| disk.pvc.is_none());
    if let Some(disk) = missing {
        let namespace = seen.vmi.namespace().unwrap_or_default();
        let message = format!(
            "PVC {namespace}/{} does not exist, waiting for it to appear",
            disk.claim
        );
        return change_or(
            seen,
            &Change::phase("Pending").missing_claim(message),
            now,
            Plan::idle(),
        );
    }
    if seen.disks.iter().any(Disk::needs_a_pod_first) {
        // A pod for nothing but that: the volume is made where it is scheduled.
        let mut change = Change::phase("Pending").provisioning();
        if let Some(message) = &seen.faults.unschedulable {
            change = change.unschedulable(message.clone());
        }
        return change_or(seen, &change, now, Plan::idle());
    }
    change_or(
        seen,
        &Change::phase("Scheduling").ready(Ready::GuestNotRunning),
        now,
        Plan::idle(),
    )
}

fn scheduling(seen: &VmiInputs, clock: &mut Clock, now: Timestamp) -> Plan {
    let here = Change::phase("Scheduling").ready(Ready::GuestNotRunning);
    if let Some(message) = &seen.faults.unschedulable {
        clock.since("unschedulable");
        return change_or(seen, &here.unschedulable(message.clone()), now, Plan::idle());
    }
    if let Some(message) = &seen.faults.image_pull {
        clock.since("image pull");
        return change_or(seen, &here.image_pull(message.clone()), now, Plan::idle());
    }
    if !seen.disks.iter().all(Disk::is_filled) {
        // The pod is not scheduled before its claims are bound.
        clock.since("disks");
        return change_or(seen, &here, now, Plan::idle());
    }
    if !seen.secret {
        // The pod hangs in ContainerCreating, and KubeVirt does not report it.
        clock.since("no secret");
        return change_or(seen, &here, now, Plan::idle());
    }
    match clock.left("scheduling", seen.options.boot / 2) {
        Some(wait) => change_or(seen, &here, now, Plan::after(wait)),
        None => change_or(
            seen,
            &Change::phase("Scheduled").ready(Ready::GuestNotRunning),
            now,
            Plan::idle(),
        ),
    }
}

fn scheduled(seen: &VmiInputs, clock: &mut Clock, now: Timestamp) -> Plan {
    if seen.faults.crash == Some(Crash::BeforeRunning) {
        return change_or(
            seen,
            &Change::phase("Failed").ready(Ready::GuestNotRunning),
            now,
            Plan::idle(),
        );
    }
    match clock.left("scheduled", seen.options.boot / 2) {
        Some(wait) => Plan::after(wait),
        None => change_or(
            seen,
            &Change::phase("Running").ready(Ready::GuestNotRunning),
            now,
            Plan::idle(),
        ),
    }
}

fn running(seen: &VmiInputs, clock: &mut Clock, now: Timestamp) -> Plan {
    if let Power::Real(hardware) = &seen.power
        && let Some(plan) = end_of_real(seen, hardware.as_ref(), now)
    {
        return plan;
    }
    if deleting(seen.vmi) {
        let stopping = Change::phase("Running").ready(Ready::PodTerminating);
        let timeout = seen.faults.slow_delete.unwrap_or(seen.options.shutdown);
        return match clock.left("stopping", timeout) {
            Some(wait) => change_or(seen, &stopping, now, Plan::after(wait)),
            None => change_or(
                seen,
                &Change::phase("Succeeded").ready(Ready::PodTerminating),
                now,
                Plan::idle(),
            ),
        };
    }
    let ready = Change::phase("Running").ready(Ready::Yes);
    if vmi_status::ready(seen.vmi) != Some(true)
        && let Some(wait) = clock.left("running", READY_AFTER)
    {
        return Plan::after(wait);
    }
    if let Some(plan) = evacuation(seen, &ready, clock, now) {
        return plan;
    }
    let end = match (seen.faults.crash, seen.faults.power_off) {
        (Some(Crash::Running), _) => "Failed",
        (_, true) => "Succeeded",
        _ => {
            clock.since("ready");
            return change_or(seen, &ready, now, Plan::idle());
        }
    };
    match clock.left("ending", ENDS_AFTER) {
        Some(wait) => change_or(seen, &ready, now, Plan::after(wait)),
        None => change_or(
            seen,
            &Change::phase(end).ready(Ready::GuestNotRunning),
            now,
            Plan::idle(),
        ),
    }
}

/// A real guest ends when it does: virt-handler reports a guest that shut itself down as Succeeded, and one that panicked
/// or lost its process as Failed.
fn end_of_real(seen: &VmiInputs, hardware: Option<&Hardware>, now: Timestamp) -> Option<Plan> {
    let on = hardware.is_some_and(|hardware| hardware.end.is_none());
    let ready = if deleting(seen.vmi) {
        Ready::PodTerminating
    } else {
        Ready::GuestNotRunning
    };
    let next = match hardware.and_then(|hardware| hardware.end) {
        Some(GuestExit::Crashed) => "Failed",
        Some(GuestExit::PoweredOff) => "Succeeded",
        // Its power button was pressed.
        None if deleting(seen.vmi) && on => "Running",
        None if deleting(seen.vmi) => "Succeeded",
        None => return None,
    };
    let change = Change::phase(next).ready(ready);
    Some(change_or(seen, &change, now, Plan::idle()))
}

/// The launcher's pod is evicted from its node: what follows depends on the VMI's eviction strategy.
fn evacuation(seen: &VmiInputs, ready: &Change, clock: &mut Clock, now: Timestamp) -> Option<Plan> {
    if !seen.faults.evacuate {
        return None;
    }
    let migratable = vmi_status::migratable(seen);
    let strategy = text(seen.vmi, "/spec/evictionStrategy").unwrap_or("None");
    match strategy {
        "External" => Some(change_or(seen, &ready.clone().evacuating(), now, Plan::idle())),
        "LiveMigrate" | "LiveMigrateIfPossible" if migratable => {
            if seen.vmi.data.pointer("/status/migrationState/completed") == Some(&true.into()) {
                return Some(change_or(seen, ready, now, Plan::idle()));
            }
            if let Some(wait) = clock.left("migrating", MIGRATION) {
                let change = ready.clone().evacuating().migrating();
                return Some(change_or(seen, &change, now, Plan::after(wait)));
            }
            let host = text(seen.vmi, "/status/nodeName").unwrap_or(seen.host);
            Some(change_or(seen, &ready.clone().on(other(host)), now, Plan::idle()))
        }
        // The eviction is refused and nothing marks the VMI.
        "LiveMigrate" => None,
        // The eviction is allowed: the pod is gone.
        _ => Some(change_or(
            seen,
            &Change::phase("Failed").ready(Ready::PodNotExists),
            now,
            Plan::idle(),
        )),
    }
}

/// The guest has ended: the pod terminates, then the finalizers go one by one. Without a deletion the object stays.
fn end(seen: &VmiInputs, clock: &mut Clock, now: Timestamp) -> Plan {
    let reason = vmi_status::ready_reason(seen.vmi);
    if reason == Some("GuestNotRunning")
        && list(seen.vmi, "/status/phaseTransitionTimestamps")
            .iter()
            .any(|passed| passed["phase"] == "Running")
    {
        if let Some(wait) = clock.left("ended", READY_AFTER) {
            return Plan::after(wait);
        }
        let change = Change::phase(phase(seen.vmi)).ready(Ready::PodTerminating);
        return change_or(seen, &change, now, Plan::idle());
    }
    let next = [CONTROLLER_FINALIZER, FOREGROUND_FINALIZER]
        .into_iter()
        .find(|name| seen.vmi.finalizers().iter().any(|finalizer| finalizer == name));
    match next {
        // The pod takes a moment to be gone.
        Some(FOREGROUND_FINALIZER) => match clock.left("pod", seen.faults.slow_pod.unwrap_or(READY_AFTER)) {
            Some(wait) => Plan::after(wait),
            None => without_finalizer(seen.vmi, FOREGROUND_FINALIZER),
        },
        Some(name) => without_finalizer(seen.vmi, name),
        None => Plan::idle(),
    }
}

fn without_finalizer(vmi: &DynamicObject, name: &str) -> Plan {
    let mut vmi = vmi.clone();
    vmi.finalizers_mut().retain(|finalizer| finalizer != name);
    Plan::one(Write::Update(Kind::Vmi, vmi))
}
