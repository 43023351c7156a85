//! The way down: the VM verified gone, then the Node, then the token, then the finalizers.

use machinist_infra::provider::Instance;
use machinist_shared::names::{annotation, condition, finalizer};

use super::super::conditions::{Condition, Reason, Status};
use super::super::observed::{ClusterName, Infra, Open, Spec};
use super::super::ownership::{NodeClaim, NodeVerdict, VmClaim, VmVerdict, node_verdict, vm_verdict};
use super::super::plan::Step;
use super::draft::Draft;
use super::launch;

pub(super) fn decide(draft: &mut Draft<'_>) {
    let machine = &draft.observed.machine;
    let has_vm_finalizer = machine.has_finalizer(finalizer::VM);
    if !has_vm_finalizer && !machine.has_finalizer(finalizer::NODE) {
        // It never had a VM: the API server removes it, and only its token could be left.
        if draft.observed.token.is_some() {
            draft.plan.push(Step::DeleteToken);
        }
        draft.keep_conditions();
        return;
    }
    draft.keep_conditions();
    if has_vm_finalizer && !vm_is_gone(draft) {
        return;
    }
    if let Some(uid) = own_node(draft) {
        draft.plan.push(Step::DeleteNode { uid });
    }
    if draft.observed.token.is_some() {
        draft.plan.push(Step::DeleteToken);
    }
    deleting(draft, Reason::DeletingNode, "the VM is gone");
    draft.release();
}

/// Whether the VM is verified gone; else deletes it, or says what is in the way.
fn vm_is_gone(draft: &mut Draft<'_>) -> bool {
    let machine = draft.observed.machine.clone();
    let recorded = machine
        .record
        .as_ref()
        .and_then(|record| record.vm_uid.as_deref());
    let abandoned = recorded.unwrap_or(annotation::ABANDON_UNKNOWN);
    if machine.annotation(annotation::ABANDON_VM) == Some(abandoned) {
        let message = format!("the VM (UID {abandoned}) is left behind, as annotated");
        draft.plan.tell(true, "VMAbandoned", message);
        return true;
    }
    let open = match &draft.observed.infra {
        Infra::Open(open) => open,
        Infra::Unreachable(how) => return blocked(draft, &unreachable(how)),
        Infra::Connecting => {
            deleting(
                draft,
                Reason::WaitingForInfrastructure,
                "connecting to the infra cluster",
            );
            return false;
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
    if let Some(why) = super::disbelief(draft, open) {
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
        None => true,
        Some(vm) => delete_vm(draft, open, vm),
    }
}

fn delete_vm(draft: &mut Draft<'_>, open: &Open, vm: &Instance) -> bool {
    let machine = draft.observed.machine.clone();
    let usable = match &draft.observed.spec {
        Spec::Usable(usable) => Some(usable),
        _ => None,
    };
    let claim = VmClaim {
        machine: &machine,
        vm,
        cluster_uid: &draft.observed.settings.cluster_uid,
        cluster_name: &draft.observed.cluster_name,
        labelled_machine_exists: open.labelled_machine_exists,
        rival: open
            .recorded_by
            .as_deref()
            .or(draft.observed.name_winner.as_deref()),
    };
    let uid = vm.metadata.uid.clone().unwrap_or_default();
    match vm_verdict(claim) {
        VmVerdict::Ours => {
            record_node(draft);
            let name = machine.name();
            deleting(
                draft,
                Reason::WaitingForVMDeletion,
                &format!("waiting for the VM {name} ({uid}) to go"),
            );
            if vm.metadata.deletion_timestamp.is_none() {
                draft.patch_now();
                draft.plan.push(Step::DeleteVm { uid });
            }
            false
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
            false
        }
        VmVerdict::Undecided(what) if draft.observed.cluster_name == ClusterName::Pending => {
            deleting(draft, Reason::WaitingForReference, &what);
            false
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
        VmVerdict::Stranger(why) => {
            let message = format!(
                "the VM {} ({uid}) is not this Machine's ({why}) and is left alone",
                machine.name()
            );
            draft.tell_after_patch(true, "VMLeftAlone", message);
            true
        }
    }
}

/// Records the Machine's Node while its VM can be observed: afterwards nothing else may tie the two together.
fn record_node(draft: &mut Draft<'_>) {
    let node = own_node(draft);
    if let Some(record) = &mut draft.record
        && node.is_some()
    {
        record.node_uid = node;
    }
}

fn unreachable(how: &str) -> String {
    format!("the infra cluster does not answer, so nobody can tell whether the VM is gone: {how}")
}

fn blocked(draft: &mut Draft<'_>, why: &str) -> bool {
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
    false
}

fn deleting(draft: &mut Draft<'_>, reason: Reason, message: &str) {
    draft.condition(Condition::new(condition::DELETING, Status::True, reason, message));
}

/// UID of the Node that goes with the Machine; never a stranger's.
fn own_node(draft: &Draft<'_>) -> Option<String> {
    let node = draft.observed.node.as_ref()?;
    let (firmware_uuid, addresses): (Option<&str>, &[String]) = match &draft.observed.infra {
        Infra::Open(open) => (open.firmware_uuid.as_deref(), &open.addresses),
        _ => (None, &[]),
    };
    let claim = NodeClaim {
        machine: &draft.observed.machine,
        node,
        firmware_uuid,
        addresses,
    };
    (node_verdict(claim) == NodeVerdict::Ours).then(|| node.uid().to_owned())
}
