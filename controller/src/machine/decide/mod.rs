//! From a snapshot to a plan: a pure function, without I/O, clock or randomness.
//!
//! [`decide`] asks the questions of a Machine's life in order; each file holds what is done at one stage:
//! [`launch`] while there is no VM, [`run`] while there is one, [`join`] for its Node, [`delete`] for the way down, which
//! begins with [`goodbye`].

mod delete;
mod draft;
mod evacuate;
mod goodbye;
mod join;
mod launch;
mod run;
mod serving;
#[cfg(test)]
mod tests;

use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use machinist_infra::clock::Skew;
use machinist_shared::names::{annotation, condition, finalizer};

use self::draft::Draft;
use super::brake::BURST;
use super::conditions::{Condition, Reason, Status};
use super::observed::{Brake, Infra, Losses, NotWatched, Observed, Open, Spec, Usable};
use super::ownership::{VmClaim, VmVerdict, vm_verdict};
use super::plan::Plan;
use super::record::Infrastructure;

pub use self::launch::user_data_secret_name;

/// What to do for one Machine.
pub fn decide(observed: &Observed, now: Timestamp) -> Plan {
    let machine = &observed.machine;
    if machine.is_anothers(&observed.settings.name) {
        return Plan::default();
    }
    let mut draft = Draft::new(observed, now);
    if let Skew::TooLarge(ahead) = observed.skew {
        skewed(&mut draft, ahead);
    } else if machine.is_deleting() {
        delete::decide(&mut draft);
    } else {
        live(&mut draft);
    }
    if observed.name_winner.is_none() {
        serving::decide(&mut draft);
    }
    if machine.is_paused() {
        // Nothing is done about the Machine; but its kubelet goes on, and its certificate ends.
        return draft.only_requests();
    }
    draft.finish()
}

/// How often a Machine is looked at while the clocks differ too much.
const SKEWED: Duration = Duration::from_mins(1);

/// The clocks differ too much for anything to be created or deleted. What is known stays said.
fn skewed(draft: &mut Draft<'_>, ahead: SignedDuration) {
    let (minutes, order) = (
        ahead.as_mins().abs(),
        if ahead.is_positive() { "ahead of" } else { "behind" },
    );
    let message = format!(
        "the clock of the API server is {minutes} min {order} that of the machine-controller; nothing is created or deleted while \
         they differ by more than an hour. Correct the clock that is wrong"
    );
    draft.keep_status();
    draft.plan.look_again(SKEWED);
    let has_vm = draft
        .record
        .as_ref()
        .is_some_and(|record| record.vm_uid.is_some());
    if draft.observed.machine.is_deleting() {
        draft.condition(Condition::new(
            condition::DELETING,
            Status::True,
            Reason::ClockSkew,
            message,
        ));
    } else if !has_vm {
        draft.infrastructure(Status::False, Reason::ClockSkew, message);
    }
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
    match visible(draft) {
        Some((Some(usable), open)) => machine_of(draft, usable, open),
        Some((None, open)) => run::see_to(draft, open),
        None => run::keep_token(draft),
    }
}

/// Where the Machine's VM is, if it can be seen and believed, and what the Machine asks for; else says why not. A Machine
/// that has a VM needs nothing of its spec to be seen to.
fn visible<'a>(draft: &mut Draft<'a>) -> Option<(Option<&'a Usable>, &'a Open)> {
    let has_vm = draft
        .record
        .as_ref()
        .is_some_and(|record| record.vm_uid.is_some());
    let usable = match &draft.observed.spec {
        Spec::Usable(usable) => Some(usable.as_ref()),
        // After a restart everything is read anew: what is stored still holds.
        Spec::Waiting(_) if draft.keep_condition(condition::INFRASTRUCTURE_READY) => {
            draft.keep_condition(condition::INFRASTRUCTURE_REACHABLE);
            draft.keep_status();
            return None;
        }
        Spec::Waiting(what) => {
            let waiting = Condition::new(
                condition::INFRASTRUCTURE_READY,
                Status::Unknown,
                Reason::WaitingForReference,
                format!("waiting for {what}"),
            );
            draft.condition(waiting.lazy());
            return None;
        }
        Spec::ReferenceNotFound(what) => {
            draft.infrastructure(Status::False, Reason::ReferenceNotFound, what.clone());
            if !has_vm {
                draft.error("CreateError", what.clone());
                return None;
            }
            None
        }
        Spec::Invalid(why) => {
            draft.infrastructure(Status::False, Reason::InvalidSpec, why.clone());
            if !has_vm {
                draft.error("CreateError", why.clone());
                return None;
            }
            None
        }
    };
    let open = reachable(draft)?;
    (placed(draft, open) && believed(draft, open)).then_some((usable, open))
}

/// The infra cluster, if it answers; else says why not, and keeps what was known.
fn reachable<'a>(draft: &mut Draft<'a>) -> Option<&'a Open> {
    let (status, reason, message) = match &draft.observed.infra {
        Infra::Open(open) => {
            let server = &open.infrastructure.server;
            let (reason, message) = match &open.unwatched {
                None => (Reason::Reachable, format!("{server} answers")),
                Some(unwatched) => {
                    let namespace = &open.infrastructure.namespace;
                    let every = draft.observed.settings.look_every;
                    match &unwatched.why {
                        NotWatched::Forbidden(verbs) => (
                            Reason::WatchForbidden,
                            format!(
                                "{server} answers, but in namespace {namespace} the credential may not {verbs}; the Machine is looked \
                                 at every {every:?} instead. Grant these verbs (examples/infra-rbac.yaml)"
                            ),
                        ),
                        NotWatched::TooLarge => (
                            Reason::CacheFull,
                            format!(
                                "{server} answers, but the objects in namespace {namespace} take more than their share of the memory \
                                 for all infra clusters (--infra-cache-mib); the Machine is looked at every {every:?} instead"
                            ),
                        ),
                    }
                }
            };
            draft.condition(Condition::new(
                condition::INFRASTRUCTURE_REACHABLE,
                Status::True,
                reason,
                message,
            ));
            return Some(open);
        }
        // What is being found out unsays nothing: the answer follows within seconds.
        Infra::Connecting if draft.keep_condition(condition::INFRASTRUCTURE_REACHABLE) => {
            draft.keep_status();
            return None;
        }
        Infra::Connecting => (
            Status::Unknown,
            Reason::Connecting,
            "connecting to the infra cluster".to_owned(),
        ),
        Infra::Unreachable(how) | Infra::Refused(how) => (Status::False, Reason::Unreachable, how.clone()),
        Infra::NoCredential(what) => (Status::False, Reason::ReferenceNotFound, what.clone()),
    };
    let condition = Condition::new(condition::INFRASTRUCTURE_REACHABLE, status, reason, message);
    draft.condition(if status == Status::Unknown {
        condition.lazy()
    } else {
        condition
    });
    if let Infra::NoCredential(what) = &draft.observed.infra
        && draft.record.as_ref().is_none_or(|record| record.vm_uid.is_none())
    {
        draft.infrastructure(Status::False, Reason::ReferenceNotFound, what.clone());
        draft.error("CreateError", what.clone());
    }
    draft.keep_status();
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
    let infrastructure = &open.infrastructure;
    if machine.accepts(infrastructure) {
        draft.move_to(infrastructure);
        return true;
    }
    let message = format!(
        "the VM was put into namespace {} of {}, but the kubeconfig now leads to namespace {} of {}, another cluster; nothing is \
         created or deleted there. Mend the kubeconfig, or annotate the Machine with {}",
        record.infrastructure.namespace,
        record.infrastructure.server,
        infrastructure.namespace,
        infrastructure.server,
        acceptance(infrastructure),
    );
    draft.infrastructure(Status::False, Reason::InfrastructureChanged, message);
    draft.keep_conditions();
    false
}

/// The annotation that accepts an infra cluster.
fn acceptance(infrastructure: &Infrastructure) -> String {
    let name = infrastructure
        .namespace_uid
        .as_deref()
        .unwrap_or(&infrastructure.server);
    format!("{}={name}", annotation::ACCEPT_INFRASTRUCTURE)
}

/// Whether what the infra cluster shows can be believed: not if too many VMs are missing at the same time.
fn believed(draft: &mut Draft<'_>, open: &Open) -> bool {
    if is_seen(draft, open) {
        return true;
    }
    let Some(why) = disbelief(draft, open) else {
        return true;
    };
    let condition = Condition::new(
        condition::INFRASTRUCTURE_READY,
        Status::False,
        Reason::InfrastructureChanged,
        why,
    );
    let machine = &draft.observed.machine;
    // How many are missing, and whose, may change all the time.
    let is_known = machine.says(condition::INFRASTRUCTURE_READY, Reason::InfrastructureChanged);
    draft.condition(if is_known { condition.lazy() } else { condition });
    draft.keep_conditions();
    false
}

/// Whether the Machine's VM on record is seen where it was put.
fn is_seen(draft: &Draft<'_>, open: &Open) -> bool {
    let record = draft.observed.machine.record.as_ref();
    let recorded = record.and_then(|record| record.vm_uid.as_deref());
    let seen = open.vm.as_ref().and_then(|vm| vm.metadata.uid.as_deref());
    recorded.is_some() && recorded == seen
}

/// Why nothing is created or deleted on an infra cluster that misses many VMs at the same time, if that is so.
fn disbelief(draft: &mut Draft<'_>, open: &Open) -> Option<String> {
    let infrastructure = &open.infrastructure;
    match &open.brake {
        Brake::Released => None,
        _ if draft.observed.machine.accepts(infrastructure) => None,
        Brake::Settling(left) => {
            draft.plan.look_again(SETTLING.min(*left));
            if *left <= BURST {
                draft.say_nothing_yet();
            }
            Some("the VM is not there; whether others have vanished, too, is being looked at".to_owned())
        }
        Brake::Engaged(losses) => {
            draft.plan.look_again(BRAKED);
            let Losses {
                missing, recorded, ..
            } = **losses;
            Some(format!(
                "{missing} of the {recorded} VMs on record in namespace {} of {} are missing, and Machinist did not delete them: \
                 rather another cluster answers there than that they are gone. Nothing is created there, and no other VM is taken \
                 for gone, until those of these Machines are seen again: {}. If they are gone for good, delete these Machines or \
                 annotate them with {}",
                infrastructure.namespace,
                infrastructure.server,
                named(&losses.holders),
                acceptance(infrastructure),
            ))
        }
    }
}

/// So many Machines are named.
const NAMED: usize = 3;

fn named(machines: &[String]) -> String {
    let (named, others) = machines.split_at(machines.len().min(NAMED));
    let named = named.join(", ");
    match others.len() {
        0 => named,
        others => format!("{named} and {others} more"),
    }
}

/// How often a VM that is not believed to be gone is looked at, should nothing tell of it.
const SETTLING: Duration = Duration::from_secs(5);
const BRAKED: Duration = Duration::from_secs(30);

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
        cluster_name: &observed.cluster_name,
        labelled_machine_exists: open.labelled_machine_exists,
        rival: open.recorded_by.as_deref(),
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
        VmVerdict::Undecided(what) => {
            let message = format!(
                "a VirtualMachine {} ({uid}) exists, and nobody can tell whose it is: {what}",
                machine.name()
            );
            draft.infrastructure(Status::Unknown, Reason::WaitingForReference, message);
        }
        VmVerdict::OtherCluster => {
            let message = format!(
                "a VirtualMachine {} exists in namespace {} that belongs to another user cluster. It is left alone. Rename the \
                 Machine, or use another namespace",
                machine.name(),
                open.infrastructure.namespace,
            );
            draft.infrastructure(Status::False, Reason::VMNameTaken, message);
        }
        VmVerdict::Stranger(why) => {
            let message = format!(
                "a VirtualMachine {} ({uid}) exists in namespace {} that is not this Machine's: {why}. It is left alone. Rename the \
                 Machine, delete that VM, or annotate the Machine with {}={uid} to take it",
                machine.name(),
                open.infrastructure.namespace,
                annotation::ADOPT_VM,
            );
            draft.infrastructure(Status::False, Reason::VMNameTaken, message);
        }
    }
}
