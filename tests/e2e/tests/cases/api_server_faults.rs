//! Short faults of the user cluster's API server: the controller recovers soon after they end.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Case, rollout::deployment};
use testbed::{bed::CONTROLLER, proxy::Request};

/// After a short fault, the next attempt is at most this far away, on a busy machine.
const SOON: Duration = Duration::from_secs(15);

#[tokio::test]
async fn failing_writes_are_retried_soon_and_with_backoff() -> Result<()> {
    let case = Case::start().await?;
    let proxy = case.bed.user().proxy();
    proxy.fail_writes_of(CONTROLLER, "machinedeployments");
    case.apply(&deployment("pool", 2)).await?;
    proxy.seen(has_failed).await;
    // How long the API server fails.
    tokio::time::sleep(Duration::from_millis(200)).await;
    proxy.heal(CONTROLLER);
    let healed = k8s_openapi::jiff::Timestamp::now();
    case.rollout("pool", "NewMachineSetAvailable").await?;
    let asked = proxy.requests_of(CONTROLLER);
    let failed = asked.iter().filter(|request| has_failed(request)).count();
    ensure!(failed <= 4, "{failed} writes failed within a moment");
    let first = asked
        .iter()
        .find(|request| request.is_successful_write() && request.target.resource == "machinedeployments");
    let waited = first.map(|first| first.at.duration_since(healed).unsigned_abs());
    ensure!(waited.is_some_and(|waited| waited < SOON), "waited {waited:?}");
    case.delete_deployment("pool").await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn connection_resets_delay_a_rollout_only_shortly() -> Result<()> {
    let case = Case::start().await?;
    case.apply(&deployment("pool", 1)).await?;
    case.rollout("pool", "NewMachineSetAvailable").await?;
    let proxy = case.bed.user().proxy();
    proxy.clear_requests();
    // They break while it works.
    case.kubectl(&["scale", "md/pool", "--replicas=3"]).await?;
    proxy
        .seen(|request| request.client == CONTROLLER && request.is_successful_write())
        .await;
    proxy.refuse(CONTROLLER);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    proxy.heal(CONTROLLER);
    let healed = k8s_openapi::jiff::Timestamp::now();
    let next = proxy
        .seen(|request| request.client == CONTROLLER && request.is_successful_write() && request.at > healed)
        .await;
    let waited = next.at.duration_since(healed).unsigned_abs();
    ensure!(waited < SOON, "waited {waited:?}");
    case.kubectl(&[
        "wait",
        "--for=jsonpath={.status.availableReplicas}=3",
        "md/pool",
        "--timeout=120s",
    ])
    .await?;
    case.delete_deployment("pool").await?;
    case.finish(&[]).await
}

fn has_failed(request: &Request) -> bool {
    request.client == CONTROLLER && request.status == 500
}
