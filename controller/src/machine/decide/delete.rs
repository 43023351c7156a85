//! The way down: what has to be said before ([`goodbye`]), the VM verified gone, then the Node, then the token, then the
//! finalizers.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::jiff::Timestamp;
use machinist_infra::provider::Instance;
use machinist_shared::names::{annotation, condition, finalizer, taint};
use serde_json::json;

use super::super::conditions::{Condition, Reason, Status};
use super::super::creations::Creation;
use super::super::observed::{ClusterName, Concern, Infra, Open, Spec};
use super::super::ownership::{
    NodeClaim, NodeVerdict, VmClaim, VmVerdict, disks_of, node_verdict, vm_verdict,
};
use super::super::plan::Step;
use super::draft::Draft;
use super::{goodbye, launch};
use crate::cache::Node;

/// How a deleting Machine's VM stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Vm {
    /// It is there, or nobody can tell.
    Stays,
    /// It is verified gone.
    Gone,
    /// It was seen to be gone before.
    WasGone,
    /// It is not this Machine's any more, or never was: the reason and the message of the Event that says so.
    Let(&'static str, String),
}

pub(super) fn decide(draft: &mut Draft<'_>) {
    let machine = &draft.observed.machine;
    if machine.has_finalizer(finalizer::RED_HAT_SUBSCRIPTION) {
        draft.drop_finalizer(finalizer::RED_HAT_SUBSCRIPTION);
        let message = format!(
            "machine-controller's finalizer {} is removed; if the system {} is registered at Red Hat or a Satellite, remove it \
             there by hand",
            finalizer::RED_HAT_SUBSCRIPTION,
            machine.name()
        );
        draft.tell_after_patch(true, "SubscriptionLeft", message);
    }
    let has_vm_finalizer = machine.has_finalizer(finalizer::VM);
    if !has_vm_finalizer && !machine.has_finalizer(finalizer::NODE) {
        // It never had a VM: the API server removes it, and only its token could be left.
        if draft.observed.token.is_some() {
            draft.plan.push(Step::DeleteToken);
        }
        draft.keep_conditions();
        // Whoever still sees it sees the past.
        if !machine.has_finalizer(finalizer::RED_HAT_SUBSCRIPTION) {
            draft.say_nothing();
        }
        return;
    }
    draft.keep_conditions();
    let vm = if has_vm_finalizer { vm(draft) } else { Vm::WasGone };
    if vm == Vm::Stays || goodbye::waits_for_hooks(draft) {
        return;
    }
    let node = own_node(draft);
    let mut left = Vec::new();
    let user_data = user_data(draft).filter(|_| matches!(vm, Vm::Gone));
    match vm {
        Vm::Gone => {
            let node = node.as_deref();
            let holds = node.is_some_and(|node| holds_volumes(draft, node, &mut left));
            if holds || has_disks(draft) {
                return;
            }
        }
        Vm::Let(reason, message) => left.push((reason, message)),
        Vm::Stays | Vm::WasGone => {}
    }
    if let Some(node) = node
        && !node_may_go(draft, &node)
    {
        return;
    }
    if let Some(user_data) = user_data {
        // Before the Node, which is the last that tells of the VM.
        draft.plan.steps.insert(0, Step::DeleteUserData(user_data));
    }
    if draft.observed.token.is_some() {
        draft.plan.push(Step::DeleteToken);
    }
    deleting(draft, Reason::DeletingNode, "the VM is gone");
    // What is left behind is told once: when the Machine is let go.
    for (reason, message) in left {
        draft.tell_after_patch(true, reason, message);
    }
    draft.release();
}

/// How long volumes may stay attached to the Node of a VM that is gone: Kubernetes needs a minute to remove the pods of a
/// Node that is out of service.
const RELEASE: Duration = Duration::from_mins(2);

/// Volumes that are attached to the Node of a VM that is gone.
pub(super) enum Volumes {
    /// There are none.
    None,
    /// They are to be detached: what a person is told of them, and what has to be done for it.
    Leaving(String, Option<Step>),
    /// They have not been detached for too long: what a person is told of them.
    Left(String),
}

/// What becomes of the volumes that are attached to the Node of a VM that is gone, and have been waited for `since` then.
/// Whoever needs them elsewhere would wait for six minutes if the Node was deleted now; the taint lets Kubernetes detach them
/// at once.
pub(super) fn volumes(draft: &mut Draft<'_>, node: &Node, since: Timestamp) -> Volumes {
    let volumes = draft.observed.guests.volumes.join(", ");
    if volumes.is_empty() {
        return Volumes::None;
    }
    if goodbye::is_past(draft, since, RELEASE) {
        return Volumes::Left(format!(
            "the Node {} is deleted with volumes attached: {volumes}",
            node.name()
        ));
    }
    let mut taints = node.spec.taints.clone();
    let is_marked = taints.iter().any(|taint| taint.key == taint::OUT_OF_SERVICE);
    let mark = (!is_marked).then(|| {
        taints.push(Taint {
            key: taint::OUT_OF_SERVICE.to_owned(),
            value: Some("nodeshutdown".to_owned()),
            effect: "NoExecute".to_owned(),
            time_added: None,
        });
        let patch = json!({
            "metadata": {"uid": node.uid(), "resourceVersion": node.metadata.resource_version},
            "spec": {"taints": taints},
        });
        let uid = node.uid().to_owned();
        Step::PatchNode {
            uid,
            patch,
            puts: Vec::new(),
        }
    });
    let what = format!("its Node is marked out of service until these volumes are detached: {volumes}");
    Volumes::Leaving(what, mark)
}

/// Whether the Machine waits for volumes of a VM that is gone.
fn holds_volumes(draft: &mut Draft<'_>, node: &Node, left: &mut Vec<(&'static str, String)>) -> bool {
    let stepped = step_since(draft, Reason::ReleasingVolumes);
    // A Node that cannot be marked is not waited for any longer.
    let since = stepped.min(step_since(draft, Reason::DeleteFailed));
    match volumes(draft, node, since) {
        Volumes::None => false,
        Volumes::Left(message) => {
            left.push(("VolumesLeft", message));
            false
        }
        Volumes::Leaving(what, mark) => {
            draft.plan.steps.extend(mark);
            deleting(
                draft,
                Reason::ReleasingVolumes,
                &format!("the VM is gone; {what}"),
            );
            true
        }
    }
}

/// Whether disks of the VM that is gone are still there: KubeVirt's owner references have them deleted. Those of others are
/// nobody's business here.
fn has_disks(draft: &mut Draft<'_>) -> bool {
    let observed = draft.observed;
    let record = observed.machine.record.as_ref();
    let (Infra::Open(open), Some(uid)) = (
        &observed.infra,
        record.and_then(|record| record.vm_uid.as_deref()),
    ) else {
        return false;
    };
    let left: Vec<String> = disks_of(&open.disks, uid)
        .iter()
        .map(|disk| {
            format!(
                "{} {}",
                disk.kind,
                disk.metadata.name.as_deref().unwrap_or_default()
            )
        })
        .collect();
    if left.is_empty() {
        return false;
    }
    let message = format!("the VM is gone; waiting for its disks to go: {}", left.join(", "));
    draft.condition(
        Condition::new(
            condition::DELETING,
            Status::True,
            Reason::WaitingForDisks,
            message,
        )
        .lazy(),
    );
    true
}

/// Name of the Secret with the user data of the VM on record, if that is one that we made.
fn user_data(draft: &Draft<'_>) -> Option<String> {
    let record = draft.record.as_ref()?;
    let secret = record.bootstrap_secret.as_ref().map(|secret| &secret.id);
    let id = secret.or(record.token_id.as_ref())?;
    Some(launch::user_data_secret_name(draft.observed.machine.uid(), id))
}

/// Deletes the Node; whether the Machine may go on without waiting for more.
fn node_may_go(draft: &mut Draft<'_>, node: &Node) -> bool {
    if node.metadata.deletion_timestamp.is_none() {
        if refused_too_long(draft, node) {
            return true;
        }
        let uid = node.uid().to_owned();
        draft.plan.push(Step::DeleteNode { uid });
        return true;
    }
    let held_by = node.metadata.finalizers.clone().unwrap_or_default().join(", ");
    let since = step_since(draft, Reason::DeletingNode);
    if let Some(timeout) = goodbye::timeout(draft, annotation::NODE_DELETION_TIMEOUT)
        && goodbye::is_past(draft, since, timeout)
    {
        let message = format!("the Node {} is left to its finalizers: {held_by}", node.name());
        draft.tell_after_patch(true, "NodeLeft", message);
        return true;
    }
    let message = format!("the VM is gone; the Node waits for its finalizers: {held_by}");
    deleting(draft, Reason::DeletingNode, &message);
    false
}

/// Whether the deletion of the Node has failed for longer than the Machine is to wait for it.
fn refused_too_long(draft: &mut Draft<'_>, node: &Node) -> bool {
    let failure = draft.observed.failure.as_ref();
    let failed = failure.filter(|failure| failure.concerns == Concern::NodeDeletion);
    let (Some(failed), Some(timeout)) = (failed, goodbye::timeout(draft, annotation::NODE_DELETION_TIMEOUT))
    else {
        return false;
    };
    let since = step_since(draft, Reason::DeleteFailed);
    if !goodbye::is_past(draft, since, timeout) {
        return false;
    }
    let message = format!("the Node {} is left: {}", node.name(), failed.message);
    draft.tell_after_patch(true, "NodeLeft", message);
    draft.gave_up_node = true;
    true
}

/// Since when the deletion is at that step; from now on, if it is not.
fn step_since(draft: &Draft<'_>, step: Reason) -> Timestamp {
    draft.said_since(condition::DELETING, step).unwrap_or(draft.now)
}

/// How the VM stands; deletes it, or says what is in the way.
fn vm(draft: &mut Draft<'_>) -> Vm {
    let machine = draft.observed.machine.clone();
    let recorded = machine
        .record
        .as_ref()
        .and_then(|record| record.vm_uid.as_deref());
    let abandoned = recorded.unwrap_or(annotation::ABANDON_UNKNOWN);
    if machine.annotation(annotation::ABANDON_VM) == Some(abandoned) {
        let message = format!("the VM (UID {abandoned}) is left behind, as annotated");
        return Vm::Let("VMAbandoned", message);
    }
    let open = match &draft.observed.infra {
        Infra::Open(open) => open,
        Infra::Unreachable(how) | Infra::Refused(how) => return blocked(draft, &unreachable(how)),
        Infra::Connecting => {
            deleting(
                draft,
                Reason::WaitingForInfrastructure,
                "connecting to the infra cluster",
            );
            return Vm::Stays;
        }
        Infra::NoCredential(what) => return blocked(draft, what),
    };
    if let Some(record) = &machine.record
        && !record.infrastructure.is_same(&open.infrastructure)
    {
        let why = format!(
            "the VM is in namespace {} of {}, but the kubeconfig now leads to {}",
            record.infrastructure.namespace, record.infrastructure.server, open.infrastructure.server
        );
        return blocked(draft, &why);
    }
    // A VM that is there, or that went because the Machine does, is no loss.
    let is_deleted = machine.record.as_ref().is_some_and(|record| record.vm_deleting);
    if !is_deleted
        && !super::is_seen(draft, open)
        && let Some(why) = super::disbelief(draft, open)
    {
        return blocked(draft, &why);
    }
    match &open.vm {
        None if machine.record.is_none() && launch::has_node(draft) => {
            let why = format!(
                "the Machine has a Node, but there is neither a VM in namespace {} of {} nor a record of where its VM is. Check \
                 that POD_NAMESPACE (chart value infra.namespace) and the kubeconfig are those that made it",
                open.infrastructure.namespace, open.infrastructure.server
            );
            blocked(draft, &why)
        }
        None if recorded.is_none() && machine.record.is_some() => never_seen(draft),
        None if recorded.is_some_and(|recorded| has_guest(open, recorded)) => guest_stays(draft),
        None => Vm::Gone,
        Some(vm) => delete_vm(draft, open, vm),
    }
}

/// Whether the guest of a VM that is gone is still there: the VM was deleted without it. One that does not say whose it is
/// can be no other, for the VM had the name.
fn has_guest(open: &Open, vm_uid: &str) -> bool {
    let guest = open.guest.as_ref();
    guest.is_some_and(|guest| guest.instance.as_deref().is_none_or(|of| of == vm_uid))
}

/// A guest still writes to its disks and runs its pods: neither may anybody else yet.
fn guest_stays(draft: &mut Draft<'_>) -> Vm {
    let message = format!(
        "the VM is gone, but not its guest: waiting for the VirtualMachineInstance {} to go. Delete it by hand, if nobody does",
        draft.observed.machine.name()
    );
    let waiting = Condition::new(
        condition::DELETING,
        Status::True,
        Reason::WaitingForVMDeletion,
        message,
    );
    // Mostly it goes with the VM, a moment later.
    draft.condition(waiting.lazy());
    Vm::Stays
}

/// A VM was asked for, and none was ever seen.
fn never_seen(draft: &mut Draft<'_>) -> Vm {
    let message = match draft.observed.creation {
        Creation::Settled => return Vm::Gone,
        Creation::UnderWay(left) => {
            draft.plan.look_again(left);
            "the infra cluster has not answered whether it makes the VM, which may still appear; what appears is deleted"
        }
        Creation::Unseen => {
            draft.plan.push(Step::FindVm);
            "it is looked up whether the infra cluster has made the VM"
        }
    };
    deleting(draft, Reason::WaitingForInfrastructure, message);
    Vm::Stays
}

fn delete_vm(draft: &mut Draft<'_>, open: &Open, vm: &Instance) -> Vm {
    let machine = draft.observed.machine.clone();
    let usable = match &draft.observed.spec {
        Spec::Usable(usable) => Some(usable),
        _ => None,
    };
    let uid = vm.metadata.uid.clone().unwrap_or_default();
    match whose(draft, open, vm) {
        VmVerdict::Ours => {
            record_node(draft);
            if let Some(record) = &mut draft.record {
                record.vm_uid.get_or_insert_with(|| uid.clone());
            }
            let goes = vm.metadata.deletion_timestamp.is_some();
            // Who deletes the VM past us leaves nothing to drain, but hooks hold the Machine all the same.
            if goes && goodbye::waits_for_hooks(draft) || !goes && !goodbye::is_said(draft) {
                return Vm::Stays;
            }
            if let Some(record) = &mut draft.record {
                record.vm_deleting = true;
            }
            let name = machine.name();
            deleting(
                draft,
                Reason::WaitingForVMDeletion,
                &format!("waiting for the VM {name} ({uid}) to go"),
            );
            if !goes {
                draft.patch_now();
                draft.plan.push(Step::DeleteVm { uid });
            }
            Vm::Stays
        }
        VmVerdict::Adopt => {
            let credential = usable.and_then(|usable| usable.credential.clone());
            draft.adopt(credential, &open.infrastructure, &uid);
            record_node(draft);
            deleting(
                draft,
                Reason::WaitingForVMDeletion,
                &format!("the VM {uid} is taken over to be deleted"),
            );
            draft.tell_after_patch(
                false,
                "Adopted",
                format!("the VM {} ({uid}) is taken over to be deleted", machine.name()),
            );
            Vm::Stays
        }
        VmVerdict::Undecided(what) if draft.observed.cluster_name == ClusterName::Pending => {
            deleting(draft, Reason::WaitingForReference, &what);
            Vm::Stays
        }
        VmVerdict::Undecided(what) => {
            let why = format!(
                "nobody can tell whether the VM {} ({uid}) is this Machine's: {what}. To say that it is, annotate the Machine with \
                 {}={uid}",
                machine.name(),
                annotation::ADOPT_VM
            );
            blocked(draft, &why)
        }
        VmVerdict::OtherCluster => {
            let message = format!(
                "the VM {} belongs to another user cluster and is left alone",
                machine.name()
            );
            Vm::Let("VMLeftAlone", message)
        }
        VmVerdict::Stranger(why) => {
            let message = format!(
                "the VM {} ({uid}) is not this Machine's ({why}) and is left alone",
                machine.name()
            );
            Vm::Let("VMLeftAlone", message)
        }
    }
}

/// Whose the VM of the Machine's name is.
fn whose(draft: &Draft<'_>, open: &Open, vm: &Instance) -> VmVerdict {
    let observed = draft.observed;
    vm_verdict(VmClaim {
        machine: &observed.machine,
        vm,
        cluster_uid: &observed.settings.cluster_uid,
        cluster_name: &observed.cluster_name,
        labelled_machine_exists: open.labelled_machine_exists,
        rival: open.recorded_by.as_deref().or(observed.name_winner.as_deref()),
    })
}

/// Records the Machine's Node while its VM can be observed: afterwards nothing else may tie the two together.
fn record_node(draft: &mut Draft<'_>) {
    let node = own_node(draft);
    if let Some(record) = &mut draft.record
        && let Some(node) = node
    {
        record.node_uid = Some(node.uid().to_owned());
    }
}

fn unreachable(how: &str) -> String {
    format!("the infra cluster does not answer, so nobody can tell whether the VM is gone: {how}")
}

fn blocked(draft: &mut Draft<'_>, why: &str) -> Vm {
    let machine = &draft.observed.machine;
    let recorded = machine
        .record
        .as_ref()
        .and_then(|record| record.vm_uid.as_deref());
    let message = format!(
        "{why}. To leave the VM behind on purpose, annotate the Machine with {}={}",
        annotation::ABANDON_VM,
        recorded.unwrap_or(annotation::ABANDON_UNKNOWN)
    );
    draft.error("DeleteError", message.clone());
    deleting(draft, Reason::DeletionBlocked, &message);
    Vm::Stays
}

pub(super) fn deleting(draft: &mut Draft<'_>, reason: Reason, message: &str) {
    draft.condition(Condition::new(condition::DELETING, Status::True, reason, message));
}

/// The Node that goes with the Machine; never a stranger's.
pub(super) fn own_node(draft: &Draft<'_>) -> Option<Arc<Node>> {
    let node = draft.observed.node.as_ref()?;
    let mut claim = NodeClaim::unobserved(&draft.observed.machine, node);
    if let Infra::Open(open) = &draft.observed.infra
        && is_nobody_elses(draft, open)
    {
        claim.firmware_uuid = open.firmware_uuid.as_deref();
        claim.addresses = &open.addresses;
        claim.proven_addresses = &open.proven_addresses;
    }
    (node_verdict(claim) == NodeVerdict::Ours).then(|| node.clone())
}

/// Whether what is observed of the VM of the Machine's name may tie a Node to the Machine.
fn is_nobody_elses(draft: &Draft<'_>, open: &Open) -> bool {
    open.vm
        .as_ref()
        .is_none_or(|vm| matches!(whose(draft, open, vm), VmVerdict::Ours | VmVerdict::Adopt))
}
