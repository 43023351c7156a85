//! What an event about a Node, or a volume that is attached to one, enqueues.

use machinist_infra::cache::store::Key;

use super::machine::{requests_of, sets_of};
use crate::cache::{Node, Stores, VolumeAttachment};
use crate::runtime::queue::Queues;

/// A Node: the Machines of its name, their sets, and the requests that came with their tokens.
pub(super) fn enqueue(node: &Node, stores: &Stores, queues: &Queues) {
    for machine in stores.machines.by_index(node.name()) {
        queues.machines.add(Key::of(machine.as_ref()));
        requests_of(&machine, stores, queues);
        if machine.controller_uid().is_some() {
            sets_of(&machine, stores, queues);
        }
    }
}

/// An attached volume: the Machine of the Node's name, which waits for it only while it is being deleted or its VM is gone.
pub(super) fn enqueue_attached(attachment: &VolumeAttachment, stores: &Stores, queues: &Queues) {
    for machine in stores.machines.by_index(&attachment.node) {
        if machine.is_deleting() || machine.progress.vm_loss.is_some() {
            queues.machines.add(Key::of(machine.as_ref()));
        }
    }
}
