//! Which sets belong to the deployment: those whose own labels match its selector and that nobody else controls.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use machinist_shared::names::{API_VERSION, annotation, label};

use super::super::observed::{Deployment, Set};
use super::draft::Draft;

/// Takes sets that nobody controls, and lets go of those that match no more.
///
/// A set that is being deleted is neither taken nor let go: it is somebody's already, and garbage collection wants to
/// know whose.
pub(super) fn decide(draft: &mut Draft<'_>) {
    let deployment = &draft.observed.deployment;
    for set in draft.sets.iter_mut().filter(|set| !set.deleting) {
        match set.controller() {
            None if set.matches => set.owners.push(owner(deployment)),
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
        key != annotation::ROLLOUT_GUARD && !machinist_shared::autoscaler::is_of_a_node_group(key)
    });
}

/// Whether a set belongs to the deployment.
pub(super) fn belongs(set: &Set, deployment: &Deployment) -> bool {
    set.matches && set.controller() == Some(&deployment.uid)
}

/// The reference that makes a deployment the controller of a set.
pub(crate) fn owner(deployment: &Deployment) -> OwnerReference {
    OwnerReference {
        api_version: API_VERSION.to_owned(),
        kind: "MachineDeployment".to_owned(),
        name: deployment.name.clone(),
        uid: deployment.uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}
