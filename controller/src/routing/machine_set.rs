//! What an event about a MachineSet enqueues.

use machinist_infra::cache::store::Key;

use crate::cache::{StoredMachineSet, Stores, owner};
use crate::machine::disruption_budget;
use crate::runtime::queue::Queues;

/// A set: itself and its deployment; every deployment that may adopt it, if it has no controller; and its Machines that
/// wait for their user data.
pub(super) fn enqueue(set: &StoredMachineSet, stores: &Stores, queues: &Queues) {
    queues.sets.add(Key::of(set));
    waiting_machines(set, stores, queues);
    match owner::controller(&set.metadata) {
        Some(owner) if owner.kind == "MachineDeployment" => {
            queues.deployments.add(Key::new(set.namespace(), &owner.name));
        }
        Some(_) => {}
        None => {
            let labels = set.metadata.labels.as_ref();
            for deployment in stores.machine_deployments_in(set.namespace()) {
                if deployment.selector.matches(labels) {
                    queues.deployments.add(Key::of(deployment.as_ref()));
                }
            }
        }
    }
}

/// Machines of a set that have no VM yet: the set's revision and the deployment's operating system profile say where
/// their user data comes from. And those that wait to be replaced, which the set's pause may hold up.
pub(super) fn waiting_machines(set: &StoredMachineSet, stores: &Stores, queues: &Queues) {
    for machine in stores.machines_of(set.uid()) {
        if machine
            .record
            .as_ref()
            .is_none_or(|record| record.vm_uid.is_none())
            || disruption_budget::is_waiting(&machine)
        {
            queues.machines.add(Key::of(machine.as_ref()));
        }
    }
}
