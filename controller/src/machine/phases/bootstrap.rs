//! The user data of a VM that has just been made: given to it, and the VM recorded with it.

use machinist_infra::provider::Instance;
use machinist_shared::api::names::{condition, label};

use super::super::conditions::{Condition, Status};
use super::super::plan::{Step, UserDataSource};
use super::super::reason::Reason;
use super::super::record::Record;
use super::super::snapshot::types::{Bootstrap, Open};
use super::super::user_data_source::{self, UserDataIs, user_data_secret_name};
use super::ownership::FINALIZERS;
use super::{PhaseResult, View, vm_loss};
use crate::machine::failures::LABEL_AGAIN;

pub(super) fn run(view: &View<'_>) -> PhaseResult {
    let (Some((open, vm)), Some(_)) = (view.vm(), view.usable()) else {
        return PhaseResult::default();
    };
    let result = PhaseResult {
        adds_finalizers: FINALIZERS,
        ..record_vm(view, open, vm)
    };
    if result.flow == super::Flow::Stop {
        return result;
    }
    result.and(labeled(view, open, vm))
}

/// Makes the user data and records the VM, if it is not recorded; stops if the VM has to be recreated.
fn record_vm(view: &View<'_>, open: &Open, vm: &Instance) -> PhaseResult {
    if view.vm_uid().is_some() {
        return PhaseResult::default();
    }
    let uid = vm.metadata.uid.clone().unwrap_or_default();
    let machine = view.machine();
    let is_given = |id: &str| vm.user_data == Some(user_data_secret_name(machine.uid(), id));
    let before = view.record().cloned().unwrap_or_default();
    let recorded = Record {
        infrastructure: open.infrastructure.clone(),
        credential: view.usable().and_then(|usable| usable.credential.clone()),
        vm_uid: Some(uid.clone()),
        ..before
    };
    let found = match user_data_source::of_vm(view.observed, view.record()) {
        UserDataIs::Here(source, id) if is_given(&id) => Ok((source, id)),
        UserDataIs::Here(..) | UserDataIs::Gone(_) if has_joined(view) => {
            return PhaseResult::default().record(recorded);
        }
        UserDataIs::Here(..) => Err("its user data is of another make"),
        UserDataIs::Gone(why) => Err(why),
        UserDataIs::Awaited => {
            return missing(view).unwrap_or_default().stopped();
        }
    };
    let recorded = Record {
        vm_seen: Some(view.now),
        token_id: match &found {
            Ok((UserDataSource::Token, id)) => Some(id.clone()),
            _ => None,
        },
        node_uid: None,
        ..recorded
    };
    match found {
        Ok((source, _)) => PhaseResult::default()
            .record(recorded)
            .step(Step::RenderUserData(source))
            .step(Step::CreateUserData { vm_uid: uid })
            .event(
                false,
                "Created",
                format!(
                    "Created VirtualMachine {}/{}",
                    open.infrastructure.namespace,
                    machine.name()
                ),
            ),
        Err(why) => {
            let message = format!("the VM is being recreated: {why}");
            let result = PhaseResult::stop()
                .record(recorded)
                .infrastructure(Reason::Creating, message);
            vm_loss::replaced(view, result, &uid, why)
        }
    }
}

/// Whether the VM that is not recorded yet has become a Node: its guest was started, whatever is gone since. The Node of a
/// former VM proves nothing.
fn has_joined(view: &View<'_>) -> bool {
    let former = view.record().and_then(|record| record.former.as_ref());
    former.is_none() && view.own_node().is_some()
}

/// Labels an adopted VM, as soon as that is allowed.
fn labeled(view: &View<'_>, open: &Open, vm: &Instance) -> PhaseResult {
    let labels = vm.metadata.labels.as_ref();
    let owner = labels.and_then(|labels| labels.get(label::MACHINE_UID));
    if owner.is_some_and(|owner| owner == view.machine().uid()) {
        PhaseResult::default()
    } else if open.may_label {
        PhaseResult::default().step(Step::LabelVm {
            uid: vm.metadata.uid.clone().unwrap_or_default(),
            resource_version: vm.metadata.resource_version.clone().unwrap_or_default(),
        })
    } else {
        PhaseResult::default().requeue(LABEL_AGAIN)
    }
}

/// Why there is no user data yet, and therefore no guest; if so.
pub(super) fn missing(view: &View<'_>) -> Option<PhaseResult> {
    let (reason, why) = match &view.observed.bootstrap {
        Bootstrap::Builtin | Bootstrap::Osm(_) => return None,
        Bootstrap::Waiting(why) => (Reason::WaitingForBootstrapSecret, why),
        Bootstrap::OtherRevision(why) => (Reason::BootstrapSecretRevision, why),
        Bootstrap::Invalid(why) => (Reason::BootstrapFailed, why),
    };
    let bootstrap = Condition::new(condition::BOOTSTRAP_READY, Status::False, reason, why.as_str());
    let message = format!("no guest is started without user data: {why}");
    Some(
        PhaseResult::default()
            .condition(bootstrap)
            .infrastructure(reason, message)
            .condition(Condition::no_vm_yet()),
    )
}
