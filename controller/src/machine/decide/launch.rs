//! While there is no VM: whether one may be made, where, and with what.

use std::sync::Arc;
use std::time::Duration;

use machinist_shared::names::{annotation, condition, finalizer, label};

use super::super::conditions::{Condition, Reason, Status};
use super::super::observed::{Bootstrap, Disk, Facts, Open, Usable};
use super::super::ownership::{
    DiskVerdict, NodeClaim, NodeVerdict, disk_verdict, node_verdict, provider_id_of,
};
use super::super::plan::{Step, UserDataSource};
use super::super::record::{BootstrapSecret, FailureDomain, Record};
use super::super::starts::Start;
use super::delete::{self, Volumes};
use super::draft::Draft;
use crate::cache::Node;

/// What a VM is made from is not watched: StorageClasses, StorageProfiles and instancetypes are asked for again so often.
const FACTS_AGAIN: Duration = Duration::from_secs(10);

/// Name of the Secret with the user data: bound to one Machine and one VM of it, by the ID of its token or of its
/// [`BootstrapSecret`], so that an existing Secret of this name can only be our own.
pub fn user_data_secret_name(machine_uid: &str, id: &str) -> String {
    format!("userdata-{machine_uid}-{id}")
}

pub(super) fn decide(draft: &mut Draft<'_>, usable: &Usable, open: &Open) {
    let machine = &draft.observed.machine;
    if let Some(uid) = draft.record.as_ref().and_then(|record| record.vm_uid.clone()) {
        vanished(draft, open, &uid);
        return;
    }
    if draft.record.is_none() && machine.has_finalizer(finalizer::VM) && has_node(draft) {
        let message = format!(
            "the Machine has a Node, but neither a VM in namespace {} of {} nor a record of where its VM is; no second VM is made. \
             Check that POD_NAMESPACE (chart value infra.namespace) and the kubeconfig are those that made it",
            open.infrastructure.namespace, open.infrastructure.server
        );
        draft.infrastructure(Status::False, Reason::PlacementUnknown, message);
        return;
    }
    if let Some(why) = foreign_node(draft) {
        let name = machine.name();
        let message = format!(
            "a Node {name} exists that is not this Machine's: {why}. No VM is made and the Node is left alone; give the Machine another name"
        );
        draft.infrastructure(Status::False, Reason::NodeNameTaken, message);
        return;
    }
    if let Some(unwatched) = open.unwatched.as_ref().filter(|u| !u.unseen_disks.is_empty()) {
        let message = format!(
            "the credential may neither watch nor get {} in namespace {}, so nobody can tell whether a disk of this Machine's name is \
             somebody's, which KubeVirt would take and delete with the VM. No VM is made until it may get them",
            unwatched.unseen_disks.join(" and "),
            open.infrastructure.namespace
        );
        draft.infrastructure(Status::False, Reason::WatchForbidden, message);
        return;
    }
    if !disks_are_free(draft, usable, open) {
        return;
    }
    let failure_domain = match &open.facts {
        Facts::Known(domain) => domain,
        Facts::NotNeeded => {
            // The snapshot was taken while the VM was still there.
            draft.plan.look_again(Duration::from_millis(10));
            draft.keep_conditions();
            return;
        }
        Facts::Missing(what) => {
            draft.infrastructure(Status::False, Reason::FactsUnavailable, what.clone());
            draft.error("CreateError", what.clone());
            draft.plan.look_again(FACTS_AGAIN);
            return;
        }
        // The infra cluster's trouble is not the Machine's error.
        Facts::Unavailable(why) => {
            draft.infrastructure(Status::False, Reason::FactsUnavailable, why.clone());
            draft.plan.look_again(FACTS_AGAIN);
            return;
        }
    };
    if former_node_goes(draft) {
        return;
    }
    let Some(source) = user_data_source(draft) else {
        return;
    };
    if waits_for_recreation(draft) {
        return;
    }
    match draft.observed.start {
        Start::Free => create(draft, usable, open, failure_domain, source),
        Start::Full { starting, own, limit } => waits_to_start(draft, starting, own, limit),
    }
}

/// Whoever waits is named when its turn comes; should that be lost, it looks again.
const START_AGAIN: Duration = Duration::from_mins(1);

/// Too many others start. What was said of that stays, whatever their number is by now.
fn waits_to_start(draft: &mut Draft<'_>, starting: usize, own: usize, limit: usize) {
    draft.plan.look_again(START_AGAIN);
    let machine = &draft.observed.machine;
    if machine.says(condition::INFRASTRUCTURE_READY, Reason::WaitingToStart) {
        draft.keep_conditions();
        return;
    }
    let whose = match machine.machine_set() {
        Some(set) => format!("of MachineSet {set}"),
        None => format!("of Machines in {} without a MachineSet", machine.namespace()),
    };
    let message = format!(
        "waiting: {starting} of {limit} Machines that may start at once on this infra cluster have a VM and have never been Ready, \
         {own} of them {whose}; a VM is made when one of these is Ready or over its timeout (--max-starting-machines)"
    );
    let infrastructure = Condition::new(
        condition::INFRASTRUCTURE_READY,
        Status::False,
        Reason::WaitingToStart,
        message,
    );
    draft.condition(infrastructure.lazy());
    let node = Condition::new(
        condition::NODE_READY,
        Status::False,
        Reason::WaitingForVM,
        "there is no VM yet",
    );
    draft.condition(node.lazy());
}

/// Whether so many VMs have ended before their kubelets joined that the next one waits.
fn waits_for_recreation(draft: &mut Draft<'_>) -> bool {
    let recreation = draft.observed.recreation.as_ref();
    let Some(recreation) = recreation.filter(|recreation| recreation.until > draft.now) else {
        return false;
    };
    let former = draft.record.as_ref().and_then(|record| record.former.as_ref());
    let why = former.map_or_else(String::new, |former| format!("; the last one: {}", former.why));
    let message = format!(
        "{} VMs in a row were created for this Machine and ended before a kubelet joined, so the next one is created after a \
         pause, which doubles up to 5 min{why}",
        recreation.count
    );
    let wait = draft.until(recreation.until);
    draft.infrastructure(Status::False, Reason::RecreationBackOff, message);
    let node = Condition::new(
        condition::NODE_READY,
        Status::False,
        Reason::WaitingForVM,
        "there is no VM yet",
    );
    draft.condition(node.lazy());
    if !draft
        .observed
        .machine
        .says(condition::INFRASTRUCTURE_READY, Reason::RecreationBackOff)
    {
        // The same text each time: such Events are one, which is counted up.
        draft.tell_after_patch(
            true,
            "RecreationBackOff",
            "VMs end before a kubelet joins; the next one is created after a pause",
        );
    }
    draft.plan.look_again(wait);
    true
}

/// Whether the former VM's Node has to go first: the new VM's kubelet would take it over, and nobody could tell whether that
/// has joined yet.
fn former_node_goes(draft: &mut Draft<'_>) -> bool {
    let is_anew = draft
        .record
        .as_ref()
        .is_some_and(|record| record.former.is_some());
    let Some(node) = own_node(draft).filter(|_| is_anew) else {
        return false;
    };
    draft.infrastructure(
        Status::False,
        Reason::Creating,
        "the former VM's Node goes before a VM is made anew",
    );
    let uid = node.uid().to_owned();
    draft.plan.push(Step::DeleteNode { uid });
    true
}

/// Who gives the user data, if it is there to be given; else says what is being waited for.
fn user_data_source(draft: &mut Draft<'_>) -> Option<UserDataSource> {
    match &draft.observed.bootstrap {
        Bootstrap::Builtin => Some(UserDataSource::Token),
        Bootstrap::Osm(revision) => {
            let begun = draft
                .record
                .as_ref()
                .and_then(|record| record.bootstrap_secret.clone());
            let id = match begun.filter(|begun| begun.revision == *revision) {
                // A VM of it may have been made already, and is only not seen yet.
                Some(begun) => begun.id,
                None => format!("osm-{:x}", draft.now.as_millisecond()),
            };
            Some(UserDataSource::BootstrapSecret(id))
        }
        _ => {
            bootstrap_waits(draft);
            None
        }
    }
}

/// Says why there is no user data yet, and therefore no guest.
pub(super) fn bootstrap_waits(draft: &mut Draft<'_>) {
    let (reason, why) = match &draft.observed.bootstrap {
        Bootstrap::Builtin | Bootstrap::Osm(_) => return,
        Bootstrap::Waiting(why) => (Reason::WaitingForBootstrapSecret, why.clone()),
        Bootstrap::OtherRevision(why) => (Reason::BootstrapSecretRevision, why.clone()),
        Bootstrap::Invalid(why) => (Reason::BootstrapFailed, why.clone()),
    };
    let bootstrap = Condition::new(condition::BOOTSTRAP_READY, Status::False, reason, why.clone());
    draft.condition(bootstrap);
    let message = format!("no guest is started without user data: {why}");
    draft.infrastructure(Status::False, reason, message);
    let node = Condition::new(
        condition::NODE_READY,
        Status::False,
        Reason::WaitingForVM,
        "there is no VM yet",
    );
    draft.condition(node.lazy());
}

/// Record where, then token, then VM. The user data follows once the VM's UID is known, because the VM owns it.
fn create(
    draft: &mut Draft<'_>,
    usable: &Usable,
    open: &Open,
    domain: &FailureDomain,
    source: UserDataSource,
) {
    let name = draft.observed.machine.name().to_owned();
    let former = draft.record.as_ref().and_then(|record| record.former.clone());
    let joined = draft.has_joined_once();
    let has_been_ready = draft.record.as_ref().is_some_and(|record| record.has_been_ready);
    let message = match &former {
        Some(former) => format!("the VM {name} is being made anew: {}", former.why),
        None => format!(
            "the VM {name} is being made in namespace {}",
            open.infrastructure.namespace
        ),
    };
    draft.infrastructure(Status::False, Reason::Creating, message);
    let node =
        |reason| Condition::new(condition::NODE_READY, Status::False, reason, "there is no VM yet").lazy();
    draft.condition(node(Reason::WaitingForVM));
    let bootstrap = Condition::new(
        condition::BOOTSTRAP_READY,
        Status::False,
        Reason::WaitingForVM,
        "follows the VM",
    );
    draft.condition(bootstrap.lazy());
    draft.record = Some(Record {
        infrastructure: open.infrastructure.clone(),
        credential: usable.credential.clone(),
        failure_domain: (*domain != FailureDomain::default()).then(|| domain.clone()),
        bootstrap_secret: match (&source, &draft.observed.bootstrap) {
            (UserDataSource::BootstrapSecret(id), Bootstrap::Osm(revision)) => Some(BootstrapSecret {
                revision: revision.clone(),
                id: id.clone(),
            }),
            _ => None,
        },
        former,
        joined,
        has_been_ready,
        ..Record::default()
    });
    draft.finalizers(&[finalizer::VM, finalizer::NODE]);
    draft.patch_now();
    match &draft.observed.token {
        _ if source != UserDataSource::Token => {}
        Some(token) if token.expiration > draft.now => {}
        // Left from before the controller was away.
        Some(_) => draft.plan.steps.extend([Step::DeleteToken, Step::CreateToken]),
        None => draft.plan.push(Step::CreateToken),
    }
    draft.plan.push(Step::RenderUserData(source));
    draft.plan.push(Step::CreateVm);
}

/// The recorded VM is gone, and it was not us.
fn vanished(draft: &mut Draft<'_>, open: &Open, uid: &str) {
    let machine = &draft.observed.machine;
    let name = machine.name();
    let why = format!(
        "the VM {name} ({uid}) is gone from namespace {} without our doing",
        open.infrastructure.namespace
    );
    if machine.machine_set().is_some() {
        draft.infrastructure(
            Status::False,
            Reason::VMVanished,
            format!("{why}; the MachineSet replaces the Machine"),
        );
        draft.tell_after_patch(true, "VMVanished", why);
        draft.patch_now();
        draft.plan.push(Step::DeleteMachine);
        return;
    }
    let told = draft.said_since(condition::INFRASTRUCTURE_READY, Reason::VMVanished);
    if told.is_none() {
        draft.tell_after_patch(true, "VMVanished", why.clone());
    }
    if let Some(node) = own_node(draft) {
        // Volumes are not let go while it writes, and no VM of its name starts before it has ended.
        if open.guest.is_some() && !draft.observed.guests.volumes.is_empty() {
            let message = format!("{why}; waiting for its guest to end");
            draft.infrastructure(Status::False, Reason::VMVanished, message);
            return;
        }
        match delete::volumes(draft, &node, told.unwrap_or(draft.now)) {
            Volumes::None => {}
            Volumes::Left(message) => draft.tell_after_patch(true, "VolumesLeft", message),
            Volumes::Leaving(what, mark) => {
                draft.infrastructure(Status::False, Reason::VMVanished, format!("{why}; {what}"));
                // Should the Node not let itself be marked, the time runs all the same.
                draft.patch_now();
                draft.plan.steps.extend(mark);
                return;
            }
        }
        let uid = node.uid().to_owned();
        draft.plan.push(Step::DeleteNode { uid });
    }
    if draft.observed.token.is_some() {
        draft.plan.push(Step::DeleteToken);
    }
    draft.infrastructure(
        Status::False,
        Reason::VMVanished,
        format!("{why}; it is being made anew"),
    );
    draft.replace_vm(uid, &why);
}

/// Whether the Node of the Machine's name says that it is this Machine's.
pub(super) fn has_node(draft: &Draft<'_>) -> bool {
    let machine = &draft.observed.machine;
    let own = format!("{}/{}", machine.namespace(), machine.name());
    draft.observed.node.as_ref().is_some_and(|node| {
        node.annotation(annotation::MACHINE) == Some(&own)
            || node.label(label::OWNED_BY) == Some(machine.uid())
            || node.spec.provider_id.as_deref() == Some(&provider_id_of(machine))
    })
}

/// Why the Node of the Machine's name is a stranger, if it is.
fn foreign_node(draft: &Draft<'_>) -> Option<String> {
    let node = draft.observed.node.as_ref()?;
    let claim = NodeClaim::unobserved(&draft.observed.machine, node);
    match node_verdict(claim) {
        NodeVerdict::Ours => None,
        NodeVerdict::Stranger(why) => Some(why),
    }
}

/// The Machine's own Node, if there is one.
fn own_node(draft: &Draft<'_>) -> Option<Arc<Node>> {
    let node = draft.observed.node.as_ref()?;
    foreign_node(draft).is_none().then(|| Arc::clone(node))
}

/// Whether nothing bears the names of the Machine's disks: KubeVirt adopts an existing DataVolume of the template's
/// name and deletes it with the VM, and someone's data with it.
fn disks_are_free(draft: &mut Draft<'_>, usable: &Usable, open: &Open) -> bool {
    let former = draft
        .record
        .as_ref()
        .and_then(|record| record.former.as_ref())
        .map(|former| former.uid.clone());
    let mut owners: Vec<&str> = former.iter().map(String::as_str).collect();
    let of_former: Vec<&str> = open
        .disks
        .iter()
        .filter(|disk| disk_verdict(&disk.metadata, &owners) != DiskVerdict::Stranger)
        .filter_map(|disk| disk.metadata.uid.as_deref())
        .collect();
    owners.extend(of_former);
    let in_the_way = open.disks.iter().filter(|disk| {
        let name = disk.metadata.name.as_ref();
        name.is_some_and(|name| usable.disks.contains(name))
    });
    let (strangers, former): (Vec<_>, Vec<_>) =
        in_the_way.partition(|disk| disk_verdict(&disk.metadata, &owners) == DiskVerdict::Stranger);
    let name = |disk: &Disk| disk.metadata.name.clone().unwrap_or_default();
    if let Some(disk) = strangers.first() {
        let message = format!(
            "a {} {} exists in namespace {} that is not this Machine's. No VM is made, because KubeVirt would take it and \
             delete it with the VM. Rename the Machine, or remove the {} if nobody needs its data",
            disk.kind,
            name(disk),
            open.infrastructure.namespace,
            disk.kind
        );
        draft.infrastructure(Status::False, Reason::DiskNameTaken, message);
    } else if let Some(disk) = former.first() {
        let message = format!("waiting for the former VM's {} {} to go", disk.kind, name(disk));
        draft.infrastructure(Status::False, Reason::WaitingForDisks, message);
    }
    strangers.is_empty() && former.is_empty()
}
