//! No webhook runs, and `failurePolicy` is `Fail`: sets cannot create Machines, and without Machines there are no nodes for the
//! webhook. The recovery of docs/install.md.

use anyhow::Result;
use e2e::{Case, case::WAIT_TIMEOUT, manifest, rollout::deployment, wait};
use machinist_shared::api::{MachineDeployment, MachineSet};
use serde_json::json;

const POOL: &str = "pool";

#[tokio::test]
async fn sets_create_machines_without_a_webhook_once_the_controller_is_exempt() -> Result<()> {
    let case = Case::start().await?;
    case.apply(&deployment(POOL, 1)).await?;
    available(&case, 1).await?;

    case.bed.webhook().kill();
    // Scaling is admitted, the Machine is not.
    case.kubectl(&["scale", "md/pool", "--replicas=2"]).await?;
    let refused = |set: &MachineSet| {
        let status = set.status.clone().unwrap_or_default();
        let said = status.error_message.unwrap_or_default();
        status.error_reason.as_deref() == Some("CreateError") && said.contains("failed calling webhook")
    };
    wait::any(
        &case.machine_sets(),
        "reported with the webhook outage",
        WAIT_TIMEOUT,
        refused,
    )
    .await?;

    let exempt = json!({"webhook": {"exemptController": true}});
    case.bed.upgrade_chart(&exempt).await?;
    available(&case, 2).await?;
    // No other user is exempt.
    let said = case.refused(&manifest::machine("unchecked")).await?;
    assert!(said.contains("failed calling webhook"), "{said}");

    // The exemption is removed when there are nodes for a webhook.
    case.bed.upgrade_chart(&json!({})).await?;
    case.bed.webhook().start().await?;
    case.kubectl(&["scale", "md/pool", "--replicas=3"]).await?;
    available(&case, 3).await?;
    case.delete_deployment(POOL).await?;
    case.finish(&[]).await
}

/// Waits until there are as many Machines as that, and all of them are available.
async fn available(case: &Case, count: i32) -> Result<()> {
    let fits = |md: &MachineDeployment| {
        let status = md.status.clone().unwrap_or_default();
        let counts = [status.replicas, status.available_replicas];
        status.observed_generation == md.metadata.generation
            && counts.map(Option::unwrap_or_default) == [count, count]
    };
    let what = format!("{count} available Machines");
    wait::for_state(&case.deployments(), POOL, &what, WAIT_TIMEOUT, fits)
        .await
        .map(drop)
}
