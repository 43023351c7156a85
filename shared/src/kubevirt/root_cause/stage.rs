//! The stage of a VM without a known error.

use super::{InfraState, Reason, VmView};
use crate::api::count::times;
use crate::kubevirt::observed::VmiStatus;

/// A VM that is stopping: its errors no longer matter.
pub(super) fn stopping(view: VmView<'_>) -> Option<InfraState> {
    let (name, status) = (view.name, view.vm.printable_status.as_str());
    matches!(status, "Stopping" | "Terminating")
        .then(|| InfraState::new(Reason::VMStopping, format!("VirtualMachine {name} is {status}")))
}

/// The stage; the VM's one-word status if there is nothing more specific.
pub(super) fn stage(view: VmView<'_>) -> InfraState {
    let name = view.name;
    let Some(vmi) = view.vmi else {
        return without_instance(view);
    };
    match vmi.phase.as_str() {
        "Running" => running(view, vmi),
        "Unknown" => InfraState::new(
            Reason::VMUnknown,
            format!("the host of VirtualMachineInstance {name} cannot be reached"),
        ),
        "Succeeded" | "Failed" if view.run_strategy == "Halted" => halted(name),
        // One that failed before its guest ran is deleted by KubeVirt, which starts it again: that stays a failing start.
        "Succeeded" | "Failed" if view.is_vmi_deleting && !vmi.is_known_not_to_have_run() => {
            failed_before(view).unwrap_or_else(|| {
                InfraState::new(
                    Reason::VMStopping,
                    format!(
                        "VirtualMachineInstance {name} is {} and is being deleted",
                        vmi.phase
                    ),
                )
            })
        }
        "Succeeded" | "Failed" => InfraState::new(
            Reason::StartFailing,
            format!(
                "VirtualMachineInstance {name} is {}; KubeVirt restarts it",
                vmi.phase
            ),
        ),
        phase => printed(view).or_else(|| failed_before(view)).unwrap_or_else(|| {
            let phase = if phase.is_empty() { "Pending" } else { phase };
            InfraState::new(
                Reason::VMStarting,
                format!("VirtualMachineInstance {name} is {phase}"),
            )
        }),
    }
}

fn running(view: VmView<'_>, vmi: &VmiStatus) -> InfraState {
    let name = view.name;
    if !vmi.addresses().is_empty() {
        return InfraState::new(Reason::VMRunning, format!("VirtualMachineInstance {name} runs"));
    }
    if let Some(agent) = view.condition("AgentVersionNotSupported", "True") {
        let why = super::reason_and_message(agent);
        return InfraState::new(
            Reason::GuestAgentUnsupported,
            format!(
                "VirtualMachineInstance {name} runs without an address, and its guest agent is not usable: {why}"
            ),
        );
    }
    let agent = if view.condition("AgentConnected", "True").is_some() {
        "its guest agent reports none"
    } else {
        "no guest agent is connected"
    };
    InfraState::new(
        Reason::WaitingForAddress,
        format!("VirtualMachineInstance {name} runs, without an address yet; {agent}"),
    )
}

fn without_instance(view: VmView<'_>) -> InfraState {
    let (name, status) = (view.name, view.vm.printable_status.as_str());
    printed(view).unwrap_or_else(|| match status {
        "CrashLoopBackOff" => start_failing(view),
        "Unknown" => InfraState::new(
            Reason::VMUnknown,
            format!("the state of VirtualMachine {name} is unknown"),
        ),
        "Provisioning" => InfraState::new(
            Reason::WaitingForDisk,
            format!("VirtualMachine {name} is Provisioning: its disks are being created"),
        ),
        _ if view.run_strategy == "Halted" => halted(name),
        _ if let Some(failing) = failed_before(view) => failing,
        // KubeVirt's initial status is Stopped: for a VM that must run, it means "not started yet".
        "" | "Stopped" => InfraState::new(Reason::VMStarting, format!("VirtualMachine {name} was accepted")),
        status => InfraState::new(Reason::VMStarting, format!("VirtualMachine {name} is {status}")),
    })
}

/// KubeVirt counts failed starts until one succeeds, also while it retries.
fn failed_before(view: VmView<'_>) -> Option<InfraState> {
    let failure = view.vm.start_failure.as_ref()?;
    (failure.consecutive_fail_count > 0).then(|| start_failing(view))
}

fn start_failing(view: VmView<'_>) -> InfraState {
    let failure = view.vm.start_failure.as_ref();
    let failures = failure.map_or(0, |failure| failure.consecutive_fail_count);
    InfraState::new(
        Reason::StartFailing,
        format!(
            "VirtualMachine {} failed to start {}; KubeVirt retries",
            view.name,
            times(failures)
        ),
    )
}

fn halted(name: &str) -> InfraState {
    InfraState::new(
        Reason::VMHalted,
        format!("VirtualMachine {name} was halted (runStrategy Halted)"),
    )
}

/// A printable status with a reason of its own, if no condition explains it.
fn printed(view: VmView<'_>) -> Option<InfraState> {
    let status = view.vm.printable_status.as_str();
    let reason = match status {
        "ErrorPvcNotFound" => Reason::DiskNotFound,
        "DataVolumeError" => Reason::DiskImportFailing,
        "ErrorUnschedulable" => Reason::Unschedulable,
        "WaitingForVolumeBinding" => Reason::WaitingForDisk,
        "ErrImagePull" | "ImagePullBackOff" => Reason::LauncherImageFailed,
        _ => return None,
    };
    Some(InfraState::new(
        reason,
        format!("VirtualMachine {} is {status}", view.name),
    ))
}
