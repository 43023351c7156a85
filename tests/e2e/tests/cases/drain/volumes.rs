//! The wait for volumes that are attached to the Node.

use anyhow::{Result, ensure};
use e2e::{
    case::WAIT_TIMEOUT,
    drain::{condition, pod},
    wait,
};
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use super::{EXCLUDE_DETACH, EXCLUDE_DRAIN, WORKER, finish, forget_volume, start};

#[tokio::test]
async fn an_attached_volume_holds_the_vm_and_is_named() -> Result<()> {
    let case = start().await?;
    case.attach("pv-data", "data", WORKER).await?;
    case.begin_deletion(WORKER).await?;
    let machine = case
        .condition_with(WORKER, "Deleting", "WaitingForVolumeDetach", &["pv-data"])
        .await?;
    ensure!(condition(&machine, "Drained")["status"] == "True");
    case.vm_lives(WORKER).await?;
    case.detach("pv-data").await?;
    case.machine_gone(WORKER).await?;
    forget_volume(&case, "pv-data").await?;
    finish(case).await
}

#[tokio::test]
async fn the_volume_of_a_pod_that_stays_is_waited_for_only_when_the_vm_is_gone() -> Result<()> {
    let case = start().await?;
    let mut stays = pod("stays-1", "stays", WORKER);
    stays["metadata"]["labels"]["cluster.x-k8s.io/drain"] = json!("skip");
    stays["spec"]["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "kept"}}]);
    case.runs(stays).await?;
    case.attach("pv-kept", "kept", WORKER).await?;
    case.attach("pv-other", "other", WORKER).await?;
    case.begin_deletion(WORKER).await?;
    let machine = case
        .condition_with(
            WORKER,
            "Deleting",
            "WaitingForVolumeDetach",
            &["pv-other", "default/other"],
        )
        .await?;
    let message = condition(&machine, "Deleting")["message"].to_string();
    ensure!(!message.contains("pv-kept"), "{message}");
    case.detach("pv-other").await?;
    case.condition_with(WORKER, "Deleting", "ReleasingVolumes", &["pv-kept"])
        .await?;
    ensure!(case.vms().get_opt(WORKER).await?.is_none());
    case.detach("pv-kept").await?;
    case.machine_gone(WORKER).await?;
    forget_volume(&case, "pv-kept").await?;
    forget_volume(&case, "pv-other").await?;
    finish(case).await
}

#[tokio::test]
async fn the_wait_for_volumes_ends_at_its_timeout() -> Result<()> {
    let case = start().await?;
    case.attach("pv-data", "data", WORKER).await?;
    case.begin_deletion(WORKER).await?;
    case.condition_with(WORKER, "Deleting", "WaitingForVolumeDetach", &["pv-data"])
        .await?;
    case.vm_lives(WORKER).await?;
    case.annotate(WORKER, "machinist.dev/node-volume-detach-timeout", Some("3s"))
        .await?;
    case.condition_with(WORKER, "Deleting", "ReleasingVolumes", &["pv-data"])
        .await?;
    case.detach("pv-data").await?;
    case.machine_gone(WORKER).await?;
    forget_volume(&case, "pv-data").await?;
    finish(case).await
}

#[tokio::test]
async fn a_machine_with_the_exclude_annotation_does_not_wait_for_volumes() -> Result<()> {
    let case = start().await?;
    case.annotate(WORKER, EXCLUDE_DETACH, Some("")).await?;
    case.attach("pv-data", "data", WORKER).await?;
    case.begin_deletion(WORKER).await?;
    case.condition_with(WORKER, "VolumesDetached", "VolumeDetachSkipped", &["pv-data"])
        .await?;
    case.condition_with(WORKER, "Deleting", "ReleasingVolumes", &["pv-data"])
        .await?;
    case.detach("pv-data").await?;
    case.machine_gone(WORKER).await?;
    forget_volume(&case, "pv-data").await?;
    finish(case).await
}

/// The taint makes Kubernetes detach what is still attached.
#[tokio::test]
async fn a_node_whose_vm_is_gone_is_out_of_service_while_a_volume_is_attached() -> Result<()> {
    let case = start().await?;
    case.annotate(WORKER, EXCLUDE_DRAIN, Some("")).await?;
    case.attach("pv-data", "data", WORKER).await?;
    case.begin_deletion(WORKER).await?;
    // Skipping the drain does not skip the wait for volumes.
    case.condition_with(WORKER, "VolumesDetached", "VolumesAttached", &["pv-data"])
        .await?;
    case.annotate(WORKER, EXCLUDE_DETACH, Some("")).await?;
    let tainted = |node: &Node| {
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone());
        taints
            .into_iter()
            .flatten()
            .any(|taint| taint.key == "node.kubernetes.io/out-of-service" && taint.effect == "NoExecute")
    };
    wait::for_state(&case.nodes(), WORKER, "out of service", WAIT_TIMEOUT, tainted).await?;
    ensure!(
        case.vms().get_opt(WORKER).await?.is_none(),
        "only when the VM is gone"
    );
    case.detach("pv-data").await?;
    case.machine_gone(WORKER).await?;
    forget_volume(&case, "pv-data").await?;
    finish(case).await
}
