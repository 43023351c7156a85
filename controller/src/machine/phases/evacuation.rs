//! The host of the VM is being drained by the admins of the infra cluster: what is done depends on the VM's eviction
//! strategy, and nothing is done that KubeVirt does itself.

use std::time::Duration;

use machinist_infra::provider::Eviction;
use machinist_shared::api::count::{are, counted};
use machinist_shared::api::names::condition;

use super::super::conditions::{Condition, Status};
use super::super::disruption_budget::DisruptionBudget;
use super::super::plan::Step;
use super::super::reason::Reason;
use super::super::record::{Evacuation, Progress, Reservation};
use super::super::snapshot::types::FailureScope;
use super::{PhaseResult, View};

/// When it is decided again whether the Machine may go, should no event come.
const REQUEUE_INTERVAL: Duration = Duration::from_secs(5);

/// Answers `Evacuating`, and has the Machine replaced where its deletion is what lets the host go.
pub(super) fn run(view: &View<'_>) -> PhaseResult {
    let Some((open, _)) = view.vm() else {
        return PhaseResult::default();
    };
    let says = |status, reason, message| shown(status, reason, message).and(reserved(view, None));
    match &open.eviction {
        Eviction::None => reserved(view, None),
        Eviction::Impossible(why) => {
            let message = format!(
                "if its host is drained, that drain will hang, because the VM cannot be moved: {why}"
            );
            says(Status::False, Reason::NotMigratable, message)
        }
        Eviction::Moving { host } => {
            let message =
                format!("its host {host} is being drained; KubeVirt is moving the VM to another one");
            says(Status::True, Reason::LiveMigrating, message)
        }
        Eviction::Wanted { uid, host } => wanted(view, uid, host),
    }
}

fn shown(status: Status, reason: Reason, message: String) -> PhaseResult {
    PhaseResult::default().condition(Condition::new(condition::EVACUATING, status, reason, message))
}

/// The host waits for the VM to go, and KubeVirt does not move it.
fn wanted(view: &View<'_>, uid: &str, host: &str) -> PhaseResult {
    let began = view.progress().evacuation.as_ref();
    let started_at = began.map_or(view.now, |began| began.started_at);
    let goes = |reserved_| {
        reserved(
            view,
            Some(Evacuation {
                started_at,
                reserved: reserved_,
            }),
        )
    };
    let failure = view.observed.failure.as_ref();
    let failed = failure.filter(|failure| failure.scope == FailureScope::Evacuation);
    let (why, requeue) = match (view.observed.disruption_budget, failed) {
        (DisruptionBudget::Allowed, Some(failed)) => (failed.message.clone(), None),
        (DisruptionBudget::Allowed, None) => {
            let message = format!("its host {host} is being drained; the Machine is replaced");
            return shown(Status::True, Reason::HostDrained, message.clone())
                .and(goes(Some(Reservation::Deletion)))
                .event(true, "HostDrained", message)
                .then(Step::Evacuate {
                    uid: uid.to_owned(),
                    host: host.to_owned(),
                });
        }
        (DisruptionBudget::Surge, _) => {
            let message = format!(
                "its host {host} is being drained; no Machine may be missing, so that another is made first, and this one is \
                 deleted when that is there"
            );
            return shown(Status::True, Reason::WaitingForReplacement, message)
                .and(goes(Some(Reservation::Surge)))
                .requeue(REQUEUE_INTERVAL);
        }
        (DisruptionBudget::Alone, _) => {
            let why = "no MachineSet would replace the Machine: delete it, or move it by hand".to_owned();
            (why, None)
        }
        (DisruptionBudget::Paused(by), _) => (
            format!("what would replace the Machine has the annotation {by}"),
            None,
        ),
        (DisruptionBudget::Full { missing, limit }, _) => {
            let why = format!(
                "the Machine is replaced later: {} {} missing, of {limit} that may be",
                counted(missing, "other"),
                are(missing)
            );
            (why, Some(REQUEUE_INTERVAL))
        }
        (DisruptionBudget::SurgeFull { limit }, _) => {
            let why = format!(
                "the Machine is replaced later: {limit} may be too many, and as many are made already, in the place of others or by a rollout"
            );
            (why, Some(REQUEUE_INTERVAL))
        }
    };
    let message = format!("its host {host} is being drained, and waits for the VM to go; {why}");
    shown(Status::True, Reason::HostDraining, message)
        .and(goes(None))
        .requeue(requeue)
}

/// Records what is reserved for the Machine.
fn reserved(view: &View<'_>, evacuation: Option<Evacuation>) -> PhaseResult {
    if view.progress().evacuation == evacuation {
        return PhaseResult::default();
    }
    PhaseResult::default().progress(Progress {
        evacuation,
        ..view.progress().clone()
    })
}
