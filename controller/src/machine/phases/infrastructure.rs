//! Whether the Machine's infra cluster answers, and whether it is the one on record.

use machinist_shared::api::names::{annotation, condition};

use super::super::conditions::{Condition, Status};
use super::super::reason::Reason;
use super::super::record::{Infrastructure, Record};
use super::super::snapshot::types::{Infra, NotWatched, Open};
use super::{Kept, PhaseResult, View, token_renewal};

pub(super) fn run(view: &View<'_>) -> PhaseResult {
    let result = match view.open() {
        Some(open) => PhaseResult::default()
            .condition(reachable(view, open))
            .and(placed(view, open)),
        None => unreachable(view),
    };
    match view.open() {
        Some(open) if is_placed(view, open) => result,
        _ => result.stopped().and(token_renewal::keep(view)),
    }
}

/// The infra cluster answers; what it does not allow.
fn reachable(view: &View<'_>, open: &Open) -> Condition {
    let (server, namespace) = (&open.infrastructure.server, &open.infrastructure.namespace);
    let every = view.observed.settings.poll_interval;
    let (reason, message) = match open.unwatched.as_ref().map(|unwatched| &unwatched.why) {
        None => (Reason::Reachable, format!("{server} answers")),
        Some(NotWatched::Forbidden(verbs)) => (
            Reason::WatchForbidden,
            format!(
                "{server} answers, but in namespace {namespace} the credential may not {verbs}; the Machine is polled \
                 at every {every:?} instead. Grant these verbs (examples/infra-rbac.yaml)"
            ),
        ),
        Some(NotWatched::TooLarge) => (
            Reason::CacheFull,
            format!(
                "{server} answers, but the objects in namespace {namespace} take more than their share of the memory \
                 for all infra clusters (--infra-cache-mib); the Machine is polled every {every:?} instead"
            ),
        ),
    };
    Condition::new(condition::INFRASTRUCTURE_REACHABLE, Status::True, reason, message)
}

/// Why the infra cluster does not answer; what was known stays.
fn unreachable(view: &View<'_>) -> PhaseResult {
    let kind = condition::INFRASTRUCTURE_REACHABLE;
    let result = PhaseResult::default().keeping(Kept::Status);
    match &view.observed.infra {
        Infra::Open(_) => result,
        // What is being found out takes nothing back: the answer follows within seconds.
        Infra::Connecting => result.condition(view.stored(kind).unwrap_or_else(|| {
            let message = "connecting to the infra cluster";
            Condition::new(kind, Status::Unknown, Reason::Connecting, message).lazy()
        })),
        Infra::Unreachable(how) | Infra::Refused(how) => result.condition(Condition::new(
            kind,
            Status::False,
            Reason::Unreachable,
            how.as_str(),
        )),
        Infra::NoCredential(what) => {
            let reason = Reason::ReferenceNotFound;
            let result = result.condition(Condition::new(kind, Status::False, reason, what.as_str()));
            if view.vm_uid().is_some() {
                return result;
            }
            result
                .infrastructure(reason, what.as_str())
                .error("CreateError", what.as_str())
        }
    }
}

/// Whether the infra cluster is the one on record, or an admin says that it is from now on.
fn is_placed(view: &View<'_>, open: &Open) -> bool {
    let machine = view.machine();
    machine.record.as_ref().is_none_or(|record| {
        record.infrastructure.is_same(&open.infrastructure) || machine.accepts(&open.infrastructure)
    })
}

/// Records which infra cluster it is, if it may be that one.
fn placed(view: &View<'_>, open: &Open) -> PhaseResult {
    let infrastructure = &open.infrastructure;
    let Some(record) = &view.machine().record else {
        return PhaseResult::default();
    };
    if record.infrastructure.is_same(infrastructure) {
        return PhaseResult::default().record(learnt(record, infrastructure));
    }
    if view.machine().accepts(infrastructure) {
        return PhaseResult::default().record(moved(record, infrastructure));
    }
    let message = format!(
        "the VM was put into namespace {} of {}, but the kubeconfig now leads to namespace {} of {}, another cluster; nothing is \
         created or deleted there. Fix the kubeconfig, or annotate the Machine with {}",
        record.infrastructure.namespace,
        record.infrastructure.server,
        infrastructure.namespace,
        infrastructure.server,
        acceptance(infrastructure),
    );
    PhaseResult::default()
        .infrastructure(Reason::InfrastructureChanged, message)
        .keeping(Kept::Conditions)
}

/// The record with facets of the infra cluster that were not known before.
fn learnt(record: &Record, seen: &Infrastructure) -> Record {
    let namespace_uid = seen.namespace_uid.as_ref();
    let namespace_uid = namespace_uid.or(record.infrastructure.namespace_uid.as_ref());
    Record {
        infrastructure: Infrastructure {
            namespace_uid: namespace_uid.cloned(),
            ..seen.clone()
        },
        ..record.clone()
    }
}

/// The record of a Machine that lives on another infra cluster from now on.
fn moved(record: &Record, infrastructure: &Infrastructure) -> Record {
    Record {
        infrastructure: infrastructure.clone(),
        credential: record.credential.clone(),
        failure_domain: record.failure_domain.clone(),
        joined: record.has_joined(),
        has_been_ready: record.has_been_ready,
        former_machine_uid: record.former_machine_uid.clone(),
        ..Record::default()
    }
}

/// The annotation that accepts an infra cluster.
pub(super) fn acceptance(infrastructure: &Infrastructure) -> String {
    let name = infrastructure
        .namespace_uid
        .as_deref()
        .unwrap_or(&infrastructure.server);
    format!("{}={name}", annotation::ACCEPT_INFRASTRUCTURE)
}
