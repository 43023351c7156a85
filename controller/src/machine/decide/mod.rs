//! From a snapshot to a plan: a pure function, without I/O, clock or randomness.
//!
//! [`decide`] asks the questions of a Machine's life in order; each file holds what is done at one stage:
//! [`launch`] while there is no VM, [`run`] while there is one, [`join`] for its Node, [`delete`] for the way down.

mod delete;
mod draft;
mod join;
mod launch;
mod run;
#[cfg(test)]
mod tests;

use k8s_openapi::jiff::Timestamp;
use machinist_shared::names::{condition, finalizer};

use self::draft::Draft;
use super::conditions::{Condition, Reason, Status};
use super::observed::{Infra, Observed, Open, Spec, Usable};
use super::ownership::{VmClaim, VmVerdict, vm_verdict};
use super::plan::Plan;

pub use self::launch::user_data_secret_name;

/// What to do for one Machine.
pub fn decide(observed: &Observed, now: Timestamp) -> Plan {
    if observed.machine.is_ignored(&observed.settings.name) {
        return Plan::default();
    }
    let mut draft = Draft::new(observed, now);
    if observed.machine.is_deleting() {
        delete::decide(&mut draft);
    } else {
        live(&mut draft);
    }
    draft.finish()
}

fn live(draft: &mut Draft<'_>) {
    let observed = draft.observed;
    if let Some(winner) = &observed.name_winner {
        let message = format!(
            "the Machine {winner} has this name already; VM and Node bear their Machine's name, so it must be unique in the cluster"
        );
        draft.infrastructure(Status::False, Reason::NameTaken, message);
        return;
    }
    let usable = match &observed.spec {
        Spec::Usable(usable) => usable,
        Spec::Waiting(what) => {
            draft.infrastructure(
                Status::Unknown,
                Reason::WaitingForReference,
                format!("waiting for {what}"),
            );
            return;
        }
        Spec::ReferenceNotFound(what) => {
            draft.infrastructure(Status::False, Reason::ReferenceNotFound, what.clone());
            draft.error("CreateError", what.clone());
            return;
        }
        Spec::Invalid(why) => {
            draft.infrastructure(Status::False, Reason::InvalidSpec, why.clone());
            draft.error("CreateError", why.clone());
            return;
        }
    };
    if let Some(open) = reachable(draft)
        && placed(draft, open)
    {
        machine_of(draft, usable, open);
    }
}

/// The infra cluster, if it answers; else says why not, and keeps what was known.
fn reachable<'a>(draft: &mut Draft<'a>) -> Option<&'a Open> {
    let (status, reason, message) = match &draft.observed.infra {
        Infra::Open(open) => match &open.trouble {
            None => {
                draft.condition(Condition::new(
                    condition::INFRASTRUCTURE_REACHABLE,
                    Status::True,
                    Reason::Reachable,
                    format!("{} answers", open.infrastructure.server),
                ));
                return Some(open);
            }
            Some(trouble) => (Status::False, Reason::Unreachable, trouble.clone()),
        },
        Infra::Connecting => (
            Status::Unknown,
            Reason::Connecting,
            "connecting to the infra cluster".to_owned(),
        ),
        Infra::Unreachable(how) => (Status::False, Reason::Unreachable, how.clone()),
        Infra::NoCredential(what) => (Status::False, Reason::ReferenceNotFound, what.clone()),
    };
    let condition = Condition::new(condition::INFRASTRUCTURE_REACHABLE, status, reason, message);
    draft.condition(if status == Status::Unknown {
        condition.lazy()
    } else {
        condition
    });
    draft.keep_conditions();
    None
}

/// Whether the infra cluster is the one on record.
fn placed(draft: &mut Draft<'_>, open: &Open) -> bool {
    let machine = &draft.observed.machine;
    let Some(record) = &machine.record else {
        return true;
    };
    if record.infrastructure.is_same(&open.infrastructure) {
        draft.learn(&open.infrastructure);
        return true;
    }
    let accepted = machine.annotation(machinist_shared::names::annotation::ACCEPT_INFRASTRUCTURE);
    let infrastructure = &open.infrastructure;
    if accepted.is_some()
        && (accepted == infrastructure.namespace_uid.as_deref()
            || accepted == Some(infrastructure.server.as_str()))
    {
        draft.move_to(infrastructure);
        return true;
    }
    let message = format!(
        "the VM was put into namespace {} of {}, but the kubeconfig now leads to namespace {} of {}, another cluster; nothing is \
         created or deleted there. Mend the kubeconfig, or annotate the Machine with {}={}",
        record.infrastructure.namespace,
        record.infrastructure.server,
        infrastructure.namespace,
        infrastructure.server,
        machinist_shared::names::annotation::ACCEPT_INFRASTRUCTURE,
        infrastructure
            .namespace_uid
            .as_deref()
            .unwrap_or(&infrastructure.server),
    );
    draft.infrastructure(Status::False, Reason::InfrastructureChanged, message);
    draft.keep_conditions();
    false
}

/// The VM of the Machine's name, by whose it is.
fn machine_of(draft: &mut Draft<'_>, usable: &Usable, open: &Open) {
    let observed = draft.observed;
    let machine = &observed.machine;
    let Some(vm) = &open.vm else {
        launch::decide(draft, usable, open);
        return;
    };
    let claim = VmClaim {
        machine,
        vm,
        cluster_uid: &observed.settings.cluster_uid,
        cluster_name: Some(&usable.cluster_name),
        labelled_machine_exists: open.labelled_machine_exists,
    };
    let uid = vm.metadata.uid.clone().unwrap_or_default();
    match vm_verdict(claim) {
        VmVerdict::Ours => run::decide(draft, usable, open, vm),
        VmVerdict::Adopt => {
            let message = format!("the VM {} ({uid}) is taken over", machine.name());
            draft.adopt(usable.credential.clone(), &open.infrastructure, &uid);
            draft.finalizers(&[finalizer::VM, finalizer::NODE]);
            draft.infrastructure(Status::False, Reason::Creating, message.clone());
            draft.tell_after_patch(false, "Adopted", message);
        }
        VmVerdict::Stranger(why) => {
            let message = format!(
                "a VirtualMachine {} ({uid}) exists in namespace {} that is not this Machine's: {why}. It is left alone. Rename the \
                 Machine, delete that VM, or annotate the Machine with {}={uid} to take it",
                machine.name(),
                open.infrastructure.namespace,
                machinist_shared::names::annotation::ADOPT_VM,
            );
            draft.infrastructure(Status::False, Reason::VMNameTaken, message);
        }
    }
}
