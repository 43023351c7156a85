//! The simulator's cache of the cluster: every watched object, kept up to date by watches and its own writes.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use kube::ResourceExt as _;
use kube::api::DynamicObject;

use crate::data_volume::Class;
use crate::faults::Faults;
use crate::hosts::pod;
use crate::objects::{Kind, controller_of, list, text};
use crate::vmi::{NODE, other};

/// An object of the world, by kind and name; there is one namespace.
pub type Key = (Kind, String);

/// All watched objects.
#[derive(Debug, Default)]
pub struct World {
    objects: HashMap<Kind, HashMap<String, Arc<DynamicObject>>>,
    /// UIDs of objects whose deletion a watch has delivered: a late response to a write does not restore them.
    ended: HashSet<String>,
    addresses: u32,
    /// The node that a VM was asked to leave last.
    drained: Option<String>,
}

fn version(object: &DynamicObject) -> u64 {
    object
        .resource_version()
        .and_then(|text| text.parse().ok())
        .unwrap_or_default()
}

impl World {
    /// An object as last seen.
    pub fn get(&self, kind: Kind, name: &str) -> Option<&Arc<DynamicObject>> {
        self.objects.get(&kind)?.get(name)
    }

    /// All objects of a kind.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = &Arc<DynamicObject>> {
        self.objects.get(&kind).into_iter().flat_map(HashMap::values)
    }

    /// Stores an object from a watch or a write, unless the stored one is newer. Returns whether it changed.
    pub fn learn(&mut self, kind: Kind, object: DynamicObject) -> bool {
        let name = object.name_any();
        if object.uid().is_some_and(|uid| self.ended.contains(&uid)) {
            return false;
        }
        let kept = self.objects.entry(kind).or_default();
        if kept
            .get(&name)
            .is_some_and(|known| version(known) >= version(&object))
        {
            return false;
        }
        if let Some(leaves) = text(&object, "/status/evacuationNodeName") {
            self.drained = Some(leaves.to_owned());
        }
        kept.insert(name, Arc::new(object));
        true
    }

    /// The node that launchers are scheduled to. A drained node is cordoned.
    pub fn host(&self) -> &'static str {
        self.drained.as_deref().map_or(NODE, other)
    }

    /// Forgets an object; one of the same name with another UID is another object and stays.
    pub fn forget(&mut self, kind: Kind, name: &str, uid: Option<&str>) {
        self.ended.extend(uid.map(str::to_owned));
        if let Some(kept) = self.objects.get_mut(&kind)
            && kept
                .get(name)
                .is_some_and(|known| uid.is_none() || known.uid().as_deref() == uid)
        {
            kept.remove(name);
        }
    }

    /// Forgets what a complete list no longer has; returns the names.
    pub fn retain(&mut self, kind: Kind, listed: &BTreeSet<String>) -> Vec<String> {
        let kept = self.objects.entry(kind).or_default();
        let gone: Vec<String> = kept
            .keys()
            .filter(|name| !listed.contains(*name))
            .cloned()
            .collect();
        kept.retain(|name, _| listed.contains(name));
        gone
    }

    /// The VM that a DataVolume belongs to.
    pub fn vm_of(&self, data_volume: &DynamicObject) -> Option<&Arc<DynamicObject>> {
        let owner = controller_of(data_volume).filter(|owner| owner.kind == "VirtualMachine")?;
        self.get(Kind::Vm, &owner.name)
            .filter(|vm| vm.uid().as_deref() == Some(&owner.uid))
    }

    /// An address that no VMI has: 10.200.0.0/16 and up.
    pub fn fresh_address(&mut self) -> String {
        loop {
            self.addresses += 1;
            let [_, high, middle, low] = self.addresses.to_be_bytes();
            let address = format!("10.{}.{middle}.{low}", 200 + high % 50);
            let used =
                |vmi: &Arc<DynamicObject>| text(vmi, "/status/interfaces/0/ipAddress") == Some(&address);
            // .0 and .255 are valid addresses, but look wrong.
            if !matches!(low, 0 | 255) && !self.all(Kind::Vmi).any(used) {
                return address;
            }
        }
    }

    /// The parts of the simulator to requeue when this object has changed.
    pub fn concerned(&self, kind: Kind, name: &str) -> Vec<Key> {
        let vmis_with = |found: &dyn Fn(&DynamicObject) -> bool| -> Vec<Key> {
            self.all(Kind::Vmi)
                .filter(|vmi| found(vmi))
                .map(|vmi| (Kind::Vmi, vmi.name_any()))
                .collect()
        };
        match kind {
            Kind::Vm => {
                let mut keys = vec![(Kind::Vm, name.to_owned()), (Kind::Vmi, name.to_owned())];
                if let Some(vm) = self.get(Kind::Vm, name) {
                    keys.extend(template_names(vm).map(|name| (Kind::DataVolume, name.to_owned())));
                }
                keys
            }
            Kind::Vmi => {
                let mut keys = vec![(Kind::Vmi, name.to_owned()), (Kind::Vm, name.to_owned())];
                if let Some(vmi) = self.get(Kind::Vmi, name) {
                    keys.extend(claim_names(vmi).map(|claim| (Kind::DataVolume, claim.to_owned())));
                }
                keys
            }
            Kind::DataVolume | Kind::Pvc => {
                let mut keys = vec![(Kind::DataVolume, name.to_owned())];
                if kind == Kind::Pvc {
                    keys.push((Kind::Pvc, name.to_owned()));
                    let target = self.get(Kind::Pvc, name).and_then(|claim| controller_of(claim));
                    keys.extend(target.map(|target| (Kind::DataVolume, target.name.clone())));
                }
                match self
                    .get(Kind::DataVolume, name)
                    .and_then(|data_volume| self.vm_of(data_volume))
                {
                    Some(vm) => keys.extend([(Kind::Vm, vm.name_any()), (Kind::Vmi, vm.name_any())]),
                    None => keys.extend(self.waiting_for_disk(name)),
                }
                keys
            }
            Kind::Secret => vmis_with(&|vmi| {
                list(vmi, "/spec/volumes").iter().any(|volume| {
                    volume
                        .pointer("/cloudInitNoCloud/secretRef/name")
                        .and_then(serde_json::Value::as_str)
                        == Some(name)
                })
            }),
            Kind::Instancetype | Kind::ClusterInstancetype | Kind::Preference | Kind::ClusterPreference => {
                let waiting = |vm: &&Arc<DynamicObject>| {
                    text(vm, "/spec/instancetype/name") == Some(name)
                        || text(vm, "/spec/preference/name") == Some(name)
                };
                self.all(Kind::Vm)
                    .filter(waiting)
                    .map(|vm| (Kind::Vm, vm.name_any()))
                    .collect()
            }
            Kind::Pod => {
                let mut keys = vec![(Kind::Pod, name.to_owned())];
                let vmi = self.get(Kind::Pod, name).and_then(|pod| pod::vmi_of(pod));
                keys.extend(vmi.map(|vmi| (Kind::Vmi, vmi.to_owned())));
                keys
            }
            Kind::Volume => vec![(Kind::Volume, name.to_owned())],
            Kind::StorageClass | Kind::StorageProfile | Kind::CsiDriver => {
                let disks = self.all(Kind::DataVolume);
                let mut keys: Vec<Key> = disks.map(|disk| (Kind::DataVolume, disk.name_any())).collect();
                keys.push((Kind::StorageClass, name.to_owned()));
                keys
            }
            Kind::Node | Kind::Revision | Kind::Event => Vec::new(),
        }
    }

    /// The pods and claims to requeue when an object of this kind has changed: there are few.
    pub(crate) fn concerned_on_hosts(&self, kind: Kind) -> Vec<Key> {
        let concerned: &[Kind] = match kind {
            Kind::Vm => &[Kind::Pod, Kind::Pvc],
            Kind::Vmi | Kind::DataVolume | Kind::Pvc | Kind::Secret | Kind::Node => &[Kind::Pod],
            _ => &[],
        };
        concerned
            .iter()
            .flat_map(|kind| self.all(*kind).map(|object| (*kind, object.name_any())))
            .collect()
    }

    /// How the StorageClass of a DataVolume makes volumes.
    pub(crate) fn class_of(&self, data_volume: &DynamicObject) -> Class {
        let name = ["storage", "pvc"]
            .iter()
            .find_map(|part| text(data_volume, &format!("/spec/{part}/storageClassName")));
        let Some(class) = name.and_then(|name| self.get(Kind::StorageClass, name)) else {
            return Class::default();
        };
        let driver = text(class, "/provisioner").and_then(|driver| self.get(Kind::CsiDriver, driver));
        Class {
            csi: driver.is_some(),
            waits: text(class, "/volumeBindingMode") == Some("WaitForFirstConsumer"),
        }
    }

    /// Whether a VMI that can be scheduled uses a claim.
    pub(crate) fn has_consumer(&self, claim: &str) -> bool {
        self.all(Kind::Vmi).any(|vmi| {
            !crate::vm::is_final(vmi)
                && claim_names(vmi).any(|name| name == claim)
                && self.faults_of_vm(&vmi.name_any()).unschedulable.is_none()
        })
    }

    /// Faults of the VM of this name.
    pub(crate) fn faults_of_vm(&self, name: &str) -> Faults {
        self.get(Kind::Vm, name)
            .map(|vm| Faults::of(vm))
            .unwrap_or_default()
    }

    /// Faults of the VM that a claim, or the one that it is to fill, belongs to.
    pub(crate) fn faults_of_claim(&self, claim: &DynamicObject) -> Faults {
        let owner = controller_of(claim).filter(|owner| owner.kind == "PersistentVolumeClaim");
        let name = owner.map_or_else(|| claim.name_any(), |owner| owner.name.clone());
        let disk = self.get(Kind::DataVolume, &name);
        disk.map(|disk| Faults::of(self.vm_of(disk).unwrap_or(disk)))
            .unwrap_or_default()
    }

    /// Faults of the VM that a pod works for.
    pub(crate) fn faults_of_pod(&self, pod: &DynamicObject) -> Faults {
        if let Some(vmi) = pod::vmi_of(pod) {
            return self.faults_of_vm(vmi);
        }
        let claims = pod::claim_names(pod).filter_map(|claim| self.get(Kind::Pvc, claim));
        let mut faults = claims.map(|claim| self.faults_of_claim(claim));
        faults
            .find(|faults| *faults != Faults::default())
            .unwrap_or_default()
    }

    /// The pod that a VMI's guest is in, or comes into.
    pub(crate) fn launcher(&self, vmi: &DynamicObject) -> Option<&Arc<DynamicObject>> {
        let name = vmi.name_any();
        let node = text(vmi, "/status/nodeName");
        self.all(Kind::Pod).find(|pod| {
            pod::vmi_of(pod) == Some(&name)
                && pod::is_there(pod)
                && node.is_some()
                && text(pod, "/spec/nodeName") == node
        })
    }

    /// Whether the guest of a launcher has ended or moved away.
    pub(crate) fn is_over(&self, pod: &DynamicObject) -> bool {
        let Some(vmi) = pod::vmi_of(pod).and_then(|name| self.get(Kind::Vmi, name)) else {
            return false;
        };
        if pod.labels().get("kubevirt.io/created-by") != vmi.uid().as_ref() {
            return true;
        }
        let moved = vmi.data.pointer("/status/migrationState").is_some_and(|state| {
            state["completed"] == true && state["sourceNode"].as_str() == text(pod, "/spec/nodeName")
        });
        moved || matches!(text(vmi, "/status/phase"), Some("Succeeded" | "Failed"))
    }

    /// The Node that a pod goes to: one that is not cordoned and has no other pod of the same guest.
    pub(crate) fn node_for<'a>(
        &self,
        pod: &DynamicObject,
        mut nodes: impl Iterator<Item = &'a str>,
    ) -> Option<String> {
        let guest = pod::vmi_of(pod);
        let taken = |node: &str| {
            guest.is_some()
                && self.all(Kind::Pod).any(|other| {
                    pod::vmi_of(other) == guest
                        && other.uid() != pod.uid()
                        && pod::is_there(other)
                        && text(other, "/spec/nodeName") == Some(node)
                })
        };
        let open = |node: &&str| {
            let node = self.get(Kind::Node, node);
            node.is_some_and(|node| node.data.pointer("/spec/unschedulable") != Some(&true.into()))
        };
        let open: Vec<&str> = nodes.by_ref().filter(open).collect();
        let preferred = self.drained.as_deref();
        let free = |node: &&&str| !taken(node) && Some(**node) != preferred;
        let chosen = open
            .iter()
            .find(free)
            .or_else(|| open.iter().find(|node| !taken(node)));
        chosen.map(|node| (*node).to_owned())
    }

    /// Objects that may wait for a disk without an owning VM: clones of it, VMs with a template of its name, VMIs that use it.
    fn waiting_for_disk(&self, name: &str) -> Vec<Key> {
        let clones = self
            .all(Kind::DataVolume)
            .filter(|clone| text(clone, "/spec/source/pvc/name") == Some(name))
            .map(|clone| (Kind::DataVolume, clone.name_any()));
        let machines = self
            .all(Kind::Vm)
            .filter(|vm| template_names(vm).any(|template| template == name))
            .map(|vm| (Kind::Vm, vm.name_any()));
        let instances = self
            .all(Kind::Vmi)
            .filter(|vmi| claim_names(vmi).any(|claim| claim == name))
            .map(|vmi| (Kind::Vmi, vmi.name_any()));
        clones.chain(machines).chain(instances).collect()
    }
}

/// Names of a VM's DataVolume templates.
pub fn template_names(vm: &DynamicObject) -> impl Iterator<Item = &str> {
    list(vm, "/spec/dataVolumeTemplates")
        .iter()
        .filter_map(|template| template.pointer("/metadata/name")?.as_str())
}

/// Names of the claims that a VMI's volumes use.
pub fn claim_names(vmi: &DynamicObject) -> impl Iterator<Item = &str> {
    list(vmi, "/spec/volumes").iter().filter_map(|volume| {
        volume
            .pointer("/dataVolume/name")
            .or_else(|| volume.pointer("/persistentVolumeClaim/claimName"))
            .and_then(serde_json::Value::as_str)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::objects::object;

    fn at(name: &str, uid: &str, version: &str) -> DynamicObject {
        let mut object = object(Kind::Vm, name, json!({}));
        object.metadata.uid = Some(uid.to_owned());
        object.metadata.resource_version = Some(version.to_owned());
        object
    }

    #[test]
    fn an_older_view_never_replaces_a_newer_one() {
        let mut world = World::default();
        assert!(world.learn(Kind::Vm, at("a", "u", "10")));
        assert!(!world.learn(Kind::Vm, at("a", "u", "9")));
        assert_eq!(
            world.get(Kind::Vm, "a").unwrap().resource_version().as_deref(),
            Some("10")
        );
    }

    #[test]
    fn the_end_of_an_object_does_not_end_its_successor() {
        let mut world = World::default();
        world.learn(Kind::Vm, at("a", "new", "10"));
        world.forget(Kind::Vm, "a", Some("old"));
        assert!(world.get(Kind::Vm, "a").is_some());
        world.forget(Kind::Vm, "a", Some("new"));
        assert!(world.get(Kind::Vm, "a").is_none());
    }

    #[test]
    fn a_late_answer_to_a_write_does_not_bring_back_what_is_gone() {
        let mut world = World::default();
        world.learn(Kind::Vmi, at("a", "u", "10"));
        world.forget(Kind::Vmi, "a", Some("u"));
        assert!(!world.learn(Kind::Vmi, at("a", "u", "11")));
        assert!(world.get(Kind::Vmi, "a").is_none());
        assert!(world.learn(Kind::Vmi, at("a", "successor", "12")));
    }

    #[test]
    fn a_node_that_is_drained_takes_no_more() {
        let mut world = World::default();
        assert_eq!(world.host(), NODE);
        for node in [NODE, other(NODE)] {
            let leaves = json!({"status": {"evacuationNodeName": node}});
            world.learn(Kind::Vmi, object(Kind::Vmi, node, leaves));
            assert_eq!(world.host(), other(node));
        }
    }

    #[test]
    fn addresses_are_not_given_twice() {
        let mut world = World::default();
        let used = json!({"status": {"interfaces": [{"ipAddress": "10.200.0.2"}]}});
        world.learn(Kind::Vmi, object(Kind::Vmi, "a", used));
        assert_eq!(world.fresh_address(), "10.200.0.1");
        assert_eq!(world.fresh_address(), "10.200.0.3");
    }
}
