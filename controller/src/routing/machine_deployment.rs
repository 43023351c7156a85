//! What an event about a MachineDeployment enqueues.

use machinist_infra::cache::store::Key;

use super::machine_set::waiting_machines;
use crate::cache::{StoredMachineDeployment, Stores, overlap};
use crate::machine::disruption_budget;
use crate::machine::drain::slots;
use crate::machine_deployment::conditions::SELECTOR_OVERLAP;
use crate::runtime::queue::Queues;

/// A deployment: itself, the Machines of its sets that wait for their user data, and others that select its Machines, or
/// that are reported that another client does.
pub(super) fn enqueue(deployment: &StoredMachineDeployment, stores: &Stores, queues: &Queues) {
    queues.deployments.add(Key::of(deployment));
    // The limit may be gone, or higher; or there may be room to replace one.
    for machine in stores.machines_of_deployment(deployment) {
        if slots::is_waiting(&machine) || disruption_budget::is_waiting(&machine) {
            queues.machines.add(Key::of(machine.as_ref()));
        }
    }
    for set in stores.machine_sets_of(deployment.uid()) {
        waiting_machines(&set, stores, queues);
    }
    for other in stores.machine_deployments_in(deployment.namespace()) {
        let conditions = other.status.conditions.iter().flatten();
        let reported = conditions
            .into_iter()
            .any(|condition| condition.type_ == SELECTOR_OVERLAP);
        if reported || (other.uid() != deployment.uid() && overlap::is_mutual(other.as_ref(), deployment)) {
            queues.deployments.add(Key::of(other.as_ref()));
        }
    }
}
