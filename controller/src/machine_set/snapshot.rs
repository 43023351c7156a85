//! Takes the snapshot of a MachineSet from the stores.

pub mod types;

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use machinist_infra::cache::store::Key;
use machinist_shared::api::names::annotation;
use tokio::time::Instant;

use self::types::{Member, NodeState, Snapshot};
use super::decide::restore;
use super::memory::Memories;
use super::new_machine;
use crate::autoscaler::NodeGroups;
use crate::cache::{NodeGroup, StoredMachine, StoredMachineSet, Stores, overlap};
use crate::context::Context;
use crate::orphans;
use crate::runtime::backoff;
use crate::runtime::creation_limit::Fate;

/// Takes notice of what has become of what the set has created.
pub(super) fn note(
    context: &Context,
    groups: &Arc<NodeGroups>,
    memories: &Memories,
    key: &Key,
    set: &Arc<StoredMachineSet>,
    now: Timestamp,
) {
    let stores = &context.stores;
    let machines = stores.machines_of(set.uid());
    memories.count_losses(key, set, machines.iter().map(AsRef::as_ref), now);
    let machine = |name: &str| stores.machines.get(&Key::new(set.namespace(), name));
    // What has come by watch meanwhile is no question any more.
    for name in memories.unresolved(key) {
        if machine(&name).is_some_and(|machine| machine.controller_uid() == Some(set.uid())) {
            memories.resolve(key, &name);
        }
    }
    let fate = |name: &str| match machine(name) {
        Some(found) if !set.has(&found) => Fate::Tombstones,
        Some(found) if found.is_deleting() => Fate::Deleted,
        Some(_) => Fate::Kept,
        // One without finalizers is gone at once.
        None if stores.machines.saw_deletion(&Key::new(set.namespace(), name)) => Fate::Deleted,
        None => Fate::Tombstones,
    };
    memories.review(key, set, Instant::now(), fate, |name, uid| {
        still(stores, set, name, uid).is_some()
    });
    let object = set.is_node_group().then(|| set.as_node_group());
    groups.note(&NodeGroup::Set(key.clone()), object.as_ref());
}

/// The Machine of that name and UID, unless it is being deleted.
fn still(stores: &Stores, set: &StoredMachineSet, name: &str, uid: &str) -> Option<Arc<StoredMachine>> {
    let found = stores.machines.get(&Key::new(set.namespace(), name))?;
    (found.uid() == uid && !found.is_deleting()).then_some(found)
}

/// Everything known of the set, and of nothing else: the cost grows with its own Machines and the orphans only.
pub(super) fn take_snapshot(
    context: &Context,
    groups: &NodeGroups,
    memories: &Memories,
    key: &Key,
    set: &Arc<StoredMachineSet>,
    now: Timestamp,
) -> Snapshot {
    let stores = &context.stores;
    let machines = stores.machines_of(set.uid()).into_iter();
    let machines = machines.filter(|machine| machine.namespace() == set.namespace());
    let machines = machines.map(|machine| Member {
        node: node_state(stores, &machine),
        machine,
    });
    let rejected = memories.creations(key, |creations| creations.rejected());
    let rejected = rejected.unwrap_or_default();
    let rejected: Vec<_> = rejected
        .iter()
        .filter_map(|(name, uid)| still(stores, set, name, uid))
        .collect();
    let is_rejected = |machine: &StoredMachine| rejected.iter().any(|other| other.uid() == machine.uid());
    let machines: Vec<Member> = machines.filter(|member| !is_rejected(&member.machine)).collect();
    let orphans = stores.orphaned_machines_in(set.namespace()).into_iter();
    let orphans = orphans
        .filter(|machine| !machine.is_deleting() && set.selector.matches(machine.metadata.labels.as_ref()))
        .filter(|machine| !is_rejected(machine));
    let instancetype = groups.known(&NodeGroup::Set(key.clone()));
    let creations = memories.creations(key, |creations| creations.allowance());
    let left_behind = if restore::deadline(set, &machines, now).is_some() {
        left_behind(context, set)
    } else {
        Vec::new()
    };
    Snapshot {
        set: set.clone(),
        left_behind,
        instancetype: instancetype.spec,
        instancetype_again: instancetype.again,
        orphans: orphans.collect(),
        creations: creations.unwrap_or_default(),
        rejected,
        failure: memories.failure(key, || subject(set, &machines)),
        machines,
        recreation: memories.recreations.of(key, set.uid(), now),
        skew: context.clock.skew(),
        status_overdue: memories.is_overdue(key, Instant::now()),
        overlaps: if memories.tells_overlap(key, set.metadata.generation) {
            overlap::of_set(stores, set)
        } else {
            Vec::new()
        },
    }
}

/// Names of Nodes and VMs that bear the set's name, and have no Machine.
fn left_behind(context: &Context, set: &StoredMachineSet) -> Vec<String> {
    let found = orphans::find(context).into_iter();
    let found = found.filter(|orphan| [orphans::NODE, "VirtualMachine"].contains(&orphan.kind));
    let names = found
        .map(|orphan| orphan.name)
        .filter(|name| new_machine::is_name_of(set.name(), name) && !context.stores.machines.has_index(name));
    // A Node and its VM have one name.
    let names: BTreeSet<String> = names.collect();
    names.into_iter().collect()
}

/// What others may change that lets a write of the set succeed: itself, and which Machines there are, for a quota may
/// limit them.
pub(super) fn subject(set: &StoredMachineSet, machines: &[Member]) -> u64 {
    let mut uids: Vec<&str> = machines.iter().map(|member| member.machine.uid()).collect();
    uids.sort_unstable();
    backoff::subject(&set.metadata, (set.metadata.generation, uids))
}

/// The state of the Node that the Machine has joined as, as the Node itself says.
fn node_state(stores: &Stores, machine: &StoredMachine) -> NodeState {
    let Some(joined) = &machine.status.node_ref else {
        return NodeState::Absent;
    };
    let name = joined.name.as_deref().unwrap_or_default();
    let Some(node) = stores.nodes.get(&Key::new("", name)) else {
        return NodeState::Absent;
    };
    if joined.uid.as_deref().is_some_and(|uid| uid != node.uid()) {
        return NodeState::Absent;
    }
    // A Node without the Machine's labels and taints takes pods that shall not come onto it. All of them are written at once.
    let own = format!("{}/{}", machine.namespace(), machine.name());
    if node.annotation(annotation::MACHINE) != Some(&own) {
        return NodeState::NotReady;
    }
    if node.is_ready() {
        let since = node.ready().and_then(|ready| ready.last_transition_time.as_ref());
        NodeState::Ready {
            since: since.map(|time| time.0),
        }
    } else {
        NodeState::NotReady
    }
}

/// From when on a Machine counts as available; nothing if that cannot be reported.
pub fn available_at(
    stores: &Stores,
    machine: &Arc<StoredMachine>,
    min_ready_seconds: i32,
) -> Option<Timestamp> {
    let node = node_state(stores, machine);
    let machine = Arc::clone(machine);
    Member { machine, node }.available_at(min_ready_seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinist_infra::cache::watch::Event;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn node(uid: &str, ready: &str) -> Value {
        json!({"metadata": {"name": "n", "uid": uid, "resourceVersion": "1", "annotations": {"cluster.k8s.io/machine": "kube-system/n"}}, "status": {"conditions": [
            {"type": "Ready", "status": ready, "lastTransitionTime": "2027-01-01T00:00:00Z"}]}})
    }

    /// A Node that the API server did not let be given the Machine's labels, taints and annotations.
    fn undecorated(uid: &str, ready: &str) -> Value {
        let mut node = node(uid, ready);
        node["metadata"]["annotations"] = Value::Null;
        node
    }

    #[rstest]
    #[case::ready(json!({"name": "n", "uid": "u"}), node("u", "True"),
        NodeState::Ready { since: Some("2027-01-01T00:00:00Z".parse().unwrap()) })]
    #[case::not_ready(json!({"name": "n", "uid": "u"}), node("u", "Unknown"), NodeState::NotReady)]
    #[case::not_decorated(json!({"name": "n", "uid": "u"}), undecorated("u", "True"), NodeState::NotReady)]
    #[case::another_node_of_that_name(json!({"name": "n", "uid": "u"}), node("v", "True"), NodeState::Absent)]
    #[case::gone(json!({"name": "m", "uid": "u"}), node("u", "True"), NodeState::Absent)]
    #[case::not_joined(Value::Null, node("u", "True"), NodeState::Absent)]
    fn the_node_says_itself_whether_it_is_ready(
        #[case] node_ref: Value,
        #[case] node: Value,
        #[case] expected: NodeState,
    ) {
        let stores = Stores::default();
        stores
            .nodes
            .apply(Event::Apply(serde_json::from_value(node).unwrap()));
        let machine: StoredMachine = serde_json::from_value(
            json!({"metadata": {"name": "n", "namespace": "kube-system"}, "status": {"nodeRef": node_ref}}),
        )
        .unwrap();
        assert_eq!(node_state(&stores, &machine), expected);
    }
}
