//! What an event about a certificate signing request enqueues.

use machinist_infra::cache::store::Key;

use crate::cache::{NODE_USER, StoredRequest, Stores};
use crate::runtime::queue::Queues;

/// A request for a client certificate: itself, and the Machine that shows how long it is pending.
pub(super) fn enqueue(request: &StoredRequest, stores: &Stores, queues: &Queues) {
    queues.requests.add(Key::of(request));
    if let Some(node) = &request.joins_as {
        for machine in stores.machines.by_index(node) {
            queues.machines.add(Key::of(machine.as_ref()));
        }
    }
}

/// A request for a serving certificate: the Machine whose node asks. It is decided with that, so that whatever happens to
/// VM, Node or Machine decides it, too.
pub(super) fn enqueue_serving(request: &StoredRequest, stores: &Stores, queues: &Queues) {
    if let Some(node) = request.username().strip_prefix(NODE_USER) {
        for machine in stores.machines.by_index(node) {
            queues.machines.add(Key::of(machine.as_ref()));
        }
    }
}
