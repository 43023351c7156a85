//! A set that has just appeared while nodes of its name are left without Machines: it was restored from a backup, and its Machines
//! may follow. What it made meanwhile would stand beside the old nodes.

use jiff::{SignedDuration, Timestamp};
use machinist_shared::api::names::annotation;

use super::{Trouble, Work, until};
use crate::cache::StoredMachineSet;
use crate::machine_set::snapshot::types::{Member, Snapshot};

/// Until so long after its creation, a set waits for its Machines.
const RESTORE_TIMEOUT: SignedDuration = SignedDuration::from_hours(1);

/// `status.errorReason` meanwhile.
const WAITING_FOR_RESTORE: &str = "WaitingForRestore";

/// So many of what is left are named.
const NAMED: usize = 3;

/// Until when the set may wait: none of its Machines has ever had a VM.
pub(in crate::machine_set) fn deadline(
    set: &StoredMachineSet,
    machines: &[Member],
    now: Timestamp,
) -> Option<Timestamp> {
    let has_vm = |member: &Member| {
        let record = member.machine.record.as_ref();
        record.is_some_and(|record| record.vm_uid.is_some())
    };
    if set.annotation(annotation::PROVEN).is_some() || machines.iter().any(has_vm) {
        return None;
    }
    let created = set.metadata.creation_timestamp.as_ref()?.0;
    let deadline = created.checked_add(RESTORE_TIMEOUT).ok()?;
    (deadline > now).then_some(deadline)
}

/// Why the set creates no Machines yet, if that is so.
pub(super) fn wait(observed: &Snapshot, now: Timestamp) -> Option<Work> {
    let left = &observed.left_behind;
    let deadline = deadline(&observed.set, &observed.machines, now).filter(|_| !left.is_empty())?;
    let named = left.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let others = match left.len().saturating_sub(NAMED) {
        0 => String::new(),
        others => format!(" and {others} more"),
    };
    let message = format!(
        "nodes or VMs of this set's name are left without Machines: {named}{others}. If it was restored from a backup, restore \
         its Machines, too, and run `kubectl machinist adopt --restored`; otherwise delete what is left with `kubectl machinist \
         orphans`. Until then, and for an hour from its creation at most, the set creates no Machines"
    );
    Some(Work {
        requeue_after: Some(until(now, deadline)),
        trouble: Some(Trouble {
            reason: WAITING_FOR_RESTORE,
            message,
        }),
        ..Work::default()
    })
}
