//! VMs that bear a cluster's label and that of a Machine that is gone, and their disks.

use std::collections::HashSet;

use kube::core::ObjectMeta;
use machinist_shared::names::label;

use super::kind::Objects;
use crate::provider::{InfraKey, Orphan};

/// Orphans among `objects`, of the cluster of that UID.
pub(super) fn of(
    place: &InfraKey,
    objects: &Objects,
    cluster_uid: &str,
    lives: &dyn Fn(&str) -> bool,
) -> Vec<Orphan> {
    let mut found = Vec::new();
    let mut owners = HashSet::new();
    let mut add = |kind: &'static str, metadata: &ObjectMeta| {
        found.push(Orphan {
            kind,
            server: place.server.clone(),
            namespace: place.namespace.clone(),
            name: metadata.name.clone().unwrap_or_default(),
        });
    };
    for vm in objects.vms.all() {
        if is_orphaned(&vm.metadata, cluster_uid, lives) {
            owners.extend(vm.metadata.uid.clone());
            add("VirtualMachine", &vm.metadata);
        }
    }
    for disk in objects.data_volumes.all() {
        if is_controlled(&disk.metadata, &owners) {
            owners.extend(disk.metadata.uid.clone());
            add("DataVolume", &disk.metadata);
        }
    }
    for claim in objects.claims.all() {
        if is_controlled(&claim.metadata, &owners) {
            add("PersistentVolumeClaim", &claim.metadata);
        }
    }
    found
}

/// What bears no label of ours, or another cluster's, is nobody's business here.
fn is_orphaned(metadata: &ObjectMeta, cluster_uid: &str, lives: &dyn Fn(&str) -> bool) -> bool {
    let label = |key: &str| metadata.labels.as_ref()?.get(key).map(String::as_str);
    label(label::CLUSTER_UID) == Some(cluster_uid) && label(label::MACHINE_UID).is_some_and(|uid| !lives(uid))
}

fn is_controlled(metadata: &ObjectMeta, owners: &HashSet<String>) -> bool {
    let mut references = metadata.owner_references.iter().flatten();
    references.any(|owner| owner.controller == Some(true) && owners.contains(&owner.uid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::runtime::watcher::Event;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn owned_by(name: &str, uid: &str, owner: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": "vms", "uid": uid, "ownerReferences": [
            {"apiVersion": "v", "kind": "k", "name": "o", "uid": owner, "controller": true}]}})
    }

    #[rstest]
    #[case::of_a_machine_that_is_gone(json!({label::CLUSTER_UID: "c", label::MACHINE_UID: "gone"}), true)]
    #[case::of_a_machine_that_lives(json!({label::CLUSTER_UID: "c", label::MACHINE_UID: "alive"}), false)]
    #[case::of_another_cluster(json!({label::CLUSTER_UID: "d", label::MACHINE_UID: "gone"}), false)]
    #[case::without_a_cluster(json!({label::MACHINE_UID: "gone"}), false)]
    #[case::without_a_machine(json!({label::CLUSTER_UID: "c"}), false)]
    #[case::without_labels(json!(null), false)]
    fn a_vm_and_its_disks_are_orphans(#[case] labels: Value, #[case] orphaned: bool) {
        let objects = Objects::default();
        let vm = json!({"metadata": {"name": "web-1", "namespace": "vms", "uid": "v", "labels": labels}});
        objects
            .vms
            .apply(Event::Apply(serde_json::from_value(vm).unwrap()));
        let volume = owned_by("web-1", "dv", "v");
        objects
            .data_volumes
            .apply(Event::Apply(serde_json::from_value(volume).unwrap()));
        for (name, owner) in [("web-1", "dv"), ("theirs", "other")] {
            let claim = owned_by(name, name, owner);
            objects
                .claims
                .apply(Event::Apply(serde_json::from_value(claim).unwrap()));
        }
        let place = InfraKey {
            server: "https://infra".into(),
            ca_digest: String::new(),
            namespace: "vms".into(),
        };
        let found = of(&place, &objects, "c", &|uid| uid == "alive");
        let found: Vec<_> = found
            .iter()
            .map(|orphan| (orphan.kind, orphan.name.as_str()))
            .collect();
        let all = [
            ("VirtualMachine", "web-1"),
            ("DataVolume", "web-1"),
            ("PersistentVolumeClaim", "web-1"),
        ];
        assert_eq!(found, if orphaned { all.to_vec() } else { Vec::new() });
    }
}
