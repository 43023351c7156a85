//! The admins of the infra cluster drain a host: the effect of the VMs' eviction strategies.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Result, ensure};
use e2e::{
    Case,
    case::WAIT_TIMEOUT,
    drain::condition,
    infra, manifest, objects,
    rollout::{MachineMaximum, Watched, deployment},
    wait,
};
use futures::StreamExt as _;
use kube::{
    ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
    runtime::{WatchStreamExt as _, watcher},
};
use machinist_shared::api::{Machine, MachineDeployment};
use serde_json::json;
use testbed::bed::Options;

/// VMs of one deployment on that host.
const HOSTED: i32 = 10;

#[tokio::test]
async fn machines_with_the_strategy_external_are_replaced_within_max_unavailable() -> Result<()> {
    let case = Case::start().await?;
    let mut pool = deployment("pool", HOSTED);
    pool["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}});
    case.apply(&pool).await?;
    case.rollout("pool", "NewMachineSetAvailable").await?;
    let before = case.machine_uids().await?;
    let drained = hosts(&case).await?;
    ensure!(drained.len() == 1, "on {drained:?}");
    // The simulator has two hosts. After an earlier case, either of them may be drained.
    let simulated = BTreeSet::from(["node1", "node2"].map(str::to_owned));
    let others: BTreeSet<_> = simulated.difference(&drained).cloned().collect();
    let watched = Watched::start(&case);
    for name in before.keys() {
        evict(&case, name).await?;
    }
    for name in before.keys() {
        wait::for_absence(&case.machines(), name, WAIT_TIMEOUT * 3).await?;
    }
    let all = |deployment: &MachineDeployment| {
        let status = deployment.status.as_ref();
        status.is_some_and(|status| status.available_replicas == Some(HOSTED))
    };
    wait::for_state(&case.deployments(), "pool", "whole again", WAIT_TIMEOUT, all).await?;
    let least = watched.stop().least_joined;
    let now = hosts(&case).await?;
    ensure!(now == others, "they are on {now:?}");
    println!("{HOSTED} VMs left their host; at least {least} Nodes were there");
    ensure!(
        least >= usize::try_from(HOSTED)? - 1,
        "only {least} Nodes were there"
    );
    case.delete_deployment("pool").await?;
    case.finish(&[]).await
}

/// By default, maxUnavailable is 0: replacements are created one at a time.
#[tokio::test]
async fn replacements_are_made_first_by_default() -> Result<()> {
    const SIZE: usize = 3;
    let case = Case::start().await?;
    case.apply(&deployment("whole", i32::try_from(SIZE)?)).await?;
    case.rollout("whole", "NewMachineSetAvailable").await?;
    let before: Vec<String> = case.machine_uids().await?.into_keys().collect();
    let watched = Watched::start(&case);
    let living = MachineMaximum::start(&case);
    for name in &before {
        evict(&case, name).await?;
    }
    for name in &before {
        wait::for_absence(&case.machines(), name, WAIT_TIMEOUT * 3).await?;
    }
    let (least, most) = (watched.stop().least_joined, living.most());
    println!("{SIZE} VMs that may not be missing left their host; {least} to {most} Machines were there");
    ensure!(least >= SIZE, "only {least} Nodes were there");
    ensure!(most <= SIZE + 1, "{most} Machines were there");
    case.rollout("whole", "NewMachineSetAvailable").await?;
    case.delete_deployment("whole").await?;
    case.finish(&[]).await
}

/// A kubeconfig like machine-controller's may not list VMIs. Hosts are evacuated nevertheless.
#[tokio::test]
async fn a_host_is_evacuated_with_a_kubeconfig_that_may_only_get_vmis() -> Result<()> {
    let case = Case::start_with(Options {
        controller_args: vec!["--infra-look-every=2s".to_owned()],
        ..Options::default()
    })
    .await?;
    infra::allow(&case, |_| vec!["get"]).await?;
    let mut pool = deployment("pool", 1);
    pool["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}});
    case.apply(&pool).await?;
    case.rollout("pool", "NewMachineSetAvailable").await?;
    for name in case.machine_uids().await?.into_keys() {
        evict(&case, &name).await?;
        wait::for_absence(&case.machines(), &name, WAIT_TIMEOUT).await?;
    }
    case.delete_deployment("pool").await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn no_machine_of_a_paused_deployment_is_replaced() -> Result<()> {
    let case = Case::start().await?;
    let mut pool = deployment("pool", 2);
    pool["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}});
    case.apply(&pool).await?;
    case.rollout("pool", "NewMachineSetAvailable").await?;
    let pause = |text: Option<&str>| {
        Patch::Merge(json!({"metadata": {"annotations": {"cluster.x-k8s.io/paused": text}}}))
    };
    let (deployments, params) = (case.deployments(), PatchParams::default());
    deployments.patch("pool", &params, &pause(Some(""))).await?;
    let machines = case.machines().list(&ListParams::default()).await?;
    let name = machines
        .iter()
        .map(kube::ResourceExt::name_any)
        .next()
        .unwrap_or_default();
    evict(&case, &name).await?;
    case.condition_with(&name, "Evacuating", "HostDraining", &["cluster.x-k8s.io/paused"])
        .await?;
    deployments.patch("pool", &params, &pause(None)).await?;
    case.machine_gone(&name).await?;
    case.delete_deployment("pool").await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_live_migration_changes_nothing_on_the_machine() -> Result<()> {
    let case = Case::start().await?;
    let mut machine = manifest::machine("mover");
    manifest::virtual_machine(&mut machine)["evictionStrategy"] = json!("LiveMigrate");
    case.apply(&machine).await?;
    let before = case.node_ready("mover").await?;
    let history = Arc::new(Mutex::new(Vec::new()));
    let record = {
        let (history, machines) = (Arc::clone(&history), case.machines());
        tokio::spawn(async move {
            let mut states = watcher(machines, watcher::Config::default())
                .default_backoff()
                .applied_objects()
                .boxed();
            while let Some(Ok(state)) = states.next().await {
                history.lock().unwrap_or_else(PoisonError::into_inner).push(state);
            }
        })
    };
    let from = hosts(&case).await?;
    ensure!(from.len() == 1, "on {from:?}");
    let from: Vec<&str> = from.iter().map(String::as_str).collect();
    evict(&case, "mover").await?;
    case.condition_with("mover", "Evacuating", "LiveMigrating", &from)
        .await?;
    let vmis = objects::infra(case.bed.infra().client(), &objects::virtual_machine_instance());
    let moved = |vmi: &kube::core::DynamicObject| {
        let host = vmi.data["status"]["nodeName"].as_str();
        host.is_some_and(|host| host != from[0])
    };
    wait::for_state(&vmis, "mover", "on another host", WAIT_TIMEOUT, moved).await?;
    let over = |machine: &Machine| condition(machine, "Evacuating").is_null();
    let after = wait::for_state(&case.machines(), "mover", "at rest", WAIT_TIMEOUT, over).await?;
    record.abort();
    ensure!(after.uid() == before.uid() && case.vm_history.uids("mover").len() == 1);
    for state in history.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let (ready, status) = (condition(state, "Ready"), state.status.as_ref());
        let failing =
            status.is_some_and(|s| s.error_reason.is_some() || s.phase.as_deref() != Some("Running"));
        ensure!(ready["status"] == "True" && !failing, "{ready} {status:?}");
    }
    case.delete_machine("mover").await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_whole_pool_is_live_migrated_and_no_machine_is_replaced() -> Result<()> {
    let case = Case::start().await?;
    let mut pool = deployment("movers", HOSTED);
    pool["spec"]["template"]["spec"]["providerSpec"]["value"]["cloudProviderSpec"]["virtualMachine"]["evictionStrategy"] =
        json!("LiveMigrate");
    case.apply(&pool).await?;
    case.rollout("movers", "NewMachineSetAvailable").await?;
    let (before, from) = (case.machine_uids().await?, hosts(&case).await?);
    let watched = Watched::start(&case);
    for name in before.keys() {
        evict(&case, name).await?;
    }
    let vmis = objects::infra(case.bed.infra().client(), &objects::virtual_machine_instance());
    let moved = |vmi: &kube::core::DynamicObject| {
        let host = vmi.data["status"]["nodeName"].as_str();
        host.is_some_and(|host| !from.contains(host))
    };
    for name in before.keys() {
        wait::for_state(&vmis, name, "on another host", WAIT_TIMEOUT, moved).await?;
    }
    let least = watched.stop().least_joined;
    println!("{HOSTED} VMs were moved; at least {least} Nodes were there");
    ensure!(least == usize::try_from(HOSTED)?, "only {least} Nodes were there");
    ensure!(case.machine_uids().await? == before, "Machines were replaced");
    case.delete_deployment("movers").await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_vm_that_cannot_be_migrated_is_reported_before_its_host_is_drained() -> Result<()> {
    let case = Case::start().await?;
    let mut machine = manifest::machine("fixed");
    let vm = manifest::virtual_machine(&mut machine);
    vm["evictionStrategy"] = json!("LiveMigrate");
    vm["template"]["primaryDisk"]["storageAccessType"] = json!("ReadWriteOnce");
    case.apply(&machine).await?;
    case.node_ready("fixed").await?;
    case.condition_with("fixed", "Evacuating", "NotMigratable", &["not shared"])
        .await?;
    case.delete_machine("fixed").await?;
    case.finish(&[]).await
}

/// There is no MachineSet that would replace it.
#[tokio::test]
async fn a_machine_that_stands_alone_stays() -> Result<()> {
    let case = Case::start().await?;
    case.apply(&manifest::machine("alone")).await?;
    case.node_ready("alone").await?;
    evict(&case, "alone").await?;
    case.condition_with(
        "alone",
        "Evacuating",
        "HostDraining",
        &["no MachineSet", "by hand"],
    )
    .await?;
    case.vm_lives("alone").await?;
    case.delete_machine("alone").await?;
    case.finish(&[]).await
}

/// The nodes of the infra cluster that VMs are on.
async fn hosts(case: &Case) -> Result<BTreeSet<String>> {
    let vmis = objects::infra(case.bed.infra().client(), &objects::virtual_machine_instance());
    let vmis = vmis.list(&ListParams::default()).await?;
    let host = |vmi: &kube::core::DynamicObject| vmi.data["status"]["nodeName"].as_str().map(str::to_owned);
    Ok(vmis.iter().filter_map(host).collect())
}

/// What `kubectl drain` on the infra cluster does to the VM's launcher.
async fn evict(case: &Case, name: &str) -> Result<()> {
    let patch = Patch::Merge(json!({"metadata": {"annotations": {"sim.kubevirt.io/evacuate": "true"}}}));
    case.vms().patch(name, &PatchParams::default(), &patch).await?;
    Ok(())
}
