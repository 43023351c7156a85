//! Whose the VM of the Machine's name is: what is not the Machine's is left alone.

use machinist_infra::provider::Instance;
use machinist_shared::api::names::{annotation, finalizer, label};

use super::super::conditions::{Condition, Status};
use super::super::ownership::VmVerdict;
use super::super::plan::Step;
use super::super::reason::Reason;
use super::super::record::{CredentialSource, Infrastructure, Progress, Record};
use super::{Kept, PhaseResult, View, token_renewal};

/// Finalizers of a Machine that has a VM.
pub(super) const FINALIZERS: &[&str] = &[finalizer::VM, finalizer::NODE];

pub(super) fn run(view: &View<'_>) -> PhaseResult {
    if view.usable().is_none() {
        return without_spec(view);
    }
    let Some((open, vm)) = view.vm() else {
        return PhaseResult::default();
    };
    let name = view.machine().name();
    let namespace = &open.infrastructure.namespace;
    let uid = vm.metadata.uid.clone().unwrap_or_default();
    let taken = |message| PhaseResult::stop().infrastructure(Reason::VMNameTaken, message);
    match view.observed.vm_verdict(open, vm) {
        VmVerdict::Ours => own(view, vm, &uid),
        VmVerdict::Adopt => {
            let message = format!("the VM {name} ({uid}) is adopted");
            let credential = view.usable().and_then(|usable| usable.credential.clone());
            PhaseResult {
                adds_finalizers: FINALIZERS,
                ..PhaseResult::stop()
            }
            .record(adopted(view, credential, &open.infrastructure, &uid))
            .infrastructure(Reason::Creating, message.as_str())
            .event(false, "Adopted", message)
        }
        VmVerdict::Undecided(what) => {
            let message =
                format!("VirtualMachine {name} ({uid}) exists but its owner cannot be determined: {what}");
            PhaseResult::stop().condition(Condition::infrastructure(
                Status::Unknown,
                Reason::WaitingForReference,
                message,
            ))
        }
        VmVerdict::OtherCluster => taken(format!(
            "a VirtualMachine {name} exists in namespace {namespace} that belongs to another user cluster. It is left alone. \
             Rename the Machine, or use another namespace"
        )),
        VmVerdict::Foreign(why) => taken(format!(
            "a VirtualMachine {name} ({uid}) exists in namespace {namespace} that is not this Machine's: {why}. It is left alone. \
             Rename the Machine, delete that VM, or annotate the Machine with {}={uid} to take it",
            annotation::ADOPT_VM,
        )),
    }
}

/// Looks after the recorded VM where the spec cannot be used: its Node and the certificate of that, its token, its host.
/// Nothing is given up, for it could not be made again.
fn without_spec(view: &View<'_>) -> PhaseResult {
    let result = PhaseResult::default().keeping(Kept::Conditions);
    let ours = view.vm().filter(|(_, vm)| {
        vm.metadata.uid.as_deref() == view.vm_uid() && vm.metadata.deletion_timestamp.is_none()
    });
    match ours.filter(|_| token_renewal::has_node(view)) {
        Some((open, _)) => PhaseResult {
            addresses: Some(open.addresses.clone()),
            ..result
        },
        None => result.stopped().and(token_renewal::keep(view)),
    }
}

/// The Machine's own VM goes on, unless it is being deleted, or was given up.
fn own(view: &View<'_>, vm: &Instance, uid: &str) -> PhaseResult {
    let terminating = vm.metadata.deletion_timestamp.is_some();
    let former = view.record().and_then(|record| record.former.as_ref());
    let is_former = former.is_some_and(|former| former.uid == uid);
    if is_former && (terminating || view.own_node().is_none()) {
        let message = "the former VM is on its way out";
        let mut result = PhaseResult::stop().infrastructure(Reason::VMTerminating, message);
        let uid = uid.to_owned();
        result
            .steps
            .extend((!terminating).then_some(Step::DeleteVm { uid }));
        return result;
    }
    if terminating {
        let message = format!(
            "the VM {} ({uid}) is being deleted, not by us",
            view.machine().name()
        );
        return PhaseResult::stop()
            .infrastructure(Reason::VMTerminating, message)
            .keeping(Kept::Conditions);
    }
    // A VM that was given up, because its guest seemed never to have been started, has become a Node after all: then it is the
    // Machine's again. Nodes of earlier VMs are deleted before a VM is made.
    let taken_back = view.record().filter(|_| is_former).map(|record| Record {
        former: None,
        ..record.clone()
    });
    let result = PhaseResult::default().record(taken_back);
    match view.progress() {
        Progress { vm_loss: None, .. } => result,
        found_again => result.progress(Progress {
            vm_loss: None,
            ..found_again.clone()
        }),
    }
}

/// The record of a Machine whose VM from now on is one that we did not make.
pub(super) fn adopted(
    view: &View<'_>,
    credential: Option<CredentialSource>,
    infra: &Infrastructure,
    vm_uid: &str,
) -> Record {
    let former = view.record().cloned().unwrap_or_default();
    // A nodeRef proves nothing, but it is reason enough to be patient.
    let joined = former.has_joined() || view.machine().status.node_ref.is_some();
    // The VM was another Machine's, whose place this one takes.
    let labels = view.vm().and_then(|(_, vm)| vm.metadata.labels.as_ref());
    let labeled = labels.and_then(|labels| labels.get(label::MACHINE_UID));
    let labeled = labeled.filter(|labeled| *labeled != view.machine().uid());
    Record {
        former_machine_uid: labeled.cloned().or(former.former_machine_uid),
        infrastructure: infra.clone(),
        credential: credential.or(former.credential),
        failure_domain: former.failure_domain,
        vm_uid: Some(vm_uid.to_owned()),
        joined,
        has_been_ready: former.has_been_ready,
        node_uid: former.node_uid,
        retired: former.retired,
        ..Record::default()
    }
}
