//! What there is on the Node of a Machine that is being deleted, or whose VM is gone.

use std::sync::Arc;

use machinist_infra::cache::store::Key;

use super::super::drain::Seen;
use super::super::drain::turns::{self, Turn};
use super::super::memory::Memory;
use super::super::observed::{Guests, Refuge};
use crate::cache::{Node, StoredMachine};
use crate::context::Context;

/// What there is on the Node of the Machine's name, if the Machine is being deleted; volumes only, if just its VM is gone.
pub(super) fn guests(
    context: &Context,
    memory: &Memory,
    key: &Key,
    machine: &StoredMachine,
    vm_is_gone: bool,
    node: Option<&Node>,
) -> Guests {
    let nothing = Guests {
        pods: Seen::Unwatched,
        volumes: Vec::new(),
        refuge: Refuge::Some,
        turn: None,
    };
    let Some(node) = node.filter(|_| machine.is_deleting() || vm_is_gone) else {
        return nothing;
    };
    let volumes = context.stores.volumes_attached_to(node.name());
    if !machine.is_deleting() {
        return Guests { volumes, ..nothing };
    }
    Guests {
        pods: memory.drains.see(key, node.uid()),
        volumes,
        refuge: refuge(context, machine),
        turn: in_line(context, machine).map(|(siblings, limit)| {
            let name = &context.settings.name;
            memory.turns.see(machine, siblings, limit, name)
        }),
    }
}

/// Takes the Machine's drain slot, if there is one for it.
pub(super) fn take_turn(context: &Context, memory: &Memory, machine: &StoredMachine) -> Option<Turn> {
    let (siblings, limit) = in_line(context, machine)?;
    let name = &context.settings.name;
    Some(memory.turns.take(machine, siblings, limit, name))
}

/// The Machines of the MachineDeployment, if it limits drains, and to how many at a time.
fn in_line(context: &Context, machine: &StoredMachine) -> Option<(Vec<Arc<StoredMachine>>, usize)> {
    let deployment = context.stores.deployment_of(machine)?;
    let limit = turns::limit(&deployment)?;
    Some((context.stores.machines_of_deployment(&deployment), limit))
}

/// Whether there is another Node that takes pods, or will be. Whether it is Ready is not asked: it may become so.
fn refuge(context: &Context, machine: &StoredMachine) -> Refuge {
    let stores = &context.stores;
    let takes_pods = |node: &Node| node.name() != machine.name() && !node.spec.unschedulable;
    let is_coming = |other: &StoredMachine| {
        other.uid() != machine.uid() && !other.is_deleting() && other.status.node_ref.is_none()
    };
    if stores.nodes.any(takes_pods) || stores.machines.any(is_coming) {
        Refuge::Some
    } else {
        Refuge::None
    }
}
