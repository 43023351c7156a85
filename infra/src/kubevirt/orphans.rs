//! What bears a cluster's label and that of a Machine that is gone: which objects are left behind, and why others are
//! not. The metric and the report classify by the same rule.
//!
//! Disks have no label: they belong to the VM that controls them. So does every object that an existing VM controls,
//! regardless of its own labels.

use std::collections::HashMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::ObjectMeta;
use machinist_shared::api::names::label;

/// An object of an infra cluster.
#[derive(Debug, Clone, Copy)]
pub struct ObservedObject<'a> {
    /// Its kind.
    pub kind: &'static str,
    /// Its metadata.
    pub metadata: &'a ObjectMeta,
}

/// Whether an object is an orphan.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ownership<'a> {
    /// An orphan of the Machine with that UID.
    Orphan(&'a str),
    /// The Machine with that UID, or another one that has adopted the VM, exists.
    HasMachine(&'a str),
    /// It lacks this cluster's label, or that of a Machine.
    Foreign,
    /// An object outside the survey controls it.
    Unknown(&'a OwnerReference),
}

/// UID of the deleted Machine that left that Node of the user cluster behind: the Machine in the Node's label does not
/// exist, and no other has the Node's name.
pub fn of_node<'a>(node: &'a ObjectMeta, has_machine: &dyn Fn(&str) -> bool) -> Option<&'a str> {
    let owner = node.labels.as_ref()?.get(label::OWNED_BY)?;
    let name = node.name.as_deref()?;
    (!has_machine(owner) && !has_machine(name)).then_some(owner.as_str())
}

/// Objects of one namespace.
#[derive(Debug)]
pub struct Namespace<'a> {
    objects: Vec<ObservedObject<'a>>,
    by_uid: HashMap<&'a str, ObservedObject<'a>>,
    complete: &'a [&'static str],
}

/// The longest chain is a claim of a DataVolume of a VM; longer ones are cycles.
const LONGEST_CHAIN: usize = 4;

impl<'a> Namespace<'a> {
    /// The observed objects. Objects of the kinds in `complete` that were not observed do not exist.
    pub fn new(objects: Vec<ObservedObject<'a>>, complete: &'a [&'static str]) -> Self {
        let by_uid = objects
            .iter()
            .filter_map(|seen| Some((seen.metadata.uid.as_deref()?, *seen)))
            .collect();
        Self {
            objects,
            by_uid,
            complete,
        }
    }

    /// Its orphans, for the cluster with that UID. `has_machine` returns for a labeled object and the Machine UID in
    /// its label whether that Machine, or another owner of the object, exists.
    pub fn orphans(
        &self,
        cluster_uid: &str,
        has_machine: &dyn Fn(&ObjectMeta, &str) -> bool,
    ) -> Vec<(ObservedObject<'a>, &'a str)> {
        let judged =
            self.objects
                .iter()
                .filter_map(|seen| match self.classify(*seen, cluster_uid, has_machine) {
                    Ownership::Orphan(machine) => Some((*seen, machine)),
                    _ => None,
                });
        judged.collect()
    }

    /// Whether an object is an orphan.
    pub fn classify(
        &self,
        seen: ObservedObject<'a>,
        cluster_uid: &str,
        has_machine: &dyn Fn(&ObjectMeta, &str) -> bool,
    ) -> Ownership<'a> {
        let top = self.top(seen);
        if let Some(owner) = controller(top.metadata)
            && (self.owner(top).is_some() || !self.complete.contains(&owner.kind.as_str()))
        {
            return Ownership::Unknown(owner);
        }
        let labels = top.metadata.labels.as_ref();
        let label = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
        match label(label::MACHINE_UID) {
            Some(machine) if label(label::CLUSTER_UID) == Some(cluster_uid) => {
                if has_machine(top.metadata, machine) {
                    Ownership::HasMachine(machine)
                } else {
                    Ownership::Orphan(machine)
                }
            }
            _ => Ownership::Foreign,
        }
    }

    /// The existing controller of an object.
    pub fn owner(&self, seen: ObservedObject<'a>) -> Option<ObservedObject<'a>> {
        let owner = controller(seen.metadata)?;
        self.by_uid.get(owner.uid.as_str()).copied()
    }

    /// The topmost controller of an object, or the object itself.
    pub fn top(&self, seen: ObservedObject<'a>) -> ObservedObject<'a> {
        let chain = std::iter::successors(Some(seen), |seen| self.owner(*seen));
        chain.take(LONGEST_CHAIN).last().unwrap_or(seen)
    }
}

/// The controller reference of an object.
pub fn controller(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    let mut owners = metadata.owner_references.iter().flatten();
    owners.find(|owner| owner.controller == Some(true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    const KINDS: [&str; 3] = ["VirtualMachine", "DataVolume", "PersistentVolumeClaim"];

    fn metadata(value: Value) -> ObjectMeta {
        serde_json::from_value(value).unwrap()
    }

    #[allow(
        clippy::needless_pass_by_value,
        reason = "tables read better without references"
    )]
    fn owned_by(name: &str, kind: &str, owner: &str, labels: Value) -> ObjectMeta {
        metadata(
            json!({"name": name, "namespace": "vms", "uid": name, "labels": labels, "ownerReferences": [
                {"apiVersion": "v", "kind": "Pod", "name": "uses-it", "uid": "uses-it"},
                {"apiVersion": "v", "kind": kind, "name": "o", "uid": owner, "controller": true}]}),
        )
    }

    fn of(machine: &str) -> Value {
        json!({label::CLUSTER_UID: "c", label::MACHINE_UID: machine})
    }

    fn lives(_: &ObjectMeta, uid: &str) -> bool {
        uid == "alive"
    }

    #[rstest]
    #[case::of_a_machine_that_is_gone(of("gone"), Ownership::Orphan("gone"))]
    #[case::of_a_machine_that_lives(of("alive"), Ownership::HasMachine("alive"))]
    #[case::of_another_cluster(json!({label::CLUSTER_UID: "d", label::MACHINE_UID: "gone"}), Ownership::Foreign)]
    #[case::without_a_cluster(json!({label::MACHINE_UID: "gone"}), Ownership::Foreign)]
    #[case::without_a_machine(json!({label::CLUSTER_UID: "c"}), Ownership::Foreign)]
    #[case::without_labels(json!(null), Ownership::Foreign)]
    fn a_vm_is_judged_by_its_labels_and_what_it_controls_as_it(
        #[case] labels: Value,
        #[case] expected: Ownership<'_>,
    ) {
        let vm = metadata(json!({"name": "web-1", "namespace": "vms", "uid": "vm", "labels": labels}));
        let volume = owned_by("dv", "VirtualMachine", "vm", json!(null));
        let claim = owned_by("claim", "DataVolume", "dv", json!(null));
        // Regardless of its own labels: the VM may have been adopted since.
        let secrets = ["gone", "alive"].map(|machine| owned_by(machine, "VirtualMachine", "vm", of(machine)));
        let all: Vec<_> = [&claim, &volume, &vm, &secrets[0], &secrets[1]]
            .into_iter()
            .zip([
                "PersistentVolumeClaim",
                "DataVolume",
                "VirtualMachine",
                "Secret",
                "Secret",
            ])
            .map(|(metadata, kind)| ObservedObject { kind, metadata })
            .collect();
        let namespace = Namespace::new(all.clone(), &KINDS);
        for seen in all {
            assert_eq!(namespace.classify(seen, "c", &lives), expected, "{seen:?}");
            assert_eq!(namespace.top(seen).metadata.name.as_deref(), Some("web-1"));
        }
        let orphans = namespace.orphans("c", &lives).len();
        assert_eq!(
            orphans,
            if matches!(expected, Ownership::Orphan(_)) {
                5
            } else {
                0
            }
        );
    }

    #[rstest]
    #[case::its_vm_is_gone("VirtualMachine", &KINDS, of("gone"), true)]
    #[case::its_vm_is_gone_and_its_machine_is_not("VirtualMachine", &KINDS, of("alive"), false)]
    #[case::its_vm_is_gone_and_it_has_no_label("VirtualMachine", &KINDS, json!(null), false)]
    #[case::vms_could_not_be_listed("VirtualMachine", &KINDS[1..], of("gone"), false)]
    #[case::a_foreign_object_controls_it("VirtualMachineRestore", &KINDS, of("gone"), false)]
    fn what_has_lost_its_owner_is_judged_by_its_own_labels(
        #[case] kind: &str,
        #[case] complete: &[&'static str],
        #[case] labels: Value,
        #[case] orphaned: bool,
    ) {
        let secret = owned_by("secret", kind, "lost", labels);
        let seen = ObservedObject {
            kind: "Secret",
            metadata: &secret,
        };
        let complete = complete.to_vec();
        let namespace = Namespace::new(vec![seen], &complete);
        let verdict = namespace.classify(seen, "c", &lives);
        assert_eq!(
            matches!(verdict, Ownership::Orphan("gone")),
            orphaned,
            "{verdict:?}"
        );
    }

    #[test]
    fn an_adopted_vm_is_no_orphan_and_neither_is_its_disk() {
        let vm = metadata(json!({"name": "web-1", "uid": "vm", "labels": of("gone")}));
        let volume = owned_by("dv", "VirtualMachine", "vm", json!(null));
        let (vm, volume) = (
            ObservedObject {
                kind: "VirtualMachine",
                metadata: &vm,
            },
            ObservedObject {
                kind: "DataVolume",
                metadata: &volume,
            },
        );
        let namespace = Namespace::new(vec![vm, volume], &KINDS);
        let taken = |metadata: &ObjectMeta, _: &str| metadata.uid.as_deref() == Some("vm");
        for seen in [vm, volume] {
            assert_eq!(
                namespace.classify(seen, "c", &taken),
                Ownership::HasMachine("gone")
            );
        }
    }

    #[rstest]
    #[case::of_a_machine_that_is_gone(json!({"name": "web-1", "labels": {label::OWNED_BY: "gone"}}), Some("gone"))]
    #[case::of_one_that_lives(json!({"name": "web-1", "labels": {label::OWNED_BY: "alive"}}), None)]
    #[case::whose_name_another_machine_has(json!({"name": "alive", "labels": {label::OWNED_BY: "gone"}}), None)]
    #[case::without_a_machine(json!({"name": "web-1"}), None)]
    fn a_node_is_judged_by_its_label_and_name(#[case] node: Value, #[case] machine: Option<&str>) {
        let has_machine = |uid_or_name: &str| uid_or_name == "alive";
        assert_eq!(of_node(&metadata(node), &has_machine), machine);
    }

    #[test]
    fn an_object_that_owns_itself_has_no_known_owner() {
        let (a, b) = (
            owned_by("a", "DataVolume", "b", of("gone")),
            owned_by("b", "PersistentVolumeClaim", "a", json!(null)),
        );
        let (a, b) = (
            ObservedObject {
                kind: "PersistentVolumeClaim",
                metadata: &a,
            },
            ObservedObject {
                kind: "DataVolume",
                metadata: &b,
            },
        );
        let namespace = Namespace::new(vec![a, b], &KINDS);
        for seen in [a, b] {
            let verdict = namespace.classify(seen, "c", &lives);
            assert!(matches!(verdict, Ownership::Unknown(_)), "{verdict:?}");
        }
    }
}
