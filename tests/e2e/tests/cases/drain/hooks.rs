//! Annotations that block the drain or the VM's deletion.

use anyhow::{Result, ensure};
use e2e::{
    case::WAIT_TIMEOUT,
    drain::{condition, is_cordoned, pod},
    wait,
};
use kube::api::DeleteParams;

use super::{WORKER, finish, start};

#[tokio::test]
async fn a_pre_drain_hook_holds_the_drain_and_is_named() -> Result<()> {
    let hook = "pre-drain.delete.hook.machine.cluster.x-k8s.io/backup";
    let case = start().await?;
    case.runs(pod("web-1", "web", WORKER)).await?;
    case.annotate(WORKER, hook, Some("backup-operator")).await?;
    case.begin_deletion(WORKER).await?;
    case.condition_with(
        WORKER,
        "Deleting",
        "WaitingForPreDrainHook",
        &[hook, "backup-operator"],
    )
    .await?;
    ensure!(!is_cordoned(&case.node(WORKER).await?));
    case.annotate(WORKER, hook, None).await?;
    case.machine_gone(WORKER).await?;
    ensure!(case.asked_of_pod("web-1").len() == 1);
    finish(case).await
}

#[tokio::test]
async fn a_pre_terminate_hook_holds_the_machine_after_the_drain_even_without_its_vm() -> Result<()> {
    let hook = "pre-terminate.delete.hook.machine.cluster.x-k8s.io/cleanup";
    let case = start().await?;
    case.runs(pod("web-1", "web", WORKER)).await?;
    case.annotate(WORKER, hook, Some("")).await?;
    case.begin_deletion(WORKER).await?;
    let machine = case
        .condition_with(WORKER, "Deleting", "WaitingForPreTerminateHook", &[hook])
        .await?;
    ensure!(condition(&machine, "Drained")["status"] == "True");
    ensure!(case.pods().get_opt("web-1").await?.is_none());
    case.vm_lives(WORKER).await?;
    // The hook's owner runs a pod there for its cleanup; and another client deletes the VM without waiting for the hook.
    case.runs(pod("web-2", "web", WORKER)).await?;
    case.vms().delete(WORKER, &DeleteParams::default()).await?;
    wait::for_absence(&case.vms(), WORKER, WAIT_TIMEOUT).await?;
    case.condition_with(WORKER, "Deleting", "WaitingForPreTerminateHook", &[hook])
        .await?;
    case.node(WORKER).await?;
    ensure!(case.asked_of_pod("web-2").is_empty(), "it was evicted");
    case.annotate(WORKER, hook, None).await?;
    case.machine_gone(WORKER).await?;
    finish(case).await
}
