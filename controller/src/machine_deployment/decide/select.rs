//! Which sets belong to the deployment: those whose own labels match its selector and that nobody else controls.

use machinist_shared::api::names::{annotation, label};

use super::super::observed::Set;
use super::draft::Draft;

/// Takes sets that nobody controls, and lets go of those that match no more.
///
/// A set that is being deleted is neither taken nor let go: it is somebody's already, and garbage collection wants to
/// know whose.
pub(super) fn decide(draft: &mut Draft<'_>) {
    let deployment = &draft.observed.deployment;
    for set in draft.sets.iter_mut().filter(|set| !set.deleting) {
        match set.controller() {
            None if set.matches => set.owners.push(deployment.owner()),
            Some(uid) if uid == deployment.uid && !set.matches => {
                set.owners.retain(|owner| owner.uid != deployment.uid);
                let_go(set);
            }
            _ => {}
        }
    }
}

/// Takes what tells the cluster-autoscaler that a set is part of a rollout, or a node group. With these, one that nobody
/// owns would keep its former pool from ever being scaled down, or be another one itself.
fn let_go(set: &mut Set) {
    set.labels.remove(label::DEPLOYMENT_NAME);
    set.annotations.retain(|key, _| {
        key != annotation::ROLLOUT_GUARD && !machinist_shared::admission::autoscaler::is_of_a_node_group(key)
    });
}
