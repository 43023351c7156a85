//! The guest: ended, or paused.

use super::{InfraState, Reason, VmView, reason_and_message};

/// A guest that nothing starts again, which is the end of its VM.
pub(super) fn ended(sight: VmView<'_>) -> Option<InfraState> {
    let strategy = sight.run_strategy;
    let for_good = |phase: &str| match strategy {
        "Always" | "Halted" => false,
        "RerunOnFailure" => phase == "Succeeded",
        _ => true,
    };
    let again = format!("under runStrategy {strategy} nothing starts it again");
    if let Some(vmi) = sight.vmi {
        if !vmi.is_final() || !for_good(&vmi.phase) {
            return None;
        }
        let how = if vmi.phase == "Succeeded" {
            "the guest shut itself down"
        } else {
            "the guest crashed or its host was lost"
        };
        let why = if vmi.reason.is_empty() {
            String::new()
        } else {
            format!(" ({})", vmi.reason)
        };
        let message = format!(
            "VirtualMachineInstance {} is {}: {how}{why}; {again}",
            sight.name, vmi.phase
        );
        return Some(InfraState::new(Reason::GuestEnded, message));
    }
    let crashed = sight.vm.printable_status == "CrashLoopBackOff" && for_good("Failed");
    crashed.then(|| {
        InfraState::new(
            Reason::GuestEnded,
            format!(
                "VirtualMachine {} ended before its guest ran; {again}",
                sight.name
            ),
        )
    })
}

/// A guest that stands still. One that is being migrated does so for a moment, which is no trouble.
pub(super) fn paused(sight: VmView<'_>) -> Option<InfraState> {
    let paused = sight.condition("Paused", "True")?;
    if sight.vm.printable_status == "Migrating" && paused.reason != "PausedIOError" {
        return None;
    }
    Some(InfraState::new(
        Reason::VMPaused,
        format!(
            "VirtualMachineInstance {} is paused: {}",
            sight.name,
            reason_and_message(paused)
        ),
    ))
}
