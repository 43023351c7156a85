//! Support for the unmodified cluster-autoscaler: validates the annotations that it reads, and writes the capacity
//! annotations that it needs to scale a node group up from zero.
//!
//! The provider is `clusterapi` with `CAPI_GROUP=cluster.k8s.io`. One malformed size on any object makes it drop every
//! node group of the cluster without notifying the author, so admission refuses malformed sizes.

mod capacity;
mod sizes;
mod validate;
mod written;

pub use capacity::{Capacity, capacity, instancetype};
pub use sizes::{Sizes, sizes};
pub use validate::validate;
pub use written::{Changes, corrections, instancetype_needed, write};

use serde_json::Value;

use crate::api::names::autoscaler::{CAPACITY, MAX_SIZE, MIN_SIZE, OPTIONS, WRITTEN};
use crate::api::raw::{Object, object_at};

/// Whether the object can be a node group: a MachineDeployment, or a MachineSet without a MachineDeployment.
fn is_top_level(object: &Value) -> bool {
    let owners = object
        .pointer("/metadata/ownerReferences")
        .and_then(Value::as_array);
    let mut owners = owners.into_iter().flatten();
    !owners.any(|owner| owner.get("kind").and_then(Value::as_str) == Some("MachineDeployment"))
}

/// Whether an annotation makes an object a node group, or describes the group.
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
