//! The guest: ended, or paused.

use super::{InfraState, Reason, VmView, reason_and_message};

/// A guest that is not restarted, which ends its VM.
pub(super) fn ended(view: VmView<'_>) -> Option<InfraState> {
    let strategy = view.run_strategy;
    let for_good = |phase: &str| match strategy {
        "Always" | "Halted" => false,
        "RerunOnFailure" => phase == "Succeeded",
        _ => true,
    };
    let again = format!("runStrategy {strategy} does not restart it");
    if let Some(vmi) = view.vmi {
        if !vmi.is_final() || view.is_vmi_deleting || !for_good(&vmi.phase) {
            return None;
        }
        let how = match vmi.phase.as_str() {
            "Succeeded" => "the guest shut down",
            _ if vmi.is_known_not_to_have_run() => "it ended before its guest ran",
            _ => "the guest crashed or its host was lost",
        };
        let why = if vmi.reason.is_empty() {
            String::new()
        } else {
            format!(" ({})", vmi.reason)
        };
        let message = format!(
            "VirtualMachineInstance {} is {}: {how}{why}; {again}",
            view.name, vmi.phase
        );
        return Some(InfraState::new(Reason::GuestEnded, message));
    }
    let crashed = view.vm.printable_status == "CrashLoopBackOff" && for_good("Failed");
    crashed.then(|| {
        InfraState::new(
            Reason::GuestEnded,
            format!("VirtualMachine {} ended before its guest ran; {again}", view.name),
        )
    })
}

/// A paused guest. A live migration pauses it for a moment, which is not an error.
pub(super) fn paused(view: VmView<'_>) -> Option<InfraState> {
    let paused = view.condition("Paused", "True")?;
    if view.vm.printable_status == "Migrating" && paused.reason != "PausedIOError" {
        return None;
    }
    Some(InfraState::new(
        Reason::VMPaused,
        format!(
            "VirtualMachineInstance {} is paused: {}",
            view.name,
            reason_and_message(paused)
        ),
    ))
}
