//! What an event about a Machine enqueues.

use machinist_infra::cache::store::Key;

use super::token;
use crate::cache::{StoredMachine, StoredMachineDeployment, Stores, owner};
use crate::machine::drain::slots;
use crate::machine_deployment::conditions::{self, PROGRESSING};
use crate::runtime::queue::Queues;

/// A Machine, before and after: its namesakes, one of which may now win or lose the name; its set; and the requests that
/// came with its tokens.
pub(super) fn enqueue(machine: &StoredMachine, stores: &Stores, queues: &Queues) {
    for namesake in stores.machines.by_index(machine.name()) {
        queues.machines.add(Key::of(namesake.as_ref()));
    }
    queues.machines.add(Key::of(machine));
    sets_of(machine, stores, queues);
    if let Some(deployment) = stores.deployment_of(machine) {
        // Its counts say nothing of this: one of a template that fails is enough to stop a rollout, and what holds one up
        // is shown as it is now.
        let conditions = deployment.status.conditions.as_deref().unwrap_or_default();
        let progressing = conditions::find(conditions, PROGRESSING);
        let stuck = progressing.is_some_and(|condition| condition.status == "False");
        if stuck || machine.status.phase.as_deref() == Some("Failed") {
            queues.deployments.add(Key::of(deployment.as_ref()));
        }
        if machine.is_deleting() {
            next_drains(&deployment, stores, queues);
        }
    }
    requests_of(machine, stores, queues);
}

/// Machines that wait for others of their MachineDeployment to be drained.
fn next_drains(deployment: &StoredMachineDeployment, stores: &Stores, queues: &Queues) {
    let Some(limit) = slots::limit(deployment) else {
        return;
    };
    let waiting = stores.machines_of_deployment(deployment);
    let mut waiting: Vec<_> = waiting
        .into_iter()
        .filter(|machine| slots::is_waiting(machine))
        .collect();
    waiting.sort_by_key(|machine| {
        let deleted = machine.metadata.deletion_timestamp.as_ref().map(|time| time.0);
        (deleted, machine.name().to_owned())
    });
    for machine in waiting.iter().take(limit) {
        queues.machines.add(Key::of(machine.as_ref()));
    }
}

/// Pending requests that came with a Machine's tokens.
pub(super) fn requests_of(machine: &StoredMachine, stores: &Stores, queues: &Queues) {
    for token in stores.tokens.by_index(machine.uid()) {
        token::requests_with(&token, stores, queues);
    }
    for request in stores.requests_with_recorded_token(machine) {
        queues.requests.add(Key::of(request.as_ref()));
    }
}

/// The set that controls a Machine; every set that may adopt it, if no controller does.
pub(super) fn sets_of(machine: &StoredMachine, stores: &Stores, queues: &Queues) {
    match owner::controller(&machine.metadata) {
        Some(owner) if owner.kind == "MachineSet" => {
            queues.sets.add(Key::new(machine.namespace(), &owner.name));
        }
        Some(_) => {}
        None => {
            let labels = machine.metadata.labels.as_ref();
            for set in stores.machine_sets_in(machine.namespace()) {
                if set.selector.matches(labels) {
                    queues.sets.add(Key::of(set.as_ref()));
                }
            }
        }
    }
}
