//! Nodes that are deleted without a drain.

use anyhow::{Result, ensure};
use e2e::{
    Case,
    drain::{is_cordoned, pod},
};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::{EXCLUDE_DRAIN, HOLD, STAYS, WORKER, counted, finish, start, with_machines};

#[tokio::test]
async fn a_machine_with_the_exclude_annotation_is_not_drained() -> Result<()> {
    let case = start().await?;
    case.runs(pod("web-1", "web", WORKER)).await?;
    case.annotate(WORKER, EXCLUDE_DRAIN, Some("")).await?;
    is_deleted_without_drain(case, "exclude-node-draining").await
}

#[tokio::test]
async fn a_node_with_the_annotation_skip_eviction_is_not_drained() -> Result<()> {
    let case = start().await?;
    case.runs(pod("web-1", "web", WORKER)).await?;
    case.patch_node(
        WORKER,
        json!({"metadata": {"annotations": {"kubermatic.io/skip-eviction": "true"}}}),
    )
    .await?;
    is_deleted_without_drain(case, "skip-eviction").await
}

#[tokio::test]
async fn a_node_that_has_not_been_ready_for_long_is_not_drained() -> Result<()> {
    let case = start().await?;
    case.runs(pod("web-1", "web", WORKER)).await?;
    let ready = json!({"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": "silent",
        "lastTransitionTime": "2026-01-01T12:00:00Z", "lastHeartbeatTime": "2026-01-01T12:00:00Z"});
    let patch = Patch::Strategic(json!({"status": {"conditions": [ready]}}));
    case.nodes()
        .patch_status(WORKER, &PatchParams::default(), &patch)
        .await?;
    is_deleted_without_drain(case, "Node NotReady for").await
}

#[tokio::test]
async fn the_last_node_of_the_cluster_is_not_drained() -> Result<()> {
    let case = with_machines(&[STAYS]).await?;
    case.runs(pod("last", "last", STAYS)).await?;
    case.budget("last", "last", 1, 1).await?;
    case.delete_machine(STAYS).await?;
    ensure!(
        case.asked_of_pod("last").is_empty(),
        "there is nowhere to go, so nothing is evicted"
    );
    counted(&case, "machinist_evictions_blocked 0").await?;
    case.without_budget("last").await?;
    case.finish(&[]).await
}

/// Deletes the worker, whose pod `web-1` must not be evicted, and ends the case.
async fn is_deleted_without_drain(case: Case, why: &str) -> Result<()> {
    // Keeps the Machine until its last conditions are read.
    case.annotate(WORKER, HOLD, Some("")).await?;
    case.begin_deletion(WORKER).await?;
    case.condition_with(WORKER, "Drained", "DrainSkipped", &[why])
        .await?;
    ensure!(!is_cordoned(&case.node(WORKER).await?));
    case.annotate(WORKER, HOLD, None).await?;
    case.machine_gone(WORKER).await?;
    ensure!(case.asked_of_pod("web-1").is_empty());
    finish(case).await
}
