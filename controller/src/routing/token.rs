//! What an event about a bootstrap token enqueues.

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use machinist_infra::cache::store::Key;
use machinist_shared::api::names::label;

use crate::cache::Stores;
use crate::runtime::queue::Queues;

/// A bootstrap token: its Machine, and the requests that came with it.
pub(super) fn enqueue(token: &Secret, stores: &Stores, queues: &Queues) {
    requests_with(token, stores, queues);
    if let Some(uid) = token.labels().get(label::MACHINE_UID) {
        for machine in stores.machines.by_index(uid) {
            queues.machines.add(Key::of(machine.as_ref()));
        }
    }
}

/// Pending requests that came with it.
pub(super) fn requests_with(token: &Secret, stores: &Stores, queues: &Queues) {
    for request in stores.requests_with(token) {
        queues.requests.add(Key::of(request.as_ref()));
    }
}
