//! One operation under one interference.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::{
    Api, ResourceExt as _,
    api::DeleteParams,
    runtime::{WatchStreamExt as _, watcher},
};
use testbed::proxy::{Request, WriteFuse};

use super::{
    bed::{Bed, WAIT_TIMEOUT, machines},
    operation::Operation,
    oracle::{self, Snapshot},
};

/// An operation under an interference.
#[derive(Debug, Clone)]
pub(crate) struct Trial {
    pub(crate) operation: Operation,
    pub(crate) fault: Fault,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cluster {
    User,
    Infra,
}

impl Cluster {
    pub(crate) const ALL: [Self; 2] = [Self::User, Self::Infra];
}

/// The n-th write of that verb and resource to a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    cluster: Cluster,
    verb: &'static str,
    resource: String,
    nth: usize,
}

/// The watches of one resource of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Watch {
    pub(crate) cluster: Cluster,
    pub(crate) resource: String,
}

/// The fault of a watch during an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watching {
    /// It delivers nothing for a while, and then everything.
    Frozen,
    /// It delivers nothing for a while, and breaks: only the state at that time is seen.
    Unobserved,
    /// Every event comes late.
    Late,
    /// It breaks after the first write.
    Cut,
}

impl Watching {
    pub(crate) const ALL: [Self; 4] = [Self::Frozen, Self::Unobserved, Self::Late, Self::Cut];
}

/// Which state of etcd comes back after the operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestorePoint {
    /// That of before the operation.
    Before,
    /// That of after its first VM was created or deleted.
    Middle,
}

impl RestorePoint {
    pub(crate) const ALL: [Self; 2] = [Self::Before, Self::Middle];
}

/// An interference.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// The controller is killed once this write is stored, before it is answered.
    Kill(Write),
    Watch(Watch, Watching),
    Restore(Cluster, RestorePoint),
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, ", self.operation)?;
        match &self.fault {
            Fault::Kill(Write {
                cluster,
                verb,
                resource,
                nth,
            }) => {
                write!(f, "killed after {verb} {resource} {nth} on {cluster:?}")
            }
            Fault::Watch(Watch { cluster, resource }, how) => {
                write!(f, "watch of {resource} on {cluster:?} {how:?}")
            }
            Fault::Restore(cluster, state) => write!(f, "etcd of {cluster:?} as of {state:?}"),
        }
    }
}

/// Whether the interference took place: a write may not have been made this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Happened {
    Yes,
    No,
}

impl fmt::Display for Happened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Yes => "",
            Self::No => " (did not happen)",
        })
    }
}

/// How long a watch is frozen or late.
const INTERFERENCE: Duration = Duration::from_secs(10);
/// How late an event is.
const LATE: Duration = Duration::from_secs(1);

/// Runs the operation without interference; the writes that it takes, and the watches that there are.
pub(crate) async fn learn(bed: &mut Bed, operation: Operation) -> Result<(Vec<Write>, Vec<Watch>)> {
    let before = operation.prepare(bed).await?;
    let created = bed.created();
    bed.note_watches();
    e2e::budget::forget(&bed.case.bed);
    operation.begin(bed, &before).await?;
    over(bed, operation, &before).await?;
    bed.case.settled().await;
    let after = oracle::clean(bed, Instant::now() + WAIT_TIMEOUT).await?;
    oracle::check(bed, operation.expected(), &created, &before, &after)?;
    bed.note_watches();
    Ok((writes(bed), bed.watches.clone()))
}

/// Every write of the requests so far. An Event changes nothing that a successor would see.
fn writes(bed: &Bed) -> Vec<Write> {
    let (mut counts, mut writes) = (BTreeMap::new(), Vec::new());
    for cluster in Cluster::ALL {
        let (proxy, client) = bed.proxy(cluster);
        for request in proxy
            .requests_of(client)
            .iter()
            .filter(|request| counts_as_write(request))
        {
            let (verb, resource) = (request.target.verb, request.target.resource_name());
            let nth = counts.entry((cluster, verb, resource.clone())).or_insert(0);
            *nth += 1;
            writes.push(Write {
                cluster,
                verb,
                resource,
                nth: *nth,
            });
        }
    }
    writes
}

fn counts_as_write(request: &Request) -> bool {
    request.is_successful_write() && request.target.resource != "events"
}

/// Waits until the operation has the requested effect.
async fn over(bed: &Bed, operation: Operation, before: &Snapshot) -> Result<()> {
    let is_over = |machines: &[&machinist_shared::api::Machine]| operation.is_over(before, machines);
    e2e::wait::for_all(&bed.case.machines(), "what they are to be", WAIT_TIMEOUT, is_over).await?;
    bed.obeyed(operation.after()).await
}

/// Tries it; an error if anything did not hold.
pub(crate) async fn run(bed: &mut Bed, trial: &Trial) -> Result<Happened> {
    let operation = trial.operation;
    bed.case.bed.controller().start().await?;
    let before = operation.prepare(bed).await?;
    let created = bed.created();
    e2e::budget::forget(&bed.case.bed);
    let happened = match &trial.fault {
        Fault::Kill(write) => kill(bed, operation, &before, write).await?,
        Fault::Watch(watch, how) => watching(bed, operation, &before, watch, *how).await?,
        Fault::Restore(cluster, state) => return restore(bed, operation, &before, *cluster, *state).await,
    };
    let deadline = Instant::now() + WAIT_TIMEOUT;
    over(bed, operation, &before).await?;
    let after = oracle::clean(bed, deadline).await?;
    oracle::check(bed, operation.expected(), &created, &before, &after)?;
    Ok(happened)
}

async fn kill(bed: &Bed, operation: Operation, before: &Snapshot, write: &Write) -> Result<Happened> {
    let (proxy, client) = bed.proxy(write.cluster);
    let (verb, resource) = (write.verb, write.resource.clone());
    let counts =
        move |target: &testbed::proxy::Target| target.verb == verb && target.resource_name() == resource;
    let fuse = WriteFuse::after_one_of(counts, write.nth, bed.case.bed.controller().killer()?);
    proxy.arm(client, &fuse);
    operation.begin(bed, before).await?;
    let done = async {
        over(bed, operation, before).await?;
        bed.case.settled().await;
        anyhow::Ok(())
    };
    tokio::select! {
        () = fuse.fired() => {}
        done = done => done?,
    }
    bed.heal();
    if !fuse.has_fired() {
        return Ok(Happened::No);
    }
    bed.restart_controller().await?;
    Ok(Happened::Yes)
}

async fn watching(
    bed: &Bed,
    operation: Operation,
    before: &Snapshot,
    watch: &Watch,
    how: Watching,
) -> Result<Happened> {
    let ((proxy, client), resource) = (bed.proxy(watch.cluster), watch.resource.as_str());
    match how {
        Watching::Frozen | Watching::Unobserved => proxy.freeze_watches_of(client, resource),
        Watching::Late => proxy.delay_watches_of(client, resource, LATE),
        Watching::Cut => {}
    }
    operation.begin(bed, before).await?;
    if how == Watching::Cut {
        let is_first = |request: &Request| request.is_successful_write();
        let first = async {
            let (user, infra) = (bed.proxy(Cluster::User).0, bed.proxy(Cluster::Infra).0);
            tokio::select! {
                _ = user.seen(is_first) => {}
                _ = infra.seen(is_first) => {}
            }
        };
        tokio::time::timeout(WAIT_TIMEOUT, first)
            .await
            .context("there was no write")?;
        proxy.cut_watches_of(client, resource);
    } else {
        // Most go on without that watch.
        let _ = tokio::time::timeout(INTERFERENCE, over(bed, operation, before)).await;
    }
    if how == Watching::Unobserved {
        proxy.cut_watches_of(client, resource);
    }
    bed.heal();
    Ok(Happened::Yes)
}

/// The other cluster has gone on: what it has of Machines that are not known any more stays, for a user to delete.
async fn restore(
    bed: &mut Bed,
    operation: Operation,
    before: &Snapshot,
    cluster: Cluster,
    state: RestorePoint,
) -> Result<Happened> {
    let folder = bed.case.bed.dir().join("snapshot");
    let _ = std::fs::remove_dir_all(&folder);
    let snapshot = async |bed: &Bed| match cluster {
        Cluster::User => bed.case.bed.user().snapshot_etcd(&folder).await,
        Cluster::Infra => bed.case.bed.infra().snapshot_etcd(&folder).await,
    };
    if state == RestorePoint::Before {
        snapshot(bed).await?;
    }
    operation.begin(bed, before).await?;
    if state == RestorePoint::Middle {
        let of_a_vm = |request: &Request| {
            request.is_successful_write()
                && request.target.resource == "virtualmachines"
                && ["create", "delete"].contains(&request.target.verb)
        };
        let first = bed.proxy(Cluster::Infra).0.seen(of_a_vm);
        tokio::time::timeout(WAIT_TIMEOUT, first)
            .await
            .context("no VM was created or deleted")?;
        snapshot(bed).await?;
    }
    over(bed, operation, before).await?;
    bed.case.settled().await;
    match cluster {
        Cluster::User => bed.case.bed.user().restore_etcd(&folder).await?,
        Cluster::Infra => bed.case.bed.restore_infra(&folder).await?,
    }
    tokio::select! {
        restored = restored(bed, before) => restored?,
        ended = restart_what_ends(bed) => ended?,
    }
    Ok(Happened::Yes)
}

/// Starts the controller again whenever it ends, as a kubelet does.
async fn restart_what_ends(bed: &Bed) -> Result<()> {
    loop {
        bed.case.bed.controller().start().await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The invariants after a restore of a cluster.
async fn restored(bed: &Bed, before: &Snapshot) -> Result<()> {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    let asked = bed.case.deployments().get_opt(super::bed::POOL).await?;
    let size = asked.and_then(|pool| pool.spec.replicas);
    tokio::select! {
        obeyed = bed.obeyed(size) => obeyed?,
        deleted = delete_without_node(bed) => deleted?,
    }
    let after = whole(bed, deadline).await?;
    oracle::bystander(before, &after)?;
    for machine in machines(&bed.case).await? {
        let vms = bed.case.vm_history.uids(&machine.name_any());
        anyhow::ensure!(vms.len() <= 2, "{} has had the VMs {vms:?}", machine.name_any());
    }
    delete_unknown(bed, &after).await
}

/// Deletes each Machine whose Node is not known any more, as the documentation says: a kubelet registers only when it starts.
async fn delete_without_node(bed: &Bed) -> Result<()> {
    let machines = bed.case.machines();
    let mut states = watcher(machines.clone(), watcher::Config::default())
        .default_backoff()
        .applied_objects()
        .boxed();
    while let Some(state) = states.next().await {
        let Ok(machine) = state else { continue };
        if e2e::case::message(&machine, "NodeDeleted").is_some()
            && machine.metadata.deletion_timestamp.is_none()
        {
            machines
                .delete(&machine.name_any(), &DeleteParams::default())
                .await?;
        }
    }
    Ok(())
}

async fn whole(bed: &Bed, deadline: Instant) -> Result<Snapshot> {
    loop {
        match bed.seen().await {
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            seen => return seen,
        }
    }
}

/// Deletes VMs and Nodes of Machines that are not known any more, as a user does, and the requests of their kubelets, which
/// Kubernetes deletes after a day.
async fn delete_unknown(bed: &Bed, after: &Snapshot) -> Result<()> {
    let background = DeleteParams::background();
    let (vms, nodes) = (bed.case.vms(), bed.case.nodes());
    let requests: Api<CertificateSigningRequest> = Api::all(bed.case.bed.user().client());
    for left in oracle::left_behind(&bed.case, after).await? {
        let (kind, name) = left.split_once('/').unwrap_or_default();
        match kind {
            "VirtualMachine" => drop(vms.delete(name, &background).await?),
            "Node" => drop(nodes.delete(name, &background).await?),
            "CertificateSigningRequest" => drop(requests.delete(name, &background).await?),
            _ => {}
        }
    }
    oracle::clean(bed, Instant::now() + WAIT_TIMEOUT).await.map(drop)
}
