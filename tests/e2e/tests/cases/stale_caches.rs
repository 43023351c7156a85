//! A controller with a stale cache, or without the answers to its writes: no wrong deletion, no second VM.
//!
//! These are the "stale state" and "unobserved state" of Sieve (OSDI '22), which found most of the bugs of popular
//! controllers there.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result, ensure};
use e2e::{
    Case,
    case::WAIT_TIMEOUT,
    manifest::{self, NAMESPACE},
    wait,
};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
    runtime::{WatchStreamExt as _, watcher},
};
use machinist_shared::api::{Machine, MachineSet};
use serde_json::json;
use testbed::{
    bed::{CONTROLLER, MACHINES, Options},
    proxy::WriteFuse,
};
use tokio::task::JoinHandle;

/// More writes than the creation of a Machine has.
const AT_MOST: usize = 20;

#[tokio::test]
async fn a_controller_that_restarts_with_any_earlier_state_deletes_nothing_wrong() -> Result<()> {
    let case = start().await?;
    let instants = Snapshots::record(&case).await?;
    case.apply(&manifest::machine("worker")).await?;
    let node = case.node_ready("worker").await?;
    case.settled().await;
    let instants = instants.end();
    ensure!(
        instants.len() > 3,
        "a Machine's making has more instants than {instants:?}"
    );

    for instant in some(&instants) {
        into_the_past(&case, instant).await?;
        let machine = case.machines().get("worker").await?;
        assert_eq!(node_uid(&machine), node_uid(&node), "at {instant:?}");
        assert!(machine.metadata.deletion_timestamp.is_none(), "at {instant:?}");
        assert_eq!(case.vm_history.uids("worker").len(), 1, "at {instant:?}");
        assert_eq!(case.vms().list(&ListParams::default()).await?.items.len(), 1);
        let tokens = e2e::leaks::leftovers(&case.bed).await?;
        assert!(
            !tokens.iter().any(|left| left.contains("bootstrap-token")),
            "at {instant:?}: {tokens:?}"
        );
    }
    case.delete_machine("worker").await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_stale_deletion_of_an_earlier_machine_does_not_affect_its_namesake() -> Result<()> {
    let case = start().await?;
    case.apply(&manifest::machine("worker")).await?;
    case.node_ready("worker").await?;
    case.settled().await;
    let instants = Snapshots::record(&case).await?;
    case.delete_machine("worker").await?;
    let instants = instants.end();
    ensure!(
        instants.len() > 1,
        "a Machine's deletion has more instants than {instants:?}"
    );
    case.apply(&manifest::machine("worker")).await?;
    let machine = case.node_ready("worker").await?;
    case.settled().await;
    let vm_history = case.vm_history.uids("worker");

    for instant in some(&instants) {
        into_the_past(&case, instant).await?;
        let now = case.machines().get("worker").await?;
        assert_eq!(now.uid(), machine.uid(), "at {instant:?}");
        assert!(now.metadata.deletion_timestamp.is_none(), "at {instant:?}");
        assert_eq!(node_uid(&now), node_uid(&machine), "at {instant:?}");
        assert_eq!(case.vm_history.uids("worker"), vm_history, "at {instant:?}");
        let vm = case.vms().get("worker").await?;
        assert!(vm.metadata.deletion_timestamp.is_none(), "at {instant:?}");
        let node = case.nodes().get("worker").await?;
        assert_eq!(node.uid(), node_uid(&machine), "at {instant:?}");
    }
    case.delete_machine("worker").await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_stale_size_of_a_set_creates_and_deletes_nothing() -> Result<()> {
    let case = start().await?;
    let sets: Api<MachineSet> = Api::namespaced(case.bed.user().client(), NAMESPACE);
    case.apply(&manifest::machine_set("pool", 1)).await?;
    let instants = Snapshots::record(&case).await?;
    for replicas in [1, 3, 2] {
        scale(&sets, replicas).await?;
        let there = |set: &MachineSet| {
            let status = set.status.as_ref();
            status.is_some_and(|status| {
                status.replicas == Some(replicas) && status.ready_replicas == Some(replicas)
            })
        };
        wait::for_state(&sets, "pool", "scaled", WAIT_TIMEOUT, there).await?;
    }
    case.settled().await;
    let instants = instants.end();
    let machines = uids(&case).await?;
    assert_eq!(machines.len(), 2);

    for instant in some(&instants) {
        into_the_past(&case, instant).await?;
        assert_eq!(uids(&case).await?, machines, "at {instant:?}");
    }
    scale(&sets, 0).await?;
    let empty = |set: &MachineSet| {
        set.status
            .as_ref()
            .is_some_and(|status| status.replicas == Some(0))
    };
    wait::for_state(&sets, "pool", "empty", WAIT_TIMEOUT, empty).await?;
    sets.delete("pool", &kube::api::DeleteParams::default()).await?;
    wait::for_absence(&sets, "pool", WAIT_TIMEOUT).await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_lost_answer_during_frozen_watches_leaves_one_vm_and_no_leak() -> Result<()> {
    let case = start().await?;
    for nth in 1..=AT_MOST {
        let name = format!("lost-{nth}");
        let fuse = WriteFuse::after(nth, || {});
        for (proxy, client) in proxies(&case) {
            proxy.arm(client, &fuse);
        }
        case.apply(&manifest::machine(&name)).await?;
        let fired = tokio::select! {
            () = fuse.fired() => true,
            made = made(&case, &name) => { made?; false }
        };
        // Only the answer could have reported it; watches stay frozen for a while.
        for (proxy, client) in proxies(&case) {
            proxy.freeze_watches(client);
        }
        if fired {
            case.settled().await;
        }
        for (proxy, client) in proxies(&case) {
            proxy.heal(client);
            proxy.disarm(client);
        }
        case.node_ready(&name).await?;
        assert_eq!(
            case.vm_history.uids(&name).len(),
            1,
            "the answer to write {nth} was lost"
        );
        case.delete_machine(&name).await?;
        if !fired {
            break;
        }
    }
    case.finish(&[]).await
}

async fn start() -> Result<Case> {
    // Without leader election, so that no Lease has to expire after each restart.
    let controller_args = vec!["--enable-leader-election=false".to_owned()];
    Case::start_with(Options {
        controller_args,
        ..Options::default()
    })
    .await
}

async fn made(case: &Case, name: &str) -> Result<()> {
    case.node_ready(name).await?;
    case.settled().await;
    Ok(())
}

/// The first write, and some more of all.
fn some(instants: &[ClusterVersions]) -> impl Iterator<Item = &ClusterVersions> {
    instants.iter().step_by(instants.len().div_ceil(6))
}

/// The controller's clients of both clusters.
fn proxies(case: &Case) -> [(&testbed::FaultProxy, &'static str); 2] {
    [
        (case.bed.user().proxy(), CONTROLLER),
        (case.bed.infra().proxy(), MACHINES),
    ]
}

/// Restarts the controller with an earlier state of both clusters, waits until it is idle, and then shows it the present.
async fn into_the_past(case: &Case, instant: &ClusterVersions) -> Result<()> {
    case.bed.controller().kill();
    case.bed.user().proxy().show_past(CONTROLLER, instant.user);
    case.bed.infra().proxy().show_past(MACHINES, instant.infra);
    case.bed.user().proxy().clear_requests();
    case.bed.controller().start().await?;
    let listed = |request: &testbed::proxy::Request| {
        request.client == CONTROLLER && request.target.verb == "list" && request.target.resource == "machines"
    };
    case.bed.user().proxy().seen(listed).await;
    case.settled().await;
    for (proxy, client) in proxies(case) {
        proxy.heal(client);
    }
    case.settled().await;
    Ok(())
}

/// The resourceVersions of both clusters at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ClusterVersions {
    user: u64,
    infra: u64,
}

/// Records an instant at each change of a Machine.
struct Snapshots {
    seen: Arc<Mutex<Vec<ClusterVersions>>>,
    task: JoinHandle<()>,
}

impl Snapshots {
    /// Returns when it sees every change that is made from then on.
    async fn record(case: &Case) -> Result<Self> {
        let seen = Arc::<Mutex<Vec<ClusterVersions>>>::default();
        let record = Arc::clone(&seen);
        let (machines, infra) = (case.machines(), case.bed.infra().client());
        let mut events = watcher(machines, watcher::Config::default())
            .default_backoff()
            .boxed();
        while !matches!(
            events.next().await.context("the watch ended")?,
            Ok(watcher::Event::InitDone)
        ) {}
        let task = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                let Ok(watcher::Event::Apply(machine) | watcher::Event::Delete(machine)) = event else {
                    continue;
                };
                let version = machine
                    .resource_version()
                    .and_then(|version| version.parse().ok());
                let (Some(user), Ok(infra)) = (version, version_of(&infra).await) else {
                    continue;
                };
                let instant = ClusterVersions { user, infra };
                record
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(instant);
            }
        });
        Ok(Self { seen, task })
    }

    fn end(self) -> Vec<ClusterVersions> {
        self.task.abort();
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The cluster's resourceVersion now.
async fn version_of(client: &Client) -> Result<u64> {
    let page = Api::<Namespace>::all(client.clone())
        .list_metadata(&ListParams::default().limit(1))
        .await?;
    let version = page.metadata.resource_version.context("no resourceVersion")?;
    Ok(version.parse()?)
}

async fn scale(sets: &Api<MachineSet>, replicas: i32) -> Result<()> {
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    sets.patch("pool", &PatchParams::default(), &patch).await?;
    Ok(())
}

async fn uids(case: &Case) -> Result<BTreeSet<String>> {
    let machines = case.machines().list(&ListParams::default()).await?;
    Ok(machines.iter().filter_map(Machine::uid).collect())
}

fn node_uid(machine: &Machine) -> Option<String> {
    machine.status.as_ref()?.node_ref.as_ref()?.uid.clone()
}
