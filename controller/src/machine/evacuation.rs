//! Machines whose VM's host is being drained by the admins of the infra cluster: how many of a pool may be missing while
//! they are replaced elsewhere.

use std::sync::Arc;

use machinist_infra::store::Key;
use machinist_shared::names::{annotation, condition};

use super::conditions::Reason;
use crate::machine_deployment::decide::max_unavailable;
use crate::user::{StoredMachine, StoredMachineDeployment, StoredMachineSet, Stores};

/// Whether a Machine may be deleted now, to be replaced elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// It stands alone: nobody would replace it.
    Alone,
    /// What would replace it is paused, by this annotation.
    Paused(&'static str),
    /// Too few others are there; how many are missing, and how many may be.
    Full {
        /// Machines that are missing.
        missing: usize,
        /// Machines that may be.
        limit: usize,
    },
    /// It may.
    Free,
}

/// Whether a Machine waits to be replaced.
pub fn is_waiting(machine: &StoredMachine) -> bool {
    let mut conditions = machine.status.conditions.iter().flatten();
    conditions.any(|stored| {
        stored.type_ == condition::EVACUATING && stored.reason == Some(Reason::HostDraining.text())
    })
}

/// Whether the Machine may be deleted now, by what is in the stores.
pub fn room(stores: &Stores, machine: &StoredMachine) -> Room {
    let set = machine
        .machine_set()
        .and_then(|set| stores.machine_sets.get(&Key::new(machine.namespace(), set)))
        .filter(|set| machine.controller_uid() == Some(set.uid()));
    let Some(set) = set else { return Room::Alone };
    if let Some(by) = set.paused_by() {
        return Room::Paused(by);
    }
    let deployment = stores.deployment_of(machine);
    if let Some(by) = deployment.as_ref().and_then(|deployment| paused_by(deployment)) {
        return Room::Paused(by);
    }
    let (siblings, wanted, limit) = match &deployment {
        Some(deployment) => (
            stores.machines_of_deployment(deployment),
            deployment.replicas.unwrap_or(1),
            max_unavailable(deployment),
        ),
        None => (stores.machines_of(set.uid()), replicas(&set), 1),
    };
    let others = siblings.iter().filter(|other| other.uid() != machine.uid());
    let available = others.filter(|other| is_available(stores, other)).count();
    judge(
        usize::try_from(wanted).unwrap_or_default(),
        available,
        usize::try_from(limit).unwrap_or_default(),
    )
}

/// Whether `wanted` Machines less `limit` are left by the `available` others. The last one may always go: a host that is
/// drained goes in any case.
fn judge(wanted: usize, available: usize, limit: usize) -> Room {
    let limit = limit.max(1);
    let missing = wanted.saturating_sub(available);
    if missing <= limit {
        Room::Free
    } else {
        Room::Full {
            missing: missing - 1,
            limit,
        }
    }
}

fn replicas(set: &Arc<StoredMachineSet>) -> i32 {
    set.replicas.unwrap_or(1)
}

fn is_available(stores: &Stores, machine: &StoredMachine) -> bool {
    let node = stores.nodes.get(&Key::new("", machine.name()));
    let linked = machine.status.node_ref.is_some();
    !machine.is_deleting() && linked && node.is_some_and(|node| node.is_ready())
}

fn paused_by(deployment: &StoredMachineDeployment) -> Option<&'static str> {
    let initializers = deployment.annotation(annotation::INITIALIZERS);
    if deployment.annotation(annotation::PAUSED).is_some() {
        Some(annotation::PAUSED)
    } else {
        initializers
            .is_some_and(|text| !text.is_empty())
            .then_some(annotation::INITIALIZERS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::all_others_are_there(10, 9, 1, Room::Free)]
    #[case::one_is_missing_already(10, 8, 1, Room::Full { missing: 1, limit: 1 })]
    #[case::two_may_be(10, 8, 2, Room::Free)]
    #[case::three_may_not(10, 7, 2, Room::Full { missing: 2, limit: 2 })]
    #[case::without_any_room_one_at_a_time(3, 2, 0, Room::Free)]
    #[case::without_any_room_not_two(3, 1, 0, Room::Full { missing: 1, limit: 1 })]
    #[case::a_surge_makes_room(3, 3, 1, Room::Free)]
    #[case::the_only_one(1, 0, 0, Room::Free)]
    #[case::scaled_to_nothing(0, 0, 0, Room::Free)]
    fn a_machine_may_be_replaced(
        #[case] wanted: usize,
        #[case] available: usize,
        #[case] limit: usize,
        #[case] room: Room,
    ) {
        assert_eq!(judge(wanted, available, limit), room);
    }
}
