//! VMs with a cluster's label and that of a deleted Machine, and their disks.

use super::kind::Objects;
use crate::kubevirt::orphans::{Namespace, ObservedObject};
use crate::provider::{InfraKey, Orphan};

/// The kinds that are watched completely.
const KINDS: [&str; 3] = ["VirtualMachine", "DataVolume", "PersistentVolumeClaim"];

/// Orphans among `objects`, of the cluster of that UID.
pub(super) fn of(
    place: &InfraKey,
    objects: &Objects,
    cluster_uid: &str,
    lives: &dyn Fn(&str) -> bool,
) -> Vec<Orphan> {
    let vms = objects.vms.all();
    let volumes = objects.data_volumes.all();
    let claims = objects.claims.all();
    let seen = |kind: &'static str, metadata| ObservedObject { kind, metadata };
    let vms = vms.iter().map(|vm| seen(KINDS[0], &vm.metadata));
    let volumes = volumes.iter().map(|volume| seen(KINDS[1], &volume.metadata));
    let claims = claims.iter().map(|claim| seen(KINDS[2], &claim.metadata));
    let namespace = Namespace::new(vms.chain(volumes).chain(claims).collect(), &KINDS);
    let found = namespace.orphans(cluster_uid, &|_, machine| lives(machine));
    let orphans = found.into_iter().map(|(seen, _)| Orphan {
        kind: seen.kind,
        server: place.server.clone(),
        namespace: place.namespace.clone(),
        name: seen.metadata.name.clone().unwrap_or_default(),
    });
    orphans.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::watch::Event;
    use machinist_shared::api::names::label;
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
