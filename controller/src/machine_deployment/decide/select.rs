//! Which sets belong to the deployment: those whose own labels match its selector and that have no other controller.

use machinist_shared::api::names::{annotation, label};

use super::super::snapshot::types::Set;
use super::pool::Pool;

/// Adopts sets without a controller, and releases those that match no more.
///
/// A set that is being deleted is neither adopted nor released: garbage collection needs its owner.
pub(super) fn claim(mut pool: Pool<'_>) -> Pool<'_> {
    let deployment = &pool.observed.deployment;
    for set in pool.sets.iter_mut().filter(|set| !set.deleting) {
        match set.controller() {
            None if set.matches => set.owners.push(deployment.owner()),
            Some(uid) if uid == deployment.uid && !set.matches => release(set, &deployment.uid),
            _ => {}
        }
    }
    pool
}

/// Removes the owner, and what makes a set a part of a rollout or a node group for the cluster-autoscaler. With that, one
/// without an owner would keep its previous pool from ever being scaled down, or be another pool itself.
fn release(set: &mut Set, owner: &str) {
    set.owners.retain(|found| found.uid != owner);
    set.labels.remove(label::DEPLOYMENT_NAME);
    set.annotations.retain(|key, _| {
        key != annotation::ROLLOUT_GUARD && !machinist_shared::admission::autoscaler::is_of_a_node_group(key)
    });
}
