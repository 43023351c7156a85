//! The recorded VM is gone, and it was not us: the MachineSet replaces the Machine, or the VM is made again.

use super::super::conditions::{Condition, Status};
use super::super::plan::Step;
use super::super::reason::Reason;
use super::super::record::{PreviousVm, Progress, Record, VmLoss};
use super::super::snapshot::types::Open;
use super::result::Field;
use super::volume_release::{self, Volumes};
use super::{PhaseResult, View};

pub(super) fn run(view: &View<'_>, open: &Open, uid: &str) -> PhaseResult {
    let machine = view.machine();
    let why = format!(
        "the VM {} ({uid}) is gone from namespace {} without our doing",
        machine.name(),
        open.infrastructure.namespace
    );
    let missed = |message| Condition::infrastructure(Status::False, Reason::VMVanished, message);
    if machine.machine_set().is_some() {
        return PhaseResult::stop()
            .condition(missed(format!("{why}; the MachineSet replaces the Machine")))
            .event(true, "VMVanished", why)
            .then(Step::DeleteMachine);
    }
    let known = view.progress().vm_loss.as_ref();
    let known = known.filter(|loss| loss.vm_uid == uid);
    let missed_at = known.map_or(view.now, |loss| loss.missed_at);
    let mut result = PhaseResult::stop().progress(Progress {
        vm_loss: Some(VmLoss {
            vm_uid: uid.to_owned(),
            missed_at,
        }),
        ..view.progress().clone()
    });
    if known.is_none() {
        result = result.event(true, "VMVanished", why.as_str());
    }
    if let Some(node) = view.own_node() {
        // Volumes are not let go while it writes, and no VM of its name starts before it has ended.
        if open.guest.is_some() && !view.observed.workload.volumes.is_empty() {
            return result.condition(missed(format!("{why}; waiting for its guest to end")));
        }
        match volume_release::volumes(view, node, missed_at) {
            Volumes::None => {}
            Volumes::Left(message) => result = result.event(true, "VolumesLeft", message),
            Volumes::Leaving {
                what,
                mark,
                requeue_after,
            } => {
                // Should the Node not let itself be marked, the time runs all the same.
                result.then.extend(mark);
                return result
                    .condition(missed(format!("{why}; {what}")))
                    .requeue(requeue_after);
            }
        }
        let uid = node.uid().to_owned();
        result = result.step(Step::DeleteNode { uid });
    }
    if view.observed.token.is_some() {
        result = result.step(Step::DeleteToken);
    }
    let result = result.condition(missed(format!("{why}; it is being recreated")));
    replaced(view, result, uid, &why)
}

/// The VM has to be made again under the same Machine.
pub(super) fn replaced(view: &View<'_>, result: PhaseResult, uid: &str, why: &str) -> PhaseResult {
    let record = result.record.as_ref().or(view.record());
    let record = record.map(|record| Record {
        joined: record.has_joined(),
        vm_uid: None,
        vm_seen: None,
        token_id: None,
        bootstrap_secret: None,
        node_uid: None,
        former: Some(PreviousVm {
            uid: uid.to_owned(),
            why: why.to_owned(),
        }),
        ..record.clone()
    });
    PhaseResult {
        node_ref: Field::Remove,
        ..result.record(record)
    }
}
