//! How far a VM is that nothing is known to be in the way of.

use super::{InfraState, Reason, VmView};
use crate::kubevirt::observed::VmiStatus;

/// A VM that is to end: what is wrong with it does not matter any more.
pub(super) fn stopping(sight: VmView<'_>) -> Option<InfraState> {
    let (name, status) = (sight.name, sight.vm.printable_status.as_str());
    matches!(status, "Stopping" | "Terminating")
        .then(|| InfraState::new(Reason::VMStopping, format!("VirtualMachine {name} is {status}")))
}

/// The stage; the VM's one-word status where there is nothing better.
pub(super) fn stage(sight: VmView<'_>) -> InfraState {
    let name = sight.name;
    let Some(vmi) = sight.vmi else {
        return without_instance(sight);
    };
    match vmi.phase.as_str() {
        "Running" => running(sight, vmi),
        "Unknown" => InfraState::new(
            Reason::VMUnknown,
            format!("the host of VirtualMachineInstance {name} cannot be reached"),
        ),
        "Succeeded" | "Failed" if sight.run_strategy == "Halted" => halted(name),
        "Succeeded" | "Failed" => InfraState::new(
            Reason::StartFailing,
            format!(
                "VirtualMachineInstance {name} is {}; it is started again",
                vmi.phase
            ),
        ),
        phase => printed(sight)
            .or_else(|| failed_before(sight))
            .unwrap_or_else(|| {
                let phase = if phase.is_empty() { "Pending" } else { phase };
                InfraState::new(
                    Reason::VMStarting,
                    format!("VirtualMachineInstance {name} is {phase}"),
                )
            }),
    }
}

fn running(sight: VmView<'_>, vmi: &VmiStatus) -> InfraState {
    let name = sight.name;
    if !vmi.addresses().is_empty() {
        return InfraState::new(Reason::VMRunning, format!("VirtualMachineInstance {name} runs"));
    }
    if let Some(agent) = sight.condition("AgentVersionNotSupported", "True") {
        let reason_and_message = super::reason_and_message(agent);
        return InfraState::new(
            Reason::GuestAgentUnsupported,
            format!(
                "VirtualMachineInstance {name} runs without an address, and its guest agent is of no use: {reason_and_message}"
            ),
        );
    }
    let agent = if sight.condition("AgentConnected", "True").is_some() {
        "its guest agent reports none"
    } else {
        "no guest agent is connected"
    };
    InfraState::new(
        Reason::WaitingForAddress,
        format!("VirtualMachineInstance {name} runs, without an address yet; {agent}"),
    )
}

fn without_instance(sight: VmView<'_>) -> InfraState {
    let (name, status) = (sight.name, sight.vm.printable_status.as_str());
    printed(sight).unwrap_or_else(|| match status {
        "CrashLoopBackOff" => start_failing(sight),
        "Unknown" => InfraState::new(
            Reason::VMUnknown,
            format!("nobody knows the state of VirtualMachine {name}"),
        ),
        "Provisioning" => InfraState::new(
            Reason::WaitingForDisk,
            format!("VirtualMachine {name} is Provisioning: its disks are being made"),
        ),
        _ if sight.run_strategy == "Halted" => halted(name),
        _ if let Some(failing) = failed_before(sight) => failing,
        // The first status that KubeVirt ever writes is Stopped: with a guest that is to run, it means "not yet".
        "" | "Stopped" => InfraState::new(Reason::VMStarting, format!("VirtualMachine {name} was accepted")),
        status => InfraState::new(Reason::VMStarting, format!("VirtualMachine {name} is {status}")),
    })
}

/// KubeVirt keeps count of failed starts until one succeeds, also while it tries again.
fn failed_before(sight: VmView<'_>) -> Option<InfraState> {
    let failure = sight.vm.start_failure.as_ref()?;
    (failure.consecutive_fail_count > 0).then(|| start_failing(sight))
}

fn start_failing(sight: VmView<'_>) -> InfraState {
    let failure = sight.vm.start_failure.as_ref();
    let failures = failure.map_or(0, |failure| failure.consecutive_fail_count);
    InfraState::new(
        Reason::StartFailing,
        format!(
            "VirtualMachine {} failed to start {failures} times; it is tried again",
            sight.name
        ),
    )
}

fn halted(name: &str) -> InfraState {
    InfraState::new(
        Reason::VMHalted,
        format!("VirtualMachine {name} was halted (runStrategy Halted)"),
    )
}

/// What a status says that has a reason of its own, though no condition was found that explains it.
fn printed(sight: VmView<'_>) -> Option<InfraState> {
    let status = sight.vm.printable_status.as_str();
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
        format!("VirtualMachine {} is {status}", sight.name),
    ))
}
