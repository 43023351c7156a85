//! Pods that a PodDisruptionBudget protects.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{
    case::WAIT_TIMEOUT,
    drain::{PODS, is_cordoned, pod},
    wait,
};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;

use super::{BLOCKED, STAYS, WORKER, counted, finish, start};

#[tokio::test]
async fn a_budget_of_one_holds_the_pod_and_is_named() -> Result<()> {
    let case = start().await?;
    case.runs(pod("web-1", "web", WORKER)).await?;
    case.budget("budget-of-one", "web", 1, 1).await?;
    case.begin_deletion(WORKER).await?;
    case.condition_with(
        WORKER,
        "Drained",
        BLOCKED,
        &["budget-of-one", &format!("{PODS}/web-1")],
    )
    .await?;
    case.vm_lives(WORKER).await?;
    let metrics = case.bed.controller().metrics().await?;
    let blocked = metrics
        .lines()
        .find_map(|line| line.strip_prefix("machinist_evictions_blocked "));
    ensure!(
        blocked.is_some_and(|pods| pods != "0"),
        "{blocked:?} pods are blocked"
    );
    let events = case.describe(WORKER).await?;
    ensure!(events.contains("budget-of-one"), "an Event names it: {events}");
    case.without_budget("budget-of-one").await?;
    case.machine_gone(WORKER).await?;
    counted(&case, "machinist_evictions_blocked 0").await?;
    finish(case).await
}

#[tokio::test]
async fn two_budgets_for_one_pod_hold_it_until_one_is_deleted() -> Result<()> {
    let case = start().await?;
    case.runs(pod("web-1", "web", WORKER)).await?;
    case.budget("budget-a", "web", 0, 1).await?;
    case.budget("budget-b", "web", 0, 1).await?;
    case.begin_deletion(WORKER).await?;
    case.condition_with(
        WORKER,
        "Drained",
        "Draining",
        &["more than one PodDisruptionBudget"],
    )
    .await?;
    case.vm_lives(WORKER).await?;
    case.without_budget("budget-b").await?;
    case.machine_gone(WORKER).await?;
    case.without_budget("budget-a").await?;
    finish(case).await
}

#[tokio::test]
async fn a_budget_that_allows_one_disruption_lets_pods_go_one_at_a_time() -> Result<()> {
    let case = start().await?;
    for name in ["web-1", "web-2", "web-3"] {
        case.runs(pod(name, "web", WORKER)).await?;
    }
    case.budget("two-of-three", "web", 2, 3).await?;
    case.begin_deletion(WORKER).await?;
    case.condition_with(WORKER, "Drained", BLOCKED, &["2 healthy pods and has 2"])
        .await?;
    let left = case.pods().list(&ListParams::default().labels("app=web")).await?;
    let stays = |pod: &&Pod| pod.metadata.deletion_timestamp.is_none();
    ensure!(left.iter().filter(stays).count() == 2, "one may go: {left:?}");
    // Their controller would create replacements on the other Node.
    for name in ["web-4", "web-5"] {
        case.runs(pod(name, "web", STAYS)).await?;
    }
    case.machine_gone(WORKER).await?;
    for name in ["web-4", "web-5"] {
        case.pods().delete(name, &DeleteParams::default()).await?;
    }
    case.without_budget("two-of-three").await?;
    finish(case).await
}

#[tokio::test]
async fn a_pod_that_arrives_during_the_drain_is_evicted_too() -> Result<()> {
    let case = start().await?;
    case.runs(pod("web-1", "web", WORKER)).await?;
    case.budget("web", "web", 1, 1).await?;
    case.begin_deletion(WORKER).await?;
    case.condition_with(WORKER, "Drained", BLOCKED, &["web-1"])
        .await?;
    case.runs(pod("late", "other", WORKER)).await?;
    case.evicted("late").await?;
    case.without_budget("web").await?;
    case.machine_gone(WORKER).await?;
    finish(case).await
}

#[tokio::test]
async fn a_node_that_is_uncordoned_during_the_drain_is_cordoned_again() -> Result<()> {
    let case = start().await?;
    case.runs(pod("web-1", "web", WORKER)).await?;
    case.budget("web", "web", 1, 1).await?;
    case.begin_deletion(WORKER).await?;
    case.condition_with(WORKER, "Drained", BLOCKED, &["web-1"])
        .await?;
    case.patch_node(WORKER, json!({"spec": {"unschedulable": null}}))
        .await?;
    wait::for_state(&case.nodes(), WORKER, "cordoned again", WAIT_TIMEOUT, is_cordoned).await?;
    case.without_budget("web").await?;
    case.machine_gone(WORKER).await?;
    finish(case).await
}

#[tokio::test]
async fn a_blocked_drain_ends_at_its_timeout() -> Result<()> {
    let case = start().await?;
    case.runs(pod("web-1", "web", WORKER)).await?;
    case.budget("web", "web", 1, 1).await?;
    case.begin_deletion(WORKER).await?;
    case.condition_with(WORKER, "Drained", BLOCKED, &["web-1"])
        .await?;
    case.vm_lives(WORKER).await?;
    case.annotate(WORKER, "machinist.dev/node-drain-timeout", Some("3s"))
        .await?;
    case.machine_gone(WORKER).await?;
    case.without_budget("web").await?;
    finish(case).await
}

#[tokio::test]
async fn pods_of_a_paused_machine_are_not_evicted() -> Result<()> {
    let pause = "machine-controller.kubermatic.io/initializers";
    let case = start().await?;
    case.runs(pod("web-1", "web", WORKER)).await?;
    case.budget("web", "web", 1, 1).await?;
    case.begin_deletion(WORKER).await?;
    case.condition_with(WORKER, "Drained", BLOCKED, &["web-1"])
        .await?;
    case.annotate(WORKER, pause, Some("me")).await?;
    case.without_budget("web").await?;
    // The controller would retry a refused eviction within this time.
    let before = case.asked_of_pod("web-1").len();
    let pods = case.pods();
    let quiet = wait::until(&pods, "web-1", "evicted", Duration::from_secs(7), |pod| {
        pod.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some())
    });
    ensure!(quiet.await.is_err(), "a paused Machine's pods are left alone");
    ensure!(case.asked_of_pod("web-1").len() <= before + 1);
    case.annotate(WORKER, pause, None).await?;
    case.machine_gone(WORKER).await?;
    finish(case).await
}
