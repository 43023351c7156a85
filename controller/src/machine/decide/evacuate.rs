//! The host of the VM is being drained by the admins of the infra cluster: what is done depends on the VM's eviction
//! strategy, and nothing is done that KubeVirt does itself.

use std::time::Duration;

use machinist_infra::provider::Eviction;
use machinist_shared::names::condition;

use super::super::conditions::{Condition, Reason, Status};
use super::super::evacuation::Room;
use super::super::observed::{Concern, Open};
use super::super::plan::Step;
use super::draft::Draft;

/// When it is looked at again whether there is room, should nothing tell.
const AGAIN: Duration = Duration::from_secs(5);

/// Answers `Evacuating`, and has the Machine replaced where its deletion is what lets the host go.
pub(super) fn decide(draft: &mut Draft<'_>, open: &Open) {
    match &open.eviction {
        Eviction::None => {}
        Eviction::Impossible(why) => {
            let message = format!(
                "if its host is drained, that drain will hang, because the VM cannot be moved: {why}"
            );
            say(draft, Status::False, Reason::NotMigratable, message);
        }
        Eviction::Moving { host } => {
            let message =
                format!("its host {host} is being drained; KubeVirt is moving the VM to another one");
            say(draft, Status::True, Reason::LiveMigrating, message);
        }
        Eviction::Wanted { uid, host } => wanted(draft, uid, host),
    }
}

/// The host waits for the VM to go, and nobody else moves it.
fn wanted(draft: &mut Draft<'_>, uid: &str, host: &str) {
    let failure = draft.observed.failure.as_ref();
    let failed = failure.filter(|failure| failure.concerns == Concern::Evacuation);
    let why = match (draft.observed.room, failed) {
        (Room::Free, Some(failed)) => failed.message.clone(),
        (Room::Free, None) => {
            let message = format!("its host {host} is being drained; the Machine is replaced");
            say(draft, Status::True, Reason::HostDrained, message.clone());
            draft.tell_after_patch(true, "HostDrained", message);
            draft.patch_now();
            draft.plan.push(Step::Evacuate {
                uid: uid.to_owned(),
                host: host.to_owned(),
            });
            return;
        }
        (Room::Alone, _) => {
            "no MachineSet would replace the Machine: delete it, or move it by hand".to_owned()
        }
        (Room::Paused(by), _) => format!("what would replace the Machine has the annotation {by}"),
        (Room::Surge, _) => {
            draft.plan.look_again(AGAIN);
            let message = format!(
                "its host {host} is being drained; no Machine may be missing, so that another is made first, and this one is \
                 deleted when that is there"
            );
            say(draft, Status::True, Reason::WaitingForReplacement, message);
            return;
        }
        (Room::Full { missing, limit }, _) => {
            draft.plan.look_again(AGAIN);
            format!("the Machine is replaced later: {missing} others are missing, of {limit} that may be")
        }
        (Room::SurgeFull { limit }, _) => {
            draft.plan.look_again(AGAIN);
            format!(
                "the Machine is replaced later: {limit} may be too many, and as many are made already, in the place of others or by a rollout"
            )
        }
    };
    let message = format!("its host {host} is being drained, and waits for the VM to go; {why}");
    say(draft, Status::True, Reason::HostDraining, message);
}

fn say(draft: &mut Draft<'_>, status: Status, reason: Reason, message: String) {
    draft.condition(Condition::new(condition::EVACUATING, status, reason, message));
}
