//! How a deleting Machine's VM stands, and its deletion.

use machinist_infra::provider::Instance;
use machinist_shared::api::names::{annotation, finalizer};

use super::super::conditions::{Condition, Status};
use super::super::ownership::VmVerdict;
use super::super::plan::Step;
use super::super::reason::Reason;
use super::super::record::{Deletion, Record, WaitingFor};
use super::super::snapshot::types::{ClusterName, Infra, Open};
use super::super::vm_creations::Creation;
use super::mass_loss_guard::disbelief;
use super::ownership::adopted;
use super::result::{Fate, Found};
use super::{Kept, PhaseResult, View, launch};

/// Finds out how the VM stands; where that cannot be reported, nothing else is done.
pub(super) fn find(view: &View<'_>) -> PhaseResult {
    let machine = view.machine();
    let has_vm_finalizer = machine.has_finalizer(finalizer::VM);
    let result = PhaseResult::default().keeping(Kept::Conditions);
    if !has_vm_finalizer && !machine.has_finalizer(finalizer::NODE) {
        // It never had a VM: the API server removes it, and only its token could be left. Any cached copy is stale.
        let mut result = result.stopped();
        result.is_momentary = true;
        result
            .steps
            .extend(view.observed.token.as_ref().map(|_| Step::DeleteToken));
        return result;
    }
    let deletion = Deletion {
        waiting_for: None,
        ..view.deletion()
    };
    let result = result.progress(view.progress().with_deletion(deletion));
    result.and(if has_vm_finalizer {
        look(view)
    } else {
        found(Fate::WasGone)
    })
}

fn found(vm: Fate) -> PhaseResult {
    PhaseResult {
        found: Found {
            vm: Some(vm),
            ..Found::default()
        },
        ..PhaseResult::default()
    }
}

fn look(view: &View<'_>) -> PhaseResult {
    let machine = view.machine();
    let abandoned = view.abandoned();
    if machine.annotation(annotation::ABANDON_VM) == Some(abandoned) {
        let message = format!("the VM (UID {abandoned}) is left behind, as annotated");
        return found(Fate::Let("VMAbandoned", message));
    }
    let open = match &view.observed.infra {
        Infra::Open(open) => open,
        Infra::Unreachable(how) | Infra::Refused(how) => {
            let why = format!("infra cluster unreachable: cannot confirm that the VM is deleted: {how}");
            return blocked(view, &why);
        }
        Infra::Connecting => return waits_for_infrastructure(view, "connecting to the infra cluster"),
        Infra::NoCredential(what) => return blocked(view, what),
    };
    let record = machine.record.as_ref();
    if let Some(record) = record
        && !record.infrastructure.is_same(&open.infrastructure)
    {
        let why = format!(
            "the VM is in namespace {} of {}, but the kubeconfig now leads to {}",
            record.infrastructure.namespace, record.infrastructure.server, open.infrastructure.server
        );
        return blocked(view, &why);
    }
    // A VM that went because the Machine does is no loss.
    let is_deleted = record.is_some_and(|record| record.vm_deleting);
    if !is_deleted && let Some((why, result)) = disbelief(view, open) {
        return result.and(blocked(view, &why));
    }
    let recorded = record.and_then(|record| record.vm_uid.as_deref());
    match (&open.vm, record, recorded) {
        (Some(vm), ..) => judged(view, open, vm),
        (None, None, _) if launch::has_node(view) => {
            let why = format!(
                "the Machine has a Node, but there is neither a VM in namespace {} of {} nor a record of where its VM is. Check \
                 that POD_NAMESPACE (chart value infra.namespace) and the kubeconfig are those that made it",
                open.infrastructure.namespace, open.infrastructure.server
            );
            blocked(view, &why)
        }
        (None, Some(_), None) => never_seen(view),
        (None, _, Some(recorded)) if open.has_guest_of(recorded) => guest_stays(view),
        (None, ..) => gone(view),
    }
}

fn gone(view: &View<'_>) -> PhaseResult {
    let message = format!("the VM {} is deleted", view.machine().name());
    found(Fate::Gone).condition(Condition::infrastructure(Status::False, Reason::VMDeleted, message).lazy())
}

/// A guest still writes to its disks and runs its pods: nothing else may yet.
fn guest_stays(view: &View<'_>) -> PhaseResult {
    let message = format!(
        "VM deleted but its VirtualMachineInstance {} remains; delete it manually if it persists",
        view.machine().name()
    );
    // Mostly it goes with the VM, a moment later.
    PhaseResult::stop().condition(Condition::deleting(Reason::WaitingForVMDeletion, message).lazy())
}

/// A VM was asked for, and none was ever seen.
fn never_seen(view: &View<'_>) -> PhaseResult {
    match view.observed.creation {
        Creation::Settled => gone(view),
        Creation::UnderWay(left) => waits_for_infrastructure(
            view,
            "the infra cluster has not answered whether it makes the VM, which may still appear; what appears is deleted",
        )
        .requeue(left),
        Creation::Unseen => waits_for_infrastructure(
            view,
            "it is looked up whether the infra cluster has made the VM",
        )
        .step(Step::FindVm),
    }
}

fn judged(view: &View<'_>, open: &Open, vm: &Instance) -> PhaseResult {
    let name = view.machine().name();
    let uid = vm.metadata.uid.clone().unwrap_or_default();
    match view.observed.vm_verdict(open, vm) {
        VmVerdict::Ours => {
            let record = view.record().map(|record| Record {
                vm_uid: record.vm_uid.clone().or(Some(uid)),
                ..with_node(view, record.clone())
            });
            let goes = vm.metadata.deletion_timestamp.is_some();
            found(if goes { Fate::Goes } else { Fate::Stays }).record(record)
        }
        VmVerdict::Adopt => {
            let credential = view.usable().and_then(|usable| usable.credential.clone());
            let record = adopted(view, credential, &open.infrastructure, &uid);
            let message = format!("the VM {uid} is adopted to be deleted");
            PhaseResult::stop()
                .record(with_node(view, record))
                .condition(Condition::deleting(Reason::WaitingForVMDeletion, message))
                .event(
                    false,
                    "Adopted",
                    format!("the VM {name} ({uid}) is adopted to be deleted"),
                )
        }
        VmVerdict::Undecided(what) if view.observed.cluster_name == ClusterName::Pending => {
            PhaseResult::stop().condition(Condition::deleting(Reason::WaitingForReference, what))
        }
        VmVerdict::Undecided(what) => {
            let why = format!(
                "whether the VM {name} ({uid}) is this Machine's cannot be determined: {what}. To declare that it is, annotate the Machine with \
                 {}={uid}",
                annotation::ADOPT_VM
            );
            blocked(view, &why)
        }
        VmVerdict::OtherCluster => {
            let message = format!("the VM {name} belongs to another user cluster and is left alone");
            found(Fate::Let("VMLeftAlone", message))
        }
        VmVerdict::Foreign(why) => {
            let message = format!("the VM {name} ({uid}) is not this Machine's ({why}) and is left alone");
            found(Fate::Let("VMLeftAlone", message))
        }
    }
}

/// The record with the Machine's Node, while its VM can be observed: afterwards nothing else may tie the two together.
fn with_node(view: &View<'_>, record: Record) -> Record {
    let node = view.own_node().map(|node| node.uid().to_owned());
    Record {
        node_uid: node.or(record.node_uid),
        ..record
    }
}

fn waits_for_infrastructure(view: &View<'_>, message: &str) -> PhaseResult {
    held_up(view).condition(Condition::deleting(Reason::WaitingForInfrastructure, message))
}

fn blocked(view: &View<'_>, why: &str) -> PhaseResult {
    let message = format!(
        "{why}. To leave the VM behind on purpose, annotate the Machine with {}={}",
        annotation::ABANDON_VM,
        view.abandoned()
    );
    held_up(view)
        .error("DeleteError", message.as_str())
        .condition(Condition::deleting(Reason::DeletionBlocked, message))
}

/// Nothing can be done for the VM, and so nothing is done for the Node.
fn held_up(view: &View<'_>) -> PhaseResult {
    let deletion = Deletion {
        waiting_for: Some(WaitingFor::Infrastructure),
        ..view.deletion()
    };
    PhaseResult::stop().progress(view.progress().with_deletion(deletion))
}

/// Deletes the VM, all that comes before being done.
pub(super) fn run(view: &View<'_>) -> PhaseResult {
    let deletes = match &view.before.found.vm {
        Some(Fate::Stays) => true,
        Some(Fate::Goes) => false,
        _ => return PhaseResult::default(),
    };
    let vm = view.vm().and_then(|(_, vm)| vm.metadata.uid.clone());
    let uid = vm.unwrap_or_default();
    let message = format!("waiting for the VM {} ({uid}) to go", view.machine().name());
    let result = PhaseResult::stop()
        .condition(Condition::deleting(Reason::WaitingForVMDeletion, message))
        .record(view.record().map(|record| Record {
            vm_deleting: true,
            ..record.clone()
        }));
    if deletes {
        return result.then(Step::DeleteVm { uid });
    }
    let message = format!("the VM {} is being deleted", view.machine().name());
    let terminating = Condition::infrastructure(Status::False, Reason::VMTerminating, message);
    result.condition(terminating.lazy())
}
