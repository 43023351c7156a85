//! Events: what phases announce, and causes that a person should look at, when they are new.

use k8s_openapi::api::core::v1::NodeCondition;
use machinist_shared::api::names::condition;

use super::super::conditions::{Condition, Status, Urgency};
use super::super::phases::PhaseResult;
use super::super::plan::Event;
use super::super::reason::Reason;
use super::super::snapshot::types::{Infra, Snapshot};
use super::trouble;

/// Whether a stored condition of that type has that reason.
fn has_reason(stored: &[NodeCondition], kind: &str, reason: &str) -> bool {
    let mut of_kind = stored.iter().filter(|stored| stored.type_ == kind);
    of_kind.any(|stored| stored.reason.as_deref() == Some(reason))
}

/// What the phases announce, but for what was announced with a condition that is stored already.
pub(super) fn announced(observed: &Snapshot, result: &PhaseResult) -> Vec<Event> {
    let stored = observed.machine.status.conditions.as_deref().unwrap_or_default();
    let is_new = |once: &Option<(&str, Reason)>| {
        once.is_none_or(|(kind, reason)| !has_reason(stored, kind, reason.as_str()))
    };
    let new = result.events.iter().filter(|announced| is_new(&announced.once));
    new.map(|announced| announced.event.clone()).collect()
}

/// Events for causes that are new.
pub(super) fn of_causes(observed: &Snapshot, stored: &[NodeCondition], wanted: &[Condition]) -> Vec<Event> {
    // All Machines on it have the condition, and an alert has the cluster: thousands of Events more help no user.
    let is_outage = |want: &Condition| {
        want.kind == condition::INFRASTRUCTURE_REACHABLE && matches!(observed.infra, Infra::Unreachable(_))
    };
    let causes = wanted.iter().filter(|want| {
        is_trouble(want)
            && is_cause(&want.reason)
            && !is_outage(want)
            && !has_reason(stored, want.kind, &want.reason)
    });
    causes
        .map(|want| trouble(format!("{}: {}", want.reason, want.message)))
        .collect()
}

fn is_trouble(want: &Condition) -> bool {
    // It works, but an admin should see to it.
    let is_imperfect = [Reason::WatchForbidden, Reason::CacheFull]
        .iter()
        .any(|reason| want.reason == reason.as_str());
    (want.status == Status::False || is_imperfect)
        && want.urgency == Urgency::Now
        && want.kind != condition::READY
}

/// Whether a reason names a cause, not a stage that every Machine passes.
fn is_cause(reason: &str) -> bool {
    let stages = [
        Reason::Creating,
        Reason::WaitingForNode,
        Reason::WaitingForVM,
        Reason::WaitingForReference,
        Reason::WaitingForInfrastructure,
        Reason::WaitingToStart,
        Reason::WaitingForDisks,
        Reason::WaitingForBootstrapSecret,
        Reason::BootstrapSecretRevision,
        Reason::NodeNotReady,
        Reason::VMVanished,
        Reason::Draining,
        Reason::VolumesAttached,
        Reason::VolumeDetachSkipped,
        // Reported by Events of their own.
        Reason::CertificatePending,
        Reason::CertificateRefused,
        Reason::DrainSkipped,
    ];
    !stages.iter().any(|stage| stage.as_str() == reason)
}
