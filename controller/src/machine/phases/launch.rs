//! While there is no VM: whether one may be made, where, and with what.

use std::time::Duration;

use machinist_shared::api::count::counted;
use machinist_shared::api::names::{annotation, condition, finalizer, label};

use super::super::conditions::{Condition, Status, Words};
use super::super::ownership::{NodeVerdict, disks_of, provider_id_of};
use super::super::plan::{Step, UserDataSource};
use super::super::reason::Reason;
use super::super::record::{BootstrapSecret, FailureDomain, Record};
use super::super::snapshot::types::{Bootstrap, Disk, Facts, Open, Usable};
use super::super::start_limiter::{START_INTERVAL, Start};
use super::super::user_data_source;
use super::ownership::FINALIZERS;
use super::{Kept, PhaseResult, View, bootstrap, vm_loss};
use crate::runtime::recreation::Recreated;

/// What a VM is made from is not watched: StorageClasses, StorageProfiles and instancetypes are read again so often.
const FACTS_INTERVAL: Duration = Duration::from_secs(10);

pub(super) fn run(view: &View<'_>) -> PhaseResult {
    let (Some(usable), Some(open)) = (view.usable(), view.open()) else {
        return PhaseResult::default();
    };
    if open.vm.is_some() {
        return PhaseResult::default();
    }
    if let Some(uid) = view.vm_uid() {
        return vm_loss::run(view, open, uid);
    }
    let in_the_way = forbidden(view, open)
        .or_else(|| disk_in_the_way(view, usable, open))
        .map(|(reason, message)| PhaseResult::default().infrastructure(reason, message));
    in_the_way
        .or_else(|| facts_missing(open))
        .or_else(|| former_node(view))
        .or_else(|| bootstrap::missing(view))
        .or_else(|| recreation_backoff(view))
        .or_else(|| start_limit(view))
        .unwrap_or_else(|| create(view, usable, open))
        .stopped()
}

type Forbidden = Option<(Reason, String)>;

/// What forbids to make a VM of that name here.
fn forbidden(view: &View<'_>, open: &Open) -> Forbidden {
    let machine = view.machine();
    let namespace = &open.infrastructure.namespace;
    if view.record().is_none() && machine.has_finalizer(finalizer::VM) && has_node(view) {
        let message = format!(
            "the Machine has a Node, but neither a VM in namespace {namespace} of {} nor a record of where its VM is; no second VM is made. \
             Check that POD_NAMESPACE (chart value infra.namespace) and the kubeconfig are those that made it",
            open.infrastructure.server
        );
        return Some((Reason::PlacementUnknown, message));
    }
    if let Some(NodeVerdict::Foreign(why)) = view.observed.node_verdict() {
        let name = machine.name();
        let message = format!(
            "a Node {name} exists that is not this Machine's: {why}. No VM is made and the Node is left alone; give the Machine another name"
        );
        return Some((Reason::NodeNameTaken, message));
    }
    let unwatched = open.unwatched.as_ref()?;
    if unwatched.unseen_disks.is_empty() {
        return None;
    }
    let message = format!(
        "the credential may neither watch nor get {} in namespace {namespace}, so whether a disk of this Machine's name exists cannot be determined. \
         KubeVirt would adopt it and delete it with the VM. No VM is created until the credential may get them",
        unwatched.unseen_disks.join(" and "),
    );
    Some((Reason::WatchForbidden, message))
}

/// What bears the names of the Machine's disks: KubeVirt adopts an existing DataVolume of the template's name and deletes it
/// with the VM, and someone's data with it.
fn disk_in_the_way(view: &View<'_>, usable: &Usable, open: &Open) -> Forbidden {
    let own = disks_of(&open.disks, &view.vms());
    let in_the_way = open.disks.iter().filter(|disk| {
        let name = disk.metadata.name.as_ref();
        name.is_some_and(|name| usable.disks.contains(name))
    });
    let (former, foreign): (Vec<_>, Vec<_>) =
        in_the_way.partition(|disk| own.iter().any(|own| std::ptr::eq(*own, *disk)));
    let name = |disk: &Disk| disk.metadata.name.clone().unwrap_or_default();
    if let Some(disk) = foreign.first() {
        let message = format!(
            "a {} {} exists in namespace {} that is not this Machine's. No VM is made, because KubeVirt would take it and \
             delete it with the VM. Rename the Machine, or remove the {} if its data is not needed",
            disk.kind,
            name(disk),
            open.infrastructure.namespace,
            disk.kind
        );
        return Some((Reason::DiskNameTaken, message));
    }
    let disk = former.first()?;
    let message = format!("waiting for the former VM's {} {} to go", disk.kind, name(disk));
    Some((Reason::WaitingForDisks, message))
}

/// What rendering needs to know of the infra cluster is not known.
fn facts_missing(open: &Open) -> Option<PhaseResult> {
    let unavailable = |why: &str| {
        PhaseResult::default()
            .infrastructure(Reason::FactsUnavailable, why)
            .requeue(FACTS_INTERVAL)
    };
    match &open.facts {
        Facts::Known(_) => None,
        // The snapshot was taken while the VM was still there.
        Facts::NotNeeded => Some(
            PhaseResult::default()
                .keeping(Kept::Conditions)
                .requeue(Duration::from_millis(10)),
        ),
        Facts::Missing(what) => Some(unavailable(what).error("CreateError", what.as_str())),
        // The infra cluster's trouble is not the Machine's error.
        Facts::Unavailable(why) => Some(unavailable(why)),
    }
}

/// The former VM's Node goes first: the new VM's kubelet would take it over, and whether that has joined could not be reported.
fn former_node(view: &View<'_>) -> Option<PhaseResult> {
    view.record()?.former.as_ref()?;
    let uid = view.own_node()?.uid().to_owned();
    let message = "the former VM's Node goes before a VM is recreated";
    let condition = Condition::infrastructure(Status::False, Reason::Creating, message);
    Some(
        PhaseResult::default()
            .condition(condition)
            .step(Step::DeleteNode { uid }),
    )
}

/// So many VMs have ended before their kubelets joined that the next one waits.
fn recreation_backoff(view: &View<'_>) -> Option<PhaseResult> {
    let recreation = view.observed.recreation.as_ref();
    let recreation = recreation.filter(|recreation| recreation.until > view.now)?;
    let former = view.record().and_then(|record| record.former.as_ref());
    let why = former.map_or_else(String::new, |former| format!("; the last one: {}", former.why));
    let message = format!(
        "{} in a row ended before a kubelet joined, so the next one is created after a pause, which doubles up to 5 min{why}",
        counted(recreation.count, "VM")
    );
    let (reason, kind) = (Reason::RecreationBackOff, condition::INFRASTRUCTURE_READY);
    Some(
        PhaseResult::default()
            .infrastructure(reason, message)
            .condition(Condition::no_vm_yet())
            // The same text each time: such Events are one, which is counted up.
            .event(
                true,
                "RecreationBackOff",
                "VMs end before a kubelet joins; the next one is created after a pause",
            )
            .once(kind, reason)
            .requeue(view.until(recreation.until)),
    )
}

/// Too many others start. What is shown of that stays, whatever their number is by now.
fn start_limit(view: &View<'_>) -> Option<PhaseResult> {
    let Start::Full { starting, own, limit } = view.observed.start else {
        return None;
    };
    let machine = view.machine();
    let whose = match machine.machine_set() {
        Some(set) => format!("of MachineSet {set}"),
        None => format!("of Machines in {} without a MachineSet", machine.namespace()),
    };
    let message = format!(
        "waiting: {starting} of {limit} Machines that may start at once on this infra cluster have a VM and have never been Ready, \
         {own} of them {whose}; a VM is made when one of these is Ready or over its timeout (--max-starting-machines)"
    );
    let condition = Condition::infrastructure(Status::False, Reason::WaitingToStart, message);
    Some(
        PhaseResult::default()
            .condition(condition.lazy().words(Words::First))
            .condition(Condition::no_vm_yet())
            .requeue(START_INTERVAL),
    )
}

/// Record where, then token, then VM. The user data follows once the VM's UID is known, because the VM owns it.
fn create(view: &View<'_>, usable: &Usable, open: &Open) -> PhaseResult {
    let name = view.machine().name();
    let before = view.record();
    let former = before.and_then(|record| record.former.clone());
    let recreation = former.as_ref().map(|former| {
        let before = before.and_then(|record| record.recreation.as_ref());
        Recreated::after(before, view.observed.recreation.as_ref(), &former.uid, view.now)
    });
    let message = match &former {
        Some(former) => format!("the VM {name} is being recreated: {}", former.why),
        None => format!(
            "the VM {name} is being made in namespace {}",
            open.infrastructure.namespace
        ),
    };
    let source = user_data_source::of_new_vm(view.observed, before, view.now);
    let source = source.unwrap_or(UserDataSource::Token);
    let domain = match &open.facts {
        Facts::Known(domain) if *domain != FailureDomain::default() => Some(domain.clone()),
        _ => None,
    };
    let record = Record {
        infrastructure: open.infrastructure.clone(),
        credential: usable.credential.clone(),
        failure_domain: domain,
        bootstrap_secret: match (&source, &view.observed.bootstrap) {
            (UserDataSource::BootstrapSecret(id), Bootstrap::Osm(revision)) => Some(BootstrapSecret {
                revision: revision.clone(),
                id: id.clone(),
            }),
            _ => None,
        },
        former,
        recreation,
        joined: view.has_joined_once(),
        has_been_ready: before.is_some_and(|record| record.has_been_ready),
        former_machine_uid: before.and_then(|record| record.former_machine_uid.clone()),
        ..Record::default()
    };
    let bootstrap = Condition::new(
        condition::BOOTSTRAP_READY,
        Status::False,
        Reason::WaitingForVM,
        "follows the VM",
    );
    let mut result = PhaseResult {
        adds_finalizers: FINALIZERS,
        ..PhaseResult::default()
    }
    .infrastructure(Reason::Creating, message)
    .condition(Condition::no_vm_yet())
    .condition(bootstrap.lazy())
    .record(record);
    if source == UserDataSource::Token {
        match &view.observed.token {
            Some(token) if token.expiration > view.now => {}
            // Left from before the controller was away.
            Some(_) => result.then.extend([Step::DeleteToken, Step::CreateToken]),
            None => result.then.push(Step::CreateToken),
        }
    }
    result.then(Step::RenderUserData(source)).then(Step::CreateVm)
}

/// Whether the Node of the Machine's name says that it is this Machine's.
pub(super) fn has_node(view: &View<'_>) -> bool {
    let machine = view.machine();
    let own = format!("{}/{}", machine.namespace(), machine.name());
    view.observed.node.as_ref().is_some_and(|node| {
        node.annotation(annotation::MACHINE) == Some(&own)
            || node.label(label::OWNED_BY) == Some(machine.uid())
            || node.spec.provider_id.as_deref() == Some(&provider_id_of(machine))
    })
}
