//! While there is a VM that is the Machine's: its record, its user data, and what keeps it from running.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use machinist_infra::clock::Skew;
use machinist_infra::provider::Instance;
use machinist_shared::names::{annotation, condition, finalizer, label};

use super::super::conditions::{Condition, Reason, Status};
use super::super::observed::{Bootstrap, Open, Usable};
use super::super::plan::{Step, UserDataSource};
use super::super::record::Record;
use super::draft::Draft;
use super::{delete, evacuate, join, launch};
use crate::cache::SpecState;
use crate::config::OptionalDuration;
use crate::machine::failures::LABEL_AGAIN;

pub(super) fn decide(draft: &mut Draft<'_>, usable: &Usable, open: &Open, vm: &Instance) {
    let uid = vm.metadata.uid.clone().unwrap_or_default();
    let terminating = vm.metadata.deletion_timestamp.is_some();
    let former = draft.record.as_ref().and_then(|record| record.former.clone());
    if former.as_ref().is_some_and(|former| former.uid == uid) && !takes_back(draft, terminating) {
        if !terminating {
            draft.plan.push(Step::DeleteVm { uid });
        }
        draft.infrastructure(
            Status::False,
            Reason::VMTerminating,
            "the former VM is on its way out",
        );
        return;
    }
    if terminating {
        let message = format!(
            "the VM {} ({uid}) is being deleted, not by us",
            draft.observed.machine.name()
        );
        draft.infrastructure(Status::False, Reason::VMTerminating, message);
        draft.keep_conditions();
        return;
    }
    if !record_vm(draft, usable, open, vm, &uid) {
        return;
    }
    let owner = vm
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(label::MACHINE_UID));
    let unlabelled = owner.is_none_or(|owner| owner != draft.observed.machine.uid());
    if unlabelled && open.may_label {
        let resource_version = vm.metadata.resource_version.clone().unwrap_or_default();
        draft.plan.push(Step::LabelVm {
            uid: uid.clone(),
            resource_version,
        });
    } else if unlabelled {
        draft.plan.look_again(LABEL_AGAIN);
    }
    if provisioning_timed_out(draft, open, vm) {
        return;
    }
    state(draft, open);
    draft.addresses = Some(open.addresses.clone());
    let machine = &draft.observed.machine;
    if !open.addresses.is_empty() && !draft.observed.settings.external_cloud_provider {
        let is_decoded = matches!(machine.spec, SpecState::Decoded(_));
        if is_decoded && machine.provider_id.as_deref().is_none_or(str::is_empty) {
            draft.provider_id = Some(super::super::ownership::provider_id_of(machine));
        }
    }
    let joined = join::node(draft, Some(usable), open, vm);
    bootstrap(draft, open, &uid, joined);
    evacuate::decide(draft, open);
}

/// Sees to the recorded VM where the spec cannot be used: its Node and the certificate of that, its token, its host. Nothing
/// is given up, for it could not be made anew.
pub(super) fn see_to(draft: &mut Draft<'_>, open: &Open) {
    draft.keep_conditions();
    let record = draft.record.as_ref();
    let recorded = record.and_then(|record| record.vm_uid.as_deref());
    let ours = open
        .vm
        .as_ref()
        .filter(|vm| vm.metadata.uid.as_deref() == recorded && vm.metadata.deletion_timestamp.is_none());
    let Some(vm) = ours.filter(|_| has_node(draft)) else {
        return keep_token(draft);
    };
    draft.addresses = Some(open.addresses.clone());
    let uid = vm.metadata.uid.clone().unwrap_or_default();
    if join::node(draft, None, open, vm) {
        bootstrap(draft, open, &uid, true);
    } else {
        keep_token(draft);
    }
    evacuate::decide(draft, open);
}

/// Makes the user data and records the VM, if it is not recorded; `false` if the VM has to be made anew.
fn record_vm(draft: &mut Draft<'_>, usable: &Usable, open: &Open, vm: &Instance, uid: &str) -> bool {
    draft.finalizers(&[finalizer::VM, finalizer::NODE]);
    if draft
        .record
        .as_ref()
        .is_some_and(|record| record.vm_uid.is_some())
    {
        return true;
    }
    let machine_uid = draft.observed.machine.uid();
    let is_given = |id: &str| {
        let name = launch::user_data_secret_name(machine_uid, id);
        vm.user_data.as_ref() == Some(&name)
    };
    let (source, id, why) = match user_data_source(draft) {
        UserDataIs::Here(source, id) if is_given(&id) => (Some(source), Some(id), ""),
        UserDataIs::Here(..) | UserDataIs::Gone(_) if has_joined(draft) => {
            let former = draft.record.take().unwrap_or_default();
            draft.record = Some(Record {
                infrastructure: open.infrastructure.clone(),
                credential: usable.credential.clone(),
                vm_uid: Some(uid.to_owned()),
                ..former
            });
            return true;
        }
        UserDataIs::Here(..) => (None, None, "its user data is of another make"),
        UserDataIs::Gone(why) => (None, None, why),
        UserDataIs::Awaited => {
            launch::bootstrap_waits(draft);
            return false;
        }
    };
    let token_id = id.filter(|_| source == Some(UserDataSource::Token));
    let former = draft.record.take();
    draft.record = Some(Record {
        infrastructure: open.infrastructure.clone(),
        credential: usable.credential.clone(),
        vm_uid: Some(uid.to_owned()),
        vm_seen: Some(draft.now),
        token_id,
        node_uid: None,
        ..former.unwrap_or_default()
    });
    let Some(source) = source else {
        draft.replace_vm(uid, why);
        draft.infrastructure(
            Status::False,
            Reason::Creating,
            format!("the VM is being made anew: {why}"),
        );
        return false;
    };
    draft.plan.push(Step::RenderUserData(source));
    draft.plan.push(Step::CreateUserData {
        vm_uid: uid.to_owned(),
    });
    draft.tell_after_patch(
        false,
        "Created",
        format!(
            "Created VirtualMachine {}/{}",
            open.infrastructure.namespace,
            draft.observed.machine.name()
        ),
    );
    true
}

/// Whether a VM that was given up, because its guest seemed never to have been started, has become a Node after all: then it
/// is the Machine's again. Nodes of earlier VMs are deleted before a VM is made.
fn takes_back(draft: &mut Draft<'_>, terminating: bool) -> bool {
    let joined = !terminating && delete::own_node(draft).is_some();
    if let Some(record) = draft.record.as_mut().filter(|_| joined) {
        record.former = None;
    }
    joined
}

/// Whether the VM that is not recorded yet has become a Node: its guest was started, whatever is gone since. The Node of a
/// former VM proves nothing.
fn has_joined(draft: &Draft<'_>) -> bool {
    let former = draft.record.as_ref().and_then(|record| record.former.as_ref());
    former.is_none() && delete::own_node(draft).is_some()
}

/// Whether the VM has taken too long to run and the Machine is being replaced for it.
fn provisioning_timed_out(draft: &mut Draft<'_>, open: &Open, vm: &Instance) -> bool {
    // A node that has joined once and is being made anew in place is worth waiting for.
    if open.state.ready || draft.has_joined_once() || draft.observed.skew == Skew::Unknown {
        return false;
    }
    let machine = &draft.observed.machine;
    let Ok(timeout) = provisioning_timeout(draft) else {
        return false;
    };
    let Some((timeout, deadline)) =
        timeout.and_then(|timeout| Some((timeout, join::deadline(draft, vm, timeout)?)))
    else {
        return false;
    };
    if deadline > draft.now {
        let wait = draft.until(deadline);
        draft.plan.look_again(wait);
        return false;
    }
    let message = format!(
        "the VM {} does not run after {} s; it hangs at {}: {}",
        machine.name(),
        timeout.as_secs(),
        open.state.reason,
        open.state.message
    );
    draft.infrastructure(Status::False, Reason::ProvisioningTimeout, message.clone());
    draft.fail("CreateError", message.clone());
    draft.replaced_by_set("ProvisioningTimeout", &message)
}

/// How long the VM may take to run: as the Machine's annotation says, else as the flag does. `Err` if the annotation
/// cannot be read.
fn provisioning_timeout(draft: &Draft<'_>) -> Result<Option<Duration>, ()> {
    match draft
        .observed
        .machine
        .annotation(annotation::PROVISIONING_TIMEOUT)
    {
        None => Ok(draft.observed.settings.provisioning_timeout),
        Some("off") => Ok(None),
        Some(text) => match crate::config::duration(text) {
            Ok(OptionalDuration(Some(timeout))) => Ok(Some(timeout)),
            _ => Err(()),
        },
    }
}

/// What has become of the user data of a VM that is not recorded yet.
enum UserDataIs {
    /// It can be given; and the ID in the name of its Secret.
    Here(UserDataSource, String),
    /// It is gone, why, and the VM with it: its guest was never started.
    Gone(&'static str),
    /// It may come back.
    Awaited,
}

fn user_data_source(draft: &Draft<'_>) -> UserDataIs {
    let begun = draft
        .record
        .as_ref()
        .and_then(|record| record.bootstrap_secret.as_ref());
    match (begun, &draft.observed.bootstrap) {
        (None, _) => match &draft.observed.token {
            Some(token) => UserDataIs::Here(UserDataSource::Token, token.id.to_string()),
            None => UserDataIs::Gone("its bootstrap token is gone before its guest was started"),
        },
        (Some(begun), Bootstrap::Osm(revision)) if begun.revision == *revision => UserDataIs::Here(
            UserDataSource::BootstrapSecret(begun.id.clone()),
            begun.id.clone(),
        ),
        (Some(_), Bootstrap::Osm(_)) => {
            UserDataIs::Gone("its bootstrap Secret was replaced before its guest was started")
        }
        (Some(_), Bootstrap::Builtin) => {
            UserDataIs::Gone("its bootstrap mode was changed before its guest was started")
        }
        (Some(_), Bootstrap::Waiting(_) | Bootstrap::OtherRevision(_) | Bootstrap::Invalid(_)) => {
            UserDataIs::Awaited
        }
    }
}

/// Answers `InfrastructureReady` with the root cause.
fn state(draft: &mut Draft<'_>, open: &Open) {
    let state = &open.state;
    let status = if state.ready { Status::True } else { Status::False };
    let former = draft
        .record
        .as_ref()
        .and_then(|record| record.former.as_ref())
        .map(|former| former.why.clone());
    let message = match former {
        Some(why) if !state.ready => format!("{} (made anew: {why})", state.message),
        _ => state.message.clone(),
    };
    let message = if !state.ready && provisioning_timeout(draft).is_err() {
        format!(
            "{message} (the annotation {} is neither a duration like 45m nor off, and is ignored)",
            annotation::PROVISIONING_TIMEOUT
        )
    } else {
        message
    };
    let condition = Condition {
        kind: condition::INFRASTRUCTURE_READY,
        status,
        reason: state.reason.clone(),
        message: message.clone(),
        urgency: super::super::conditions::Urgency::Now,
    };
    draft.condition(if state.progress {
        condition.lazy()
    } else {
        condition
    });
    if state.ready
        && let Some(record) = &mut draft.record
    {
        record.former = None;
    }
    if state.terminal {
        draft.fail("CreateError", format!("{}: {message}", state.reason));
    }
}

/// Bootstrap tokens are extended when they have this long to live.
const HALF_LIFE: Duration = Duration::from_mins(15);

/// Keeps the token alive while nobody can see what has become of the VM: its guest may be booting with it, and is to join
/// when the VM can be seen again. The time to join cannot be judged from here.
pub(super) fn keep_token(draft: &mut Draft<'_>) {
    let Some(record) = &draft.record else { return };
    let Some(token) = &draft.observed.token else {
        return;
    };
    let of_vm = record.token_id.as_deref();
    // Before the VM is on record, the token is.
    if !has_node(draft) && of_vm.is_none_or(|id| id == token.id.as_str()) {
        extend(draft, token.expiration);
    }
}

/// Whether the VM has become a Node, recorded or not: a former VM's is older than the token.
fn has_node(draft: &Draft<'_>) -> bool {
    let token = draft.observed.token.as_ref();
    let is_newer = |created: Timestamp| token.is_none_or(|token| created >= token.created);
    let recorded = draft
        .record
        .as_ref()
        .is_some_and(|record| record.node_uid.is_some());
    recorded
        || delete::own_node(draft).is_some_and(|node| {
            let created = node.metadata.creation_timestamp.as_ref();
            created.is_none_or(|created| is_newer(created.0))
        })
}

/// Extends a token that expires then, or looks again when it is half-way there.
fn extend(draft: &mut Draft<'_>, expiration: Timestamp) {
    let left = draft.until(expiration);
    if left <= HALF_LIFE {
        draft.plan.push(Step::ExtendToken);
    } else {
        draft.plan.look_again(left.saturating_sub(HALF_LIFE));
    }
}

/// Answers `BootstrapReady`, and keeps the token alive until the join and no longer.
fn bootstrap(draft: &mut Draft<'_>, open: &Open, vm_uid: &str, joined: bool) {
    let answer =
        |status, reason, message: &str| Condition::new(condition::BOOTSTRAP_READY, status, reason, message);
    let ours = draft.record.as_ref().and_then(|record| record.token_id.clone());
    let has_ours = draft
        .observed
        .token
        .as_ref()
        .is_some_and(|token| Some(token.id.as_str()) == ours.as_deref());
    if has_ours && draft.observed.has_spare_tokens {
        draft.plan.push(Step::DeleteSpareTokens);
    }
    let osm = draft
        .record
        .as_ref()
        .and_then(|record| record.bootstrap_secret.clone());
    if joined {
        // A VM without token counts as never started until it is on record.
        let stored = draft.observed.machine.record.as_ref();
        let is_recorded = stored.is_some_and(|record| record.vm_uid.as_deref() == Some(vm_uid));
        if draft.observed.token.is_some() && is_recorded {
            draft.plan.push(Step::DeleteToken);
        }
        let message = match &osm {
            Some(_) => "the kubelet has joined",
            None => "the kubelet has joined; its token is gone",
        };
        draft.condition(answer(Status::True, Reason::Joined, message).lazy());
        return;
    }
    if let Some(osm) = osm {
        let message = format!(
            "operating-system-manager's user data of revision {} is in place",
            osm.revision
        );
        draft.condition(answer(Status::True, Reason::DataReady, &message).lazy());
        return;
    }
    let Some(ours) = ours else {
        draft.condition(answer(Status::True, Reason::DataReady, "the VM came with its user data").lazy());
        return;
    };
    let token = draft
        .observed
        .token
        .as_ref()
        .filter(|token| token.id.to_string() == ours);
    // A guest that was never started has not had its time to join yet, unless the Machine goes anyway.
    let is_over = draft.gave_up && (open.guest_started() || draft.observed.machine.machine_set().is_some());
    match token {
        // One that has expired and is still there saves a VM that was never started from being made, and filled, anew.
        Some(token) if token.expiration > draft.now || !open.guest_started() => {
            if !is_over {
                extend(draft, token.expiration);
            } else if token.expiration > draft.now {
                let left = draft.until(token.expiration);
                draft.plan.look_again(left);
            }
            draft.condition(
                answer(
                    Status::True,
                    Reason::DataReady,
                    "token and user data are in place",
                )
                .lazy(),
            );
        }
        _ if open.guest_started() => {
            let message = "the bootstrap token is gone or expired before the kubelet joined; delete the Machine to have it made anew";
            draft.condition(answer(Status::False, Reason::BootstrapTokenExpired, message));
            if draft.observed.token.is_some() {
                draft.plan.push(Step::DeleteToken);
            }
        }
        _ => {
            let why = "its bootstrap token is gone before its guest was started";
            draft.condition(answer(Status::False, Reason::BootstrapTokenExpired, why));
            // Another than the VM's is of no use to anybody.
            if draft.observed.token.is_some() {
                draft.plan.push(Step::DeleteToken);
            }
            draft.replace_vm(vm_uid, why);
        }
    }
}
