//! The unmodified cluster-autoscaler: what it reads of a node group, judged before it reads it, and what a node of the
//! group will have, written down so that a group can be scaled up from nothing.
//!
//! The provider is `clusterapi` with `CAPI_GROUP=cluster.k8s.io`. One malformed size on any object makes it drop every
//! node group of the cluster, silently for whoever wrote it; so it is refused at admission.

mod capacity;
mod judge;
mod sizes;
mod written;

pub use capacity::{Capacity, capacity, instancetype};
pub use judge::judge;
pub use sizes::{Sizes, sizes};
pub use written::{Changes, corrections, instancetype_needed, write};

use serde_json::Value;

use crate::api::names::autoscaler::{CAPACITY, MAX_SIZE, MIN_SIZE, OPTIONS, WRITTEN};
use crate::api::raw::{Object, object_at};

/// Whether the autoscaler may see the object as a node group: a MachineDeployment, or a MachineSet of none.
fn is_top_level(object: &Value) -> bool {
    let owners = object
        .pointer("/metadata/ownerReferences")
        .and_then(Value::as_array);
    let mut owners = owners.into_iter().flatten();
    !owners.any(|owner| owner.get("kind").and_then(Value::as_str) == Some("MachineDeployment"))
}

/// Whether an annotation makes a node group of an object, or describes the group.
#[must_use]
pub fn is_of_a_node_group(key: &str) -> bool {
    [MIN_SIZE, MAX_SIZE, WRITTEN].contains(&key) || key.starts_with(CAPACITY) || key.starts_with(OPTIONS)
}

fn annotations(object: &Value) -> impl Iterator<Item = (&str, &str)> {
    let annotations: Option<&Object> = object
        .as_object()
        .and_then(|root| object_at(root, &["metadata", "annotations"]));
    let texts = annotations.into_iter().flatten();
    texts.filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
}

#[cfg(test)]
mod tests;
