//! The way down: the VM verified gone, then the Node, then the token, then the finalizers.

use machinist_infra::objects::Vm;
use machinist_shared::names::{annotation, condition, finalizer};

use super::super::conditions::{Condition, Reason, Status};
use super::super::observed::{Infra, Open, Spec};
use super::super::ownership::{NodeClaim, NodeVerdict, VmClaim, VmVerdict, node_verdict, vm_verdict};
use super::super::plan::Step;
use super::draft::Draft;

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
    if recorded.is_some() && machine.annotation(annotation::ABANDON_VM) == recorded {
        draft.plan.tell(
            true,
            "VMAbandoned",
            format!(
                "the VM {} is left behind, as annotated",
                recorded.unwrap_or_default()
            ),
        );
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
        None => true,
        Some(vm) => delete_vm(draft, open, vm),
    }
}

fn delete_vm(draft: &mut Draft<'_>, open: &Open, vm: &Vm) -> bool {
    let machine = draft.observed.machine.clone();
    let usable = match &draft.observed.spec {
        Spec::Usable(usable) => Some(usable),
        _ => None,
    };
    let claim = VmClaim {
        machine: &machine,
        vm,
        cluster_uid: &draft.observed.settings.cluster_uid,
        cluster_name: usable.map(|usable| usable.cluster_name.as_str()),
        labelled_machine_exists: open.labelled_machine_exists,
    };
    let uid = vm.metadata.uid.clone().unwrap_or_default();
    match vm_verdict(claim) {
        VmVerdict::Ours => {
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

fn unreachable(how: &str) -> String {
    format!("the infra cluster does not answer, so nobody can tell whether the VM is gone: {how}")
}

fn blocked(draft: &mut Draft<'_>, why: &str) -> bool {
    let machine = &draft.observed.machine;
    let way_out = match machine
        .record
        .as_ref()
        .and_then(|record| record.vm_uid.as_deref())
    {
        Some(uid) => format!(
            ". To leave the VM behind on purpose, annotate the Machine with {}={uid}",
            annotation::ABANDON_VM
        ),
        None => String::new(),
    };
    let message = format!("{why}{way_out}");
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
