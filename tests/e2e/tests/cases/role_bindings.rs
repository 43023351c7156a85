//! Warnings about role bindings of the cluster that make bootstrap tokens transferable, or keep nodes from renewing their
//! certificates.

use anyhow::Result;
use e2e::{Case, case::WAIT_TIMEOUT, wait};
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use serde_json::json;
use testbed::bed::Options;

#[tokio::test]
async fn wrong_bindings_are_reported_at_the_start_and_right_ones_are_not() -> Result<()> {
    let case = Case::start().await?;
    asked(&case, &["transferable_tokens\"} 0", "no_renewal\"} 0"]).await?;
    case.finish(&[]).await?;

    let case = Case::start_with(Options {
        chart_values: json!({"nodes": {"bindSelfNodeClient": false}}),
        ..Options::default()
    })
    .await?;
    expect_event(&case, "NodesCannotRenew", "selfnodeclient").await?;
    // As in clusters of kubeadm: for all bootstrap tokens, including Machinist's.
    let binding = [
        "create",
        "clusterrolebinding",
        "any-token-becomes-any-node",
        "--clusterrole=system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        "--group=system:bootstrappers",
    ];
    case.bed.user().kubectl_ok(&binding, "").await?;
    case.bed.controller().terminate().await?;
    case.bed.controller().start().await?;
    expect_event(&case, "BootstrapTokensTransferable", "ANY node").await?;
    asked(&case, &["transferable_tokens\"} 1", "no_renewal\"} 1"]).await?;
    case.finish(&[]).await
}

/// Waits for an Event about the cluster.
async fn expect_event(case: &Case, reason: &str, text: &str) -> Result<()> {
    let events = Api::<Event>::all(case.bed.user().client());
    wait::any(&events, reason, WAIT_TIMEOUT, |event| {
        event.reason.as_deref() == Some(reason)
            && event.note.as_ref().is_some_and(|note| note.contains(text))
            && event
                .regarding
                .as_ref()
                .is_some_and(|about| about.name.as_deref() == Some("kube-system"))
    })
    .await
}

/// Returns when the metrics contain this.
async fn asked(case: &Case, texts: &[&str]) -> Result<()> {
    let deadline = std::time::Instant::now() + WAIT_TIMEOUT;
    loop {
        let metrics = case.bed.controller().metrics().await?;
        if texts.iter().all(|text| metrics.contains(text)) {
            return Ok(());
        }
        anyhow::ensure!(std::time::Instant::now() < deadline, "{metrics}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}
