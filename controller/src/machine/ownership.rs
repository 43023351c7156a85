//! Whose VM, whose disk, whose Node: decided from what is observed, never from a Machine's status alone.
//!
//! What is a foreign is left alone: not decorated, drained, changed or deleted.

mod of_machine;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::core::ObjectMeta;
use machinist_infra::provider::{Disk, Instance};
use machinist_shared::api::field::cut;
use machinist_shared::api::names::{PROVIDER_ID_PREFIX, annotation, finalizer, is_ccm_provider_id_of, label};

use super::snapshot::types::ClusterName;
use crate::cache::{Node, StoredMachine};

/// Whose VM it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmVerdict {
    /// The Machine's.
    Ours,
    /// The Machine's by the rule for VMs that machine-controller made, or because an admin said so: to be recorded
    /// and labeled first.
    Adopt,
    /// Another user cluster's: no annotation makes it the Machine's.
    OtherCluster,
    /// Not owned; why.
    Foreign(String),
    /// It cannot be determined yet; what is missing.
    Undecided(String),
}

/// What the verdict on a VM is made from.
#[derive(Debug, Clone, Copy)]
pub struct VmClaim<'a> {
    /// The Machine.
    pub machine: &'a StoredMachine,
    /// The VM of its name in the namespace that it renders to.
    pub vm: &'a Instance,
    /// UID of the user cluster.
    pub cluster_uid: &'a str,
    /// The cluster-name label that the Machine renders to.
    pub cluster_name: &'a ClusterName,
    /// UID of another Machine that the VM's label names exists.
    pub labeled_machine_exists: bool,
    /// Another Machine of this name that comes first: it has the VM on record, or wins the name.
    pub rival: Option<&'a str>,
}

/// A VM may look this much older than its Machine: two clusters, two clocks.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_mins(5);

/// Whose VM it is.
pub fn vm_verdict(claim: VmClaim<'_>) -> VmVerdict {
    let VmClaim { machine, vm, .. } = claim;
    let uid = vm.metadata.uid.as_deref().unwrap_or_default();
    let recorded = machine
        .record
        .as_ref()
        .and_then(|record| record.vm_uid.as_deref());
    let named_by_admin = machine.annotation(annotation::ADOPT_VM) == Some(uid);
    let labels = vm.metadata.labels.as_ref();
    let labeled = |key: &str| labels.and_then(|l| l.get(key)).map(String::as_str);

    if labeled(label::CLUSTER_UID).is_some_and(|cluster| cluster != claim.cluster_uid) {
        return VmVerdict::OtherCluster;
    }
    match labeled(label::MACHINE_UID) {
        Some(owner) if owner == machine.uid() => match recorded {
            Some(recorded) if recorded != uid && named_by_admin => VmVerdict::Adopt,
            Some(recorded) if recorded != uid => foreign(format!(
                "its UID {uid} is not the recorded {recorded} (restored from a backup?)"
            )),
            _ => VmVerdict::Ours,
        },
        // On record already; our label follows.
        Some(_) if named_by_admin && !claim.labeled_machine_exists && recorded == Some(uid) => {
            VmVerdict::Ours
        }
        Some(owner) if named_by_admin && !claim.labeled_machine_exists => {
            tracing::debug!(vm = uid, former = owner, "an admin named this VM");
            VmVerdict::Adopt
        }
        Some(owner) => foreign(format!("it is labeled as the Machine with UID {owner}")),
        None if recorded == Some(uid) => VmVerdict::Ours,
        None if named_by_admin => VmVerdict::Adopt,
        None => unlabeled(claim),
    }
}

/// The rule for VMs without our label, as machine-controller makes them.
fn unlabeled(claim: VmClaim<'_>) -> VmVerdict {
    let VmClaim { machine, vm, .. } = claim;
    if let Some(recorded) = machine.record.as_ref().and_then(|r| r.vm_uid.as_deref()) {
        return foreign(format!("the recorded VM has the UID {recorded}"));
    }
    if !machine.has_finalizer(finalizer::VM) {
        return foreign("it was there before this Machine");
    }
    let Some(made_for) = &vm.made_by_peer_for else {
        return foreign("it does not bear the labels of a Machine's VM");
    };
    if let Some(rival) = claim.rival {
        return foreign(format!("the Machine {rival} of the same name comes first"));
    }
    match (created(&vm.metadata), created(&machine.metadata)) {
        (Some(vm), Some(machine)) if vm + CLOCK_TOLERANCE >= machine => {}
        _ => return foreign("it is older than this Machine"),
    }
    match claim.cluster_name {
        ClusterName::Known(name) if made_for == name => VmVerdict::Adopt,
        ClusterName::Known(_) => foreign("it bears another cluster's name"),
        ClusterName::Pending => {
            VmVerdict::Undecided("the object that clusterName refers to is being read".to_owned())
        }
        ClusterName::Unreadable(why) => VmVerdict::Undecided(format!("clusterName cannot be read: {why}")),
    }
}

fn foreign(why: impl Into<String>) -> VmVerdict {
    VmVerdict::Foreign(why.into())
}

fn created(metadata: &ObjectMeta) -> Option<Timestamp> {
    metadata.creation_timestamp.as_ref().map(|time| time.0)
}

/// Those of the disks that are of the VMs of these UIDs: a disk whose controller is such a VM, or a DataVolume that is. A claim
/// outlives its DataVolume; then the label tells, which CDI copies from the DataVolume that KubeVirt made for the VM.
pub fn disks_of<'a>(disks: &'a [Disk], vm_uids: &[&str]) -> Vec<&'a Disk> {
    let mut owners = vm_uids.to_vec();
    let of_vms = disks.iter().filter(|disk| is_controlled_by(disk, vm_uids));
    owners.extend(of_vms.filter_map(|disk| disk.metadata.uid.as_deref()));
    let mut own = disks.iter().collect::<Vec<_>>();
    own.retain(|disk| is_controlled_by(disk, &owners) || is_left_behind(disk, disks, vm_uids));
    own
}

fn is_controlled_by(disk: &Disk, owners: &[&str]) -> bool {
    controller(&disk.metadata).is_some_and(|owner| owners.contains(&owner.uid.as_str()))
}

/// Whether it is a claim of a DataVolume that is gone, and that DataVolume was one of these VMs'.
fn is_left_behind(disk: &Disk, disks: &[Disk], vm_uids: &[&str]) -> bool {
    let labels = disk.metadata.labels.as_ref();
    let made_for = labels.and_then(|labels| labels.get(label::KUBEVIRT_CREATED_BY));
    let exists = |uid: &str| disks.iter().any(|disk| disk.metadata.uid.as_deref() == Some(uid));
    controller(&disk.metadata).is_some_and(|owner| owner.kind == "DataVolume" && !exists(&owner.uid))
        && made_for.is_some_and(|vm| vm_uids.contains(&vm.as_str()))
}

fn controller(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    let mut owners = metadata.owner_references.iter().flatten();
    owners.find(|owner| owner.controller == Some(true))
}

/// Whose Node it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeVerdict {
    /// The Machine's.
    Ours,
    /// Not owned; why.
    Foreign(String),
}

/// What the verdict on the Node of a Machine's name is made from.
#[derive(Debug, Clone, Copy)]
pub struct NodeClaim<'a> {
    /// The Machine.
    pub machine: &'a StoredMachine,
    /// The Node of its name.
    pub node: &'a Node,
    /// UUID of the observed VM's firmware.
    pub firmware_uuid: Option<&'a str>,
    /// Addresses of the observed VMI.
    pub addresses: &'a [String],
    /// Those of them that the guest has no say in.
    pub proven_addresses: &'a [String],
}

impl<'a> NodeClaim<'a> {
    /// Of what is known without looking at a VM.
    pub fn unobserved(machine: &'a StoredMachine, node: &'a Node) -> Self {
        Self {
            machine,
            node,
            firmware_uuid: None,
            addresses: &[],
            proven_addresses: &[],
        }
    }
}

/// Whose Node it is. The machine annotation must name the Machine or be absent; neither providerID nor system UUID may
/// be another VM's; and something that was observed must tie the Node to the Machine's VM.
pub fn node_verdict(claim: NodeClaim<'_>) -> NodeVerdict {
    let NodeClaim { machine, node, .. } = claim;
    let own = format!("{}/{}", machine.namespace(), machine.name());
    if let Some(other) = node.annotation(annotation::MACHINE).filter(|other| *other != own) {
        return NodeVerdict::Foreign(format!("it belongs to the Machine {other}"));
    }
    let record = machine.record.as_ref();
    // After the VM is gone nothing of it can be observed any more: then the owner label, which only we write, and the
    // record of having seen this very Node to be ours must agree.
    let recorded = record.and_then(|record| record.node_uid.as_deref());
    let by_record = recorded == Some(node.uid()) && node.label(label::OWNED_BY) == Some(machine.uid());

    let provider_id = node.spec.provider_id.as_deref().filter(|id| !id.is_empty());
    let by_provider_id = provider_id.is_some_and(|id| is_provider_id_of(machine, id));
    if let Some(other) = provider_id.filter(|_| !by_provider_id) {
        return NodeVerdict::Foreign(format!("its providerID is {}", cut(other.to_owned())));
    }
    // KubeVirt gives a VM that is made again another UUID, and the Node has that of the VM that it joined from until the
    // kubelet of the new one reports.
    let system_uuid = Some(node.status.node_info.system_uuid.as_str()).filter(|uuid| !uuid.is_empty());
    let joined_from = record.and_then(|record| record.node_system_uuid.as_deref());
    let known = [claim.firmware_uuid, joined_from];
    let by_system_uuid =
        system_uuid.is_some_and(|uuid| known.iter().flatten().any(|known| is_same_uuid(known, uuid)));
    // A Node that was linked before system UUIDs were recorded may have that of a former VM.
    let is_known = joined_from.is_some() || (claim.firmware_uuid.is_some() && !by_record);
    if let Some(other) = system_uuid.filter(|_| is_known && !by_system_uuid) {
        return NodeVerdict::Foreign(format!("its system UUID is {}", cut(other.to_owned())));
    }
    // The guest agent says what the guest wants it to: it ties only a Node that has nothing better.
    let addresses = match (provider_id, system_uuid) {
        (None, None) => claim.addresses,
        _ => claim.proven_addresses,
    };
    let by_address = node
        .status
        .addresses
        .iter()
        .any(|a| a.type_ != "Hostname" && addresses.contains(&a.address));
    if by_provider_id || by_system_uuid || by_address || by_record {
        NodeVerdict::Ours
    } else {
        NodeVerdict::Foreign("neither its providerID nor its system UUID nor an address is the VM's".into())
    }
}

/// Whether both are the same UUID. What SMBIOS has as little-endian some read as big-endian.
pub fn is_same_uuid(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other) || swapped(one).is_some_and(|swapped| swapped.eq_ignore_ascii_case(other))
}

/// The UUID with the bytes of its first three groups in reverse order.
fn swapped(uuid: &str) -> Option<String> {
    let mut groups: Vec<String> = uuid.split('-').map(str::to_owned).collect();
    if groups.len() != 5 || !uuid.is_ascii() {
        return None;
    }
    for group in &mut groups[..3] {
        let bytes = group.as_bytes().chunks(2).rev().flatten().copied();
        *group = String::from_utf8(bytes.collect()).ok()?;
    }
    Some(groups.join("-"))
}

/// Whether a Node with that providerID is the Machine's: ours, or that of KubeVirt's cloud controller manager.
fn is_provider_id_of(machine: &StoredMachine, provider_id: &str) -> bool {
    let own = provider_id.strip_prefix(PROVIDER_ID_PREFIX) == Some(machine.uid());
    own || provider_id == provider_id_of(machine) || is_ccm_provider_id_of(machine.name(), provider_id)
}

/// The providerID of a Machine's Node without an external CCM. That of a restored Machine is the one that its Node has already.
pub fn provider_id_of(machine: &StoredMachine) -> String {
    let record = machine.record.as_ref();
    let former = record.and_then(|record| record.former_machine_uid.as_deref());
    format!("{PROVIDER_ID_PREFIX}{}", former.unwrap_or(machine.uid()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn machine(extra: &Value) -> StoredMachine {
        let mut machine = json!({
            "metadata": {"name": "web-1", "namespace": "kube-system", "uid": "m1", "creationTimestamp": "2026-01-01T12:00:00Z",
                "finalizers": ["machine-delete-finalizer"]},
        });
        json_patch::merge(&mut machine, extra);
        serde_json::from_value(machine).unwrap()
    }

    fn vm(uid: &str, created: &str, labels: &Value) -> Instance {
        let vm = serde_json::from_value(json!({
            "metadata": {"name": "web-1", "namespace": "vms", "uid": uid, "creationTimestamp": created, "labels": labels},
        }));
        machinist_infra::kubevirt::instance(&vm.unwrap(), None, &[])
    }

    fn peer_labels() -> Value {
        json!({"kubevirt.io/vm": "web-1", "cluster.x-k8s.io/role": "worker", "cluster.x-k8s.io/cluster-name": "c"})
    }

    fn recorded(uid: &str) -> Value {
        json!({"status": {"providerStatus": {"infrastructure": {"server": "https://a", "namespace": "vms"}, "vmUID": uid}}})
    }

    fn judge(machine: &StoredMachine, vm: &Instance) -> &'static str {
        judge_with(machine, vm, &ClusterName::Known("c".into()), None)
    }

    fn judge_with(
        machine: &StoredMachine,
        vm: &Instance,
        cluster_name: &ClusterName,
        rival: Option<&str>,
    ) -> &'static str {
        let claim = VmClaim {
            machine,
            vm,
            cluster_uid: "c1",
            cluster_name,
            labeled_machine_exists: false,
            rival,
        };
        match vm_verdict(claim) {
            VmVerdict::Ours => "ours",
            VmVerdict::Adopt => "adopt",
            VmVerdict::Foreign(_) => "foreign",
            VmVerdict::OtherCluster => "another cluster's",
            VmVerdict::Undecided(_) => "undecided",
        }
    }

    const LATER: &str = "2026-01-01T12:00:30Z";

    #[rstest]
    #[case::our_label_before_the_uid_is_recorded(json!({}), vm("v1", LATER, &json!({"machinist.dev/machine-uid": "m1"})), "ours")]
    #[case::our_label_and_the_recorded_uid(recorded("v1"), vm("v1", LATER, &json!({"machinist.dev/machine-uid": "m1"})), "ours")]
    #[case::our_label_but_another_uid_than_recorded(recorded("v1"), vm("v2", LATER, &json!({"machinist.dev/machine-uid": "m1"})), "foreign")]
    #[case::our_label_from_another_user_cluster(json!({}), vm("v1", LATER, &json!({"machinist.dev/machine-uid": "m1", "machinist.dev/cluster-uid": "c2"})), "another cluster's")]
    #[case::another_user_clusters_that_an_annotation_names(json!({"metadata": {"annotations": {"machinist.dev/adopt-vm-uid": "v9"}}}), vm("v9", LATER, &json!({"machinist.dev/machine-uid": "gone", "machinist.dev/cluster-uid": "c2"})), "another cluster's")]
    #[case::another_user_clusters_without_a_machine(json!({"metadata": {"annotations": {"machinist.dev/adopt-vm-uid": "v9"}}}), vm("v9", LATER, &json!({"machinist.dev/cluster-uid": "c2"})), "another cluster's")]
    #[case::another_user_clusters_that_is_on_record(recorded("v1"), vm("v1", LATER, &json!({"machinist.dev/cluster-uid": "c2"})), "another cluster's")]
    #[case::another_machines_label(json!({}), vm("v1", LATER, &json!({"machinist.dev/machine-uid": "m2"})), "foreign")]
    #[case::machine_controllers_vm(json!({}), vm("v1", LATER, &peer_labels()), "adopt")]
    #[case::machine_controllers_vm_made_by_a_slow_clock(json!({}), vm("v1", "2026-01-01T11:56:00Z", &peer_labels()), "adopt")]
    #[case::a_vm_much_older_than_the_machine(json!({}), vm("v1", "2026-01-01T11:50:00Z", &peer_labels()), "foreign")]
    #[case::machine_controllers_vm_of_another_cluster(json!({}), vm("v1", LATER, &json!({"kubevirt.io/vm": "web-1", "cluster.x-k8s.io/role": "worker", "cluster.x-k8s.io/cluster-name": "d"})), "foreign")]
    #[case::a_vm_without_any_label(json!({}), vm("v1", LATER, &json!({})), "foreign")]
    #[case::no_finalizer_so_no_controller_made_a_vm_for_it(json!({"metadata": {"finalizers": null}}), vm("v1", LATER, &peer_labels()), "foreign")]
    #[case::adopted_but_not_labeled_yet(recorded("v1"), vm("v1", LATER, &peer_labels()), "ours")]
    #[case::another_unlabeled_vm_than_recorded(recorded("v1"), vm("v2", LATER, &peer_labels()), "foreign")]
    #[case::a_foreign_that_an_admin_named(json!({"metadata": {"annotations": {"machinist.dev/adopt-vm-uid": "v9"}}}), vm("v9", "2020-01-01T00:00:00Z", &json!({})), "adopt")]
    #[case::a_restored_backup_that_an_admin_named(json!({"metadata": {"annotations": {"machinist.dev/adopt-vm-uid": "v9"}}}), vm("v9", LATER, &json!({"machinist.dev/machine-uid": "gone"})), "adopt")]
    #[case::a_restored_backup_that_an_admin_named_and_that_is_on_record(json!({"metadata": {"annotations": {"machinist.dev/adopt-vm-uid": "v1"}}, "status": recorded("v1")["status"]}), vm("v1", LATER, &json!({"machinist.dev/machine-uid": "gone"})), "ours")]
    #[case::a_restored_backup_on_record_that_no_controller_named(recorded("v1"), vm("v1", LATER, &json!({"machinist.dev/machine-uid": "gone"})), "foreign")]
    fn a_vm_is_ours_by_the_rule_only(#[case] extra: Value, #[case] vm: Instance, #[case] verdict: &str) {
        assert_eq!(judge(&machine(&extra), &vm), verdict);
    }

    #[rstest]
    #[case::while_its_reference_is_read(ClusterName::Pending)]
    #[case::that_cannot_be_read(ClusterName::Unreadable("no such Secret".into()))]
    fn nothing_is_said_of_an_unlabeled_vm_without_the_clusters_name(#[case] name: ClusterName) {
        let (theirs, ours) = (peer_labels(), json!({"machinist.dev/machine-uid": "m1"}));
        assert_eq!(
            judge_with(&machine(&json!({})), &vm("v1", LATER, &theirs), &name, None),
            "undecided"
        );
        assert_eq!(
            judge_with(&machine(&recorded("v1")), &vm("v1", LATER, &theirs), &name, None),
            "ours"
        );
        assert_eq!(
            judge_with(&machine(&json!({})), &vm("v1", LATER, &ours), &name, None),
            "ours"
        );
    }

    #[test]
    fn a_namesake_that_comes_first_keeps_its_unlabeled_vm() {
        let (machine, name) = (machine(&json!({})), ClusterName::Known("c".into()));
        let vm = vm("v1", LATER, &peer_labels());
        assert_eq!(judge_with(&machine, &vm, &name, Some("other/web-1")), "foreign");
    }

    #[test]
    fn an_admin_cannot_take_the_vm_of_a_machine_that_exists() {
        let machine = machine(&json!({"metadata": {"annotations": {"machinist.dev/adopt-vm-uid": "v9"}}}));
        let vm = vm("v9", LATER, &json!({"machinist.dev/machine-uid": "m2"}));
        let claim = VmClaim {
            machine: &machine,
            vm: &vm,
            cluster_uid: "c1",
            cluster_name: &ClusterName::Known("c".into()),
            labeled_machine_exists: true,
            rival: None,
        };
        assert!(matches!(vm_verdict(claim), VmVerdict::Foreign(_)));
    }

    fn controlled(kind: &str, uid: &str) -> Value {
        json!([{"uid": uid, "controller": true, "kind": kind, "name": "a", "apiVersion": "v"}])
    }

    #[rstest]
    #[case::of_our_vm(json!({"ownerReferences": controlled("VirtualMachine", "v1")}), true)]
    #[case::of_our_vm_and_terminating(json!({"deletionTimestamp": LATER, "ownerReferences": controlled("VirtualMachine", "v1")}), true)]
    #[case::of_the_vm_before(json!({"ownerReferences": controlled("VirtualMachine", "v0")}), true)]
    #[case::of_our_data_volume(json!({"ownerReferences": controlled("DataVolume", "d1")}), true)]
    #[case::owned_without_control(json!({"ownerReferences": [{"uid": "v1", "kind": "VirtualMachine", "name": "a", "apiVersion": "v"}]}), false)]
    #[case::of_another_vm(json!({"ownerReferences": controlled("VirtualMachine", "v2")}), false)]
    #[case::nobodys(json!({}), false)]
    #[case::of_our_data_volume_that_is_gone(json!({"labels": {"kubevirt.io/created-by": "v0"}, "ownerReferences": controlled("DataVolume", "d0")}), true)]
    #[case::of_another_data_volume_that_is_gone(json!({"labels": {"kubevirt.io/created-by": "v2"}, "ownerReferences": controlled("DataVolume", "d0")}), false)]
    #[case::of_a_data_volume_without_label(json!({"deletionTimestamp": LATER, "ownerReferences": controlled("DataVolume", "d0")}), false)]
    #[case::of_a_foreign_data_volume_that_is_there(json!({"labels": {"kubevirt.io/created-by": "v1"}, "ownerReferences": controlled("DataVolume", "d2")}), false)]
    #[case::a_copy_of_our_claim(json!({"labels": {"kubevirt.io/created-by": "v1"}}), false)]
    #[case::a_copy_in_other_hands(json!({"labels": {"kubevirt.io/created-by": "v1"}, "ownerReferences": controlled("Backup", "b1")}), false)]
    fn a_disk_is_ours_by_its_controller_only(#[case] mut metadata: Value, #[case] ours: bool) {
        let disk = |metadata: Value| Disk {
            kind: "any",
            metadata: serde_json::from_value(metadata).unwrap(),
        };
        metadata["uid"] = json!("judged");
        let disks = [
            disk(json!({"uid": "d1", "ownerReferences": controlled("VirtualMachine", "v1")})),
            disk(json!({"uid": "d2"})),
            disk(metadata),
        ];
        let own = disks_of(&disks, &["v1", "v0"]);
        let has = |uid: &str| own.iter().any(|disk| disk.metadata.uid.as_deref() == Some(uid));
        assert_eq!((has("d1"), has("d2"), has("judged")), (true, false, ours));
    }

    #[rstest]
    #[case::has_the_node_of_the_machine_whose_vm_it_got("m0", true)]
    #[case::has_no_other_ones("m2", false)]
    #[case::has_its_own_node("m1", true)]
    fn a_restored_machine(#[case] id: &str, #[case] ours: bool) {
        let record = json!({"status": {"providerStatus": {"formerMachineUID": "m0",
            "infrastructure": {"server": "https://a", "namespace": "vms"}}}});
        let node = json!({"metadata": {"name": "web-1", "uid": "n"}, "spec": {"providerID": format!("kubermatic://kubevirt/{id}")}});
        let (machine, node) = (machine(&record), serde_json::from_value(node).unwrap());
        let verdict = node_verdict(NodeClaim::unobserved(&machine, &node));
        assert_eq!(verdict == NodeVerdict::Ours, ours, "{verdict:?}");
    }

    #[rstest]
    #[case::by_provider_id(json!({"spec": {"providerID": "kubermatic://kubevirt/m1"}}), true)]
    #[case::by_address(json!({"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.7"}]}}), true)]
    #[case::by_system_uuid_in_any_case(json!({"status": {"nodeInfo": {"systemUUID": "ABC-1"}}}), true)]
    #[case::an_equal_hostname_is_no_address(json!({"status": {"addresses": [{"type": "Hostname", "address": "10.0.0.7"}]}}), false)]
    #[case::only_the_name(json!({}), false)]
    #[case::only_the_annotation_and_label(json!({"metadata": {"annotations": {"cluster.k8s.io/machine": "kube-system/web-1"}, "labels": {"machine-controller/owned-by": "m1"}}}), false)]
    #[case::a_ccms_provider_id(json!({"spec": {"providerID": "kubevirt://web-1"}}), true)]
    #[case::a_ccms_provider_id_of_another_vm(json!({"spec": {"providerID": "kubevirt://web-2"}, "status": {"nodeInfo": {"systemUUID": "abc-1"}}}), false)]
    #[case::another_clouds_provider_id_beats_everything(json!({"spec": {"providerID": "aws:///eu/i-0123"}, "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.7"}], "nodeInfo": {"systemUUID": "abc-1"}}}), false)]
    #[case::another_system_uuid_beats_an_address(json!({"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.7"}], "nodeInfo": {"systemUUID": "ec2-abc"}}}), false)]
    #[case::another_system_uuid_beats_our_provider_id(json!({"spec": {"providerID": "kubermatic://kubevirt/m1"}, "status": {"nodeInfo": {"systemUUID": "ec2-abc"}}}), false)]
    #[case::an_address_of_the_guest_agent_ties_a_node_that_has_nothing_else(json!({"status": {"addresses": [{"type": "InternalIP", "address": "10.1.0.99"}]}}), true)]
    #[case::an_address_of_the_guest_agent_outweighs_no_system_uuid(json!({"status": {"addresses": [{"type": "InternalIP", "address": "10.1.0.99"}], "nodeInfo": {"systemUUID": "ec2-abc"}}}), false)]
    #[case::another_machines_annotation_beats_an_address(json!({"metadata": {"annotations": {"cluster.k8s.io/machine": "other/web-1"}}, "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.7"}]}}), false)]
    fn a_node_is_ours_by_what_is_observed(#[case] extra: Value, #[case] ours: bool) {
        let mut node = json!({"metadata": {"name": "web-1", "uid": "n1"}});
        json_patch::merge(&mut node, &extra);
        let (node, machine) = (serde_json::from_value(node).unwrap(), machine(&json!({})));
        let addresses = ["10.0.0.7".to_owned(), "10.1.0.99".to_owned()];
        let claim = NodeClaim {
            machine: &machine,
            node: &node,
            firmware_uuid: Some("abc-1"),
            addresses: &addresses,
            proven_addresses: &addresses[..1],
        };
        assert_eq!(node_verdict(claim) == NodeVerdict::Ours, ours);
    }

    fn linked(system_uuid: Option<&str>) -> StoredMachine {
        machine(
            &json!({"status": {"providerStatus": {"infrastructure": {"server": "https://a", "namespace": "vms"},
            "nodeUID": "n1", "nodeSystemUUID": system_uuid}}}),
        )
    }

    #[rstest]
    #[case::the_former_vms(Some("old"), "old", Some("new"), true)]
    #[case::the_new_vms(Some("old"), "new", Some("new"), true)]
    #[case::the_former_vms_while_there_is_none(Some("old"), "old", None, true)]
    #[case::neither(Some("old"), "ec2-abc", Some("new"), false)]
    #[case::another_while_there_is_none(Some("old"), "ec2-abc", None, false)]
    #[case::of_a_node_linked_before_it_was_recorded(None, "old", Some("new"), true)]
    fn a_linked_node_is_ours_by_the_vm_that_it_joined_from(
        #[case] recorded: Option<&str>,
        #[case] system_uuid: &str,
        #[case] firmware_uuid: Option<&str>,
        #[case] ours: bool,
    ) {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "web-1", "uid": "n1", "labels": {"machine-controller/owned-by": "m1"}},
            "status": {"nodeInfo": {"systemUUID": system_uuid}},
        }))
        .unwrap();
        let machine = linked(recorded);
        let claim = NodeClaim {
            firmware_uuid,
            ..NodeClaim::unobserved(&machine, &node)
        };
        assert_eq!(node_verdict(claim) == NodeVerdict::Ours, ours);
    }

    #[rstest]
    #[case("00112233-4455-6677-8899-aabbccddeeff", true)]
    #[case("00112233-4455-6677-8899-AABBCCDDEEFF", true)]
    #[case("33221100-5544-7766-8899-aabbccddeeff", true)]
    #[case("33221100-5544-7766-9988-aabbccddeeff", false)]
    #[case("ec2-abc", false)]
    #[case("", false)]
    fn a_uuid_is_the_same_in_either_order_of_its_bytes(#[case] other: &str, #[case] same: bool) {
        assert_eq!(is_same_uuid("00112233-4455-6677-8899-aabbccddeeff", other), same);
    }

    #[test]
    fn a_hand_written_node_ref_makes_no_node_ours() {
        let machine =
            machine(&json!({"status": {"nodeRef": {"kind": "Node", "name": "web-1", "uid": "n1"}}}));
        let node = serde_json::from_value(json!({"metadata": {"name": "web-1", "uid": "n1"}})).unwrap();
        let claim = NodeClaim::unobserved(&machine, &node);
        assert!(matches!(node_verdict(claim), NodeVerdict::Foreign(_)));
    }

    #[test]
    fn after_the_vm_is_gone_the_record_and_the_owner_label_must_agree() {
        let record = json!({"status": {"providerStatus": {"infrastructure": {"server": "https://a", "namespace": "vms"}, "nodeUID": "n1"}}});
        let node = |label: &str| {
            serde_json::from_value::<Node>(json!({"metadata": {"name": "web-1", "uid": "n1", "labels": {"machine-controller/owned-by": label}}}))
                .unwrap()
        };
        let machine = machine(&record);
        for (label, verdict) in [("m1", true), ("m2", false)] {
            let node = node(label);
            let claim = NodeClaim::unobserved(&machine, &node);
            assert_eq!(node_verdict(claim) == NodeVerdict::Ours, verdict);
        }
    }
}
