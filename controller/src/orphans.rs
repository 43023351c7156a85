//! VMs that bear our label and this cluster's identity and have no Machine, their disks, and Nodes that Machines have left
//! behind.

use machinist_infra::kubevirt::orphans::of_node;
use machinist_infra::provider::Orphan;

use crate::context::Context;

/// Kind of a Node.
pub const NODE: &str = "Node";

/// All that are known, on infra clusters that Machines use, and in the user cluster.
pub fn find(context: &Context) -> Vec<Orphan> {
    let stores = &context.stores;
    // What a tombstone finishes is not left behind.
    let has_machine = |uid: &str| stores.machines.has_index(uid) || stores.tombstones.has_uid(uid);
    let mut found = context.infra.orphans(&context.settings.cluster_uid, &has_machine);
    let nodes = stores.nodes.all();
    let nodes = nodes
        .iter()
        .filter(|node| of_node(&node.metadata, &has_machine).is_some());
    found.extend(nodes.map(|node| Orphan {
        kind: NODE,
        server: String::new(),
        namespace: String::new(),
        name: node.name().to_owned(),
    }));
    found
}
