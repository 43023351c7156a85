//! What versions before 0.2 show in conditions only: since when a Machine waits, and for what. They wrote no [`Progress`], so
//! what their conditions say is read back here, once, and goes on from there. Nothing else reads a reason back.

use k8s_openapi::api::core::v1::NodeCondition;
use k8s_openapi::jiff::Timestamp;
use machinist_shared::api::names::condition;

use super::super::reason::Reason;
use super::progress::{Deletion, Evacuation, IMPORT_FAILING, Progress, Reservation, VmLoss, WaitingFor};

/// What the conditions of a Machine say that has no [`Progress`].
pub(super) fn progress(conditions: &[NodeCondition], vm_uid: Option<&str>) -> Progress {
    let find = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind);
    let read = |kind: &str| find(kind).and_then(|stored| Some((Reason::of(stored)?, since(stored))));
    let deletion = deletion(
        read(condition::DELETING),
        read(condition::DRAINED),
        read(condition::VOLUMES_DETACHED),
    );
    let evacuation = read(condition::EVACUATING).and_then(|(reason, started_at)| {
        let reserved = match reason {
            Reason::HostDraining => None,
            Reason::WaitingForReplacement => Some(Reservation::Surge),
            Reason::HostDrained => Some(Reservation::Deletion),
            _ => return None,
        };
        Some(Evacuation { started_at, reserved })
    });
    let vm_loss = match (read(condition::INFRASTRUCTURE_READY), vm_uid) {
        (Some((Reason::VMVanished, missed_at)), Some(vm_uid)) => Some(VmLoss {
            vm_uid: vm_uid.to_owned(),
            missed_at,
        }),
        _ => None,
    };
    let import_failure = find(condition::INFRASTRUCTURE_READY)
        .filter(|stored| stored.reason.as_deref() == Some(IMPORT_FAILING))
        .and_then(|stored| stored.message.clone());
    let mut progress = Progress {
        deletion: (deletion != Deletion::default()).then(|| Box::new(deletion)),
        evacuation,
        vm_loss,
        import_failure,
        node_loss: None,
        is_converted: false,
    };
    progress.is_converted = progress != Progress::default();
    progress
}

type Said = Option<(Reason, Timestamp)>;

fn deletion(deleting: Said, drained: Said, detached: Said) -> Deletion {
    let mut deletion = Deletion::default();
    match drained {
        Some((Reason::Draining | Reason::EvictionBlocked, since)) => deletion.drain_started_at = Some(since),
        Some((Reason::DrainSkipped, since)) => {
            deletion.drain_started_at = Some(since);
            deletion.drain_ended_at = Some(since);
        }
        Some((Reason::NodeDrained, since)) => deletion.drain_ended_at = Some(since),
        _ => {}
    }
    if let Some((Reason::VolumesAttached | Reason::VolumeDetachSkipped, since)) = detached {
        deletion.volume_detach_started_at = Some(since);
    }
    let Some((reason, since)) = deleting else {
        return deletion;
    };
    match reason {
        Reason::WaitingForPreDrainHook => deletion.pre_drain_hook_started_at = Some(since),
        Reason::WaitingForPreTerminateHook => deletion.pre_terminate_hook_started_at = Some(since),
        Reason::WaitingForOtherDrains => deletion.waiting_for = Some(WaitingFor::DrainSlot),
        Reason::DeletionBlocked | Reason::WaitingForInfrastructure => {
            deletion.waiting_for = Some(WaitingFor::Infrastructure);
        }
        Reason::ReleasingVolumes => deletion.volume_release_started_at = Some(since),
        Reason::DeletingNode => deletion.node_deletion_started_at = Some(since),
        // Of the Node's deletion, or of the mark that has its volumes detached.
        Reason::DeleteFailed => {
            deletion.volume_release_started_at = Some(since);
            deletion.node_deletion_started_at = Some(since);
        }
        _ => {}
    }
    deletion
}

/// Since when it says so. One without a time is not ours; what it reports has just begun.
fn since(stored: &NodeCondition) -> Timestamp {
    stored
        .last_transition_time
        .as_ref()
        .map_or(Timestamp::MAX, |time| time.0)
}
