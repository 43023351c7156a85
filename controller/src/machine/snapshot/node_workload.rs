//! What there is on the Node of a Machine that is being deleted, or whose VM is gone.

use std::sync::Arc;

use machinist_infra::cache::store::Key;

use super::super::drain::Seen;
use super::super::drain::slots::{self, DrainSlot};
use super::super::memory::Memory;
use super::types::{NodeWorkload, SchedulableTargets};
use crate::cache::{Node, StoredMachine};
use crate::context::Context;

/// What there is on the Node of the Machine's name, if the Machine is being deleted; volumes only, if just its VM is gone.
pub(super) fn observe(
    context: &Context,
    memory: &Memory,
    key: &Key,
    machine: &StoredMachine,
    vm_is_gone: bool,
    node: Option<&Node>,
) -> NodeWorkload {
    let nothing = NodeWorkload {
        pods: Seen::Unwatched,
        volumes: Vec::new(),
        schedulable_targets: SchedulableTargets::Some,
        drain_slot: None,
    };
    let Some(node) = node.filter(|_| machine.is_deleting() || vm_is_gone) else {
        return nothing;
    };
    let volumes = context.stores.volumes_attached_to(node.name());
    if !machine.is_deleting() {
        return NodeWorkload { volumes, ..nothing };
    }
    NodeWorkload {
        pods: memory.drains.see(key, node.uid()),
        volumes,
        schedulable_targets: schedulable_targets(context, machine),
        drain_slot: in_line(context, machine).map(|(siblings, limit)| {
            let name = &context.settings.name;
            memory.drain_slots.see(machine, siblings, limit, name)
        }),
    }
}

/// Takes the Machine's drain slot, if there is one for it.
pub(super) fn take_slot(context: &Context, memory: &Memory, machine: &StoredMachine) -> Option<DrainSlot> {
    let (siblings, limit) = in_line(context, machine)?;
    let name = &context.settings.name;
    Some(memory.drain_slots.take(machine, siblings, limit, name))
}

/// The Machines of the MachineDeployment, if it limits drains, and to how many at a time.
fn in_line(context: &Context, machine: &StoredMachine) -> Option<(Vec<Arc<StoredMachine>>, usize)> {
    let deployment = context.stores.deployment_of(machine)?;
    let limit = slots::limit(&deployment)?;
    Some((context.stores.machines_of_deployment(&deployment), limit))
}

/// Whether there is another Node that takes pods, or will be. Whether it is Ready is not asked: it may become so.
fn schedulable_targets(context: &Context, machine: &StoredMachine) -> SchedulableTargets {
    let stores = &context.stores;
    let takes_pods = |node: &Node| node.name() != machine.name() && !node.spec.unschedulable;
    let is_coming = |other: &StoredMachine| {
        other.uid() != machine.uid() && !other.is_deleting() && other.status.node_ref.is_none()
    };
    if stores.nodes.any(takes_pods) || stores.machines.any(is_coming) {
        SchedulableTargets::Some
    } else {
        SchedulableTargets::None
    }
}
