//! The admins of the infra cluster drain a host: what the VMs' eviction strategies make of it.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, ensure};
use e2e::{
    Case,
    case::PATIENCE,
    drain::condition,
    manifest, objects,
    rollout::{Watched, deployment},
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

/// VMs of one deployment on that host.
const HOSTED: i32 = 10;

#[tokio::test]
async fn a_host_is_drained() -> Result<()> {
    let case = Case::start().await?;
    external(&case).await?;
    paused(&case).await?;
    live_migrated(&case).await?;
    not_migratable(&case).await?;
    alone(&case).await?;
    case.finish(&[]).await
}

/// With the strategy External, Machines are replaced, no more at a time than `maxUnavailable`.
async fn external(case: &Case) -> Result<()> {
    let mut pool = deployment("pool", HOSTED);
    pool["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}});
    case.apply(&pool).await?;
    case.rollout("pool", "NewMachineSetAvailable").await?;
    let before = case.machine_uids().await?;
    let watched = Watched::start(case);
    for name in before.keys() {
        evict(case, name).await?;
    }
    for name in before.keys() {
        wait::for_absence(&case.machines(), name, PATIENCE * 3).await?;
    }
    let all = |deployment: &MachineDeployment| {
        let status = deployment.status.as_ref();
        status.is_some_and(|status| status.available_replicas == Some(HOSTED))
    };
    wait::for_state(&case.deployments(), "pool", "whole again", PATIENCE, all).await?;
    let least = watched.stop().least_joined;
    println!("{HOSTED} VMs left their host; at least {least} Nodes were there");
    ensure!(
        least >= usize::try_from(HOSTED)? - 1,
        "only {least} Nodes were there"
    );
    Ok(())
}

/// Nobody is replaced by what is paused.
async fn paused(case: &Case) -> Result<()> {
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
    evict(case, &name).await?;
    case.says(&name, "Evacuating", "HostDraining", &["cluster.x-k8s.io/paused"])
        .await?;
    deployments.patch("pool", &params, &pause(None)).await?;
    case.machine_gone(&name).await?;
    case.delete_deployment("pool").await
}

/// KubeVirt moves the VM, and that is nobody's trouble.
async fn live_migrated(case: &Case) -> Result<()> {
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
    evict(case, "mover").await?;
    case.says("mover", "Evacuating", "LiveMigrating", &["node1"])
        .await?;
    let vmis = objects::infra(case.bed.infra().client(), &objects::virtual_machine_instance());
    let moved = |vmi: &kube::core::DynamicObject| vmi.data["status"]["nodeName"] == "node2";
    wait::for_state(&vmis, "mover", "on another host", PATIENCE, moved).await?;
    let over = |machine: &Machine| condition(machine, "Evacuating").is_null();
    let after = wait::for_state(&case.machines(), "mover", "at rest", PATIENCE, over).await?;
    record.abort();
    ensure!(after.uid() == before.uid() && case.lives.uids("mover").len() == 1);
    for state in history.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let (ready, status) = (condition(state, "Ready"), state.status.as_ref());
        let failing =
            status.is_some_and(|s| s.error_reason.is_some() || s.phase.as_deref() != Some("Running"));
        ensure!(ready["status"] == "True" && !failing, "{ready} {status:?}");
    }
    case.delete_machine("mover").await
}

/// What cannot be moved says so before any host is drained.
async fn not_migratable(case: &Case) -> Result<()> {
    let mut machine = manifest::machine("fixed");
    let vm = manifest::virtual_machine(&mut machine);
    vm["evictionStrategy"] = json!("LiveMigrate");
    vm["template"]["primaryDisk"]["storageAccessType"] = json!("ReadWriteOnce");
    case.apply(&machine).await?;
    case.node_ready("fixed").await?;
    case.says("fixed", "Evacuating", "NotMigratable", &["not shared"])
        .await?;
    case.delete_machine("fixed").await
}

/// A Machine that nobody would replace stays.
async fn alone(case: &Case) -> Result<()> {
    case.apply(&manifest::machine("alone")).await?;
    case.node_ready("alone").await?;
    evict(case, "alone").await?;
    case.says(
        "alone",
        "Evacuating",
        "HostDraining",
        &["no MachineSet", "by hand"],
    )
    .await?;
    case.vm_lives("alone").await?;
    case.delete_machine("alone").await
}

/// What `kubectl drain` on the infra cluster does to the VM's launcher.
async fn evict(case: &Case, name: &str) -> Result<()> {
    let patch = Patch::Merge(json!({"metadata": {"annotations": {"sim.kubevirt.io/evacuate": "true"}}}));
    case.vms().patch(name, &PatchParams::default(), &patch).await?;
    Ok(())
}
