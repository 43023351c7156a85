//! cert-manager's own controllers adopt the webhook's certificates and renew them, and no admission fails meanwhile.
//! Its controllers take minutes to build: `make nightly` runs this.

use anyhow::{Context as _, Result};
use e2e::{
    case::WAIT_TIMEOUT,
    load::Load,
    manifest,
    replicas::Replica,
    webhook_certificates::{
        SERVING, accepts, nothing_failed, secrets, served_by_all, start, trusted, trusted_alone, values,
    },
};
use kube::api::DeleteParams;
use serde_json::json;
use testbed::{CertManager, bed::SYSTEM_NAMESPACE};

/// How many clients send requests at a time.
const CLIENTS: usize = 8;

/// With another value of the chart, cert-manager adopts CA and certificate, and renews them. The controller releases them.
#[tokio::test]
async fn cert_manager_adopts_the_certificates_and_renews_them() -> Result<()> {
    let case = start().await?;
    let replicas = [Replica::join(&case.bed, SYSTEM_NAMESPACE, case.bed.webhook()).await?];
    let ours = trusted_alone(&case).await?;
    let before = replicas[0].served().await?;
    let set = manifest::machine_set("a", 1);
    let first_taken = async { while Load::once(&case.bed.user().client(), &set).await.is_err() {} };
    tokio::time::timeout(WAIT_TIMEOUT, first_taken)
        .await
        .context("nothing was admitted")?;
    let load = Load::start(&case.bed.user().client(), CLIENTS, &set)?;

    let cert_manager = CertManager::start(&case.bed).await?;
    let mut chosen = values();
    chosen["webhook"]["certificate"] = json!({"mode": "certManager"});
    // Its pods restart with the flags of the mode.
    case.bed.controller().terminate().await?;
    case.bed.upgrade_chart(&chosen).await?;
    let controller = case
        .bed
        .new_controller("without-certificates", &["--webhook-serving-secret="])
        .await?;
    controller.start().await?;
    let ready = ["--for=condition=Ready", "--timeout=60s", "certificate", "--all"];
    let wait = [&["wait", "--namespace", SYSTEM_NAMESPACE], &ready[..]].concat();
    case.bed.user().kubectl_ok(&wait, "").await?;
    assert_eq!(replicas[0].served().await?, before, "it is good for long");
    nothing_failed(load, "cert-manager taking over").await?;

    // Deleted, and so issued again, by cert-manager's CA, which is trusted beside the previous one.
    secrets(&case).delete(SERVING, &DeleteParams::default()).await?;
    let of_theirs = served_by_all(&replicas, &before).await?;
    let both = trusted(&case, "by both", |roots| {
        roots.contains(&ours) && roots.iter().any(|root| accepts(&of_theirs, root))
    });
    let both = both.await?;
    let load = Load::start(&case.bed.user().client(), CLIENTS, &set)?;
    secrets(&case).delete(SERVING, &DeleteParams::default()).await?;
    let renewed = served_by_all(&replicas, &of_theirs).await?;
    case.bed.user().kubectl_ok(&wait, "").await?;
    nothing_failed(load, "a certificate that cert-manager issued again").await?;
    assert!(both.iter().any(|root| accepts(&renewed, root)));
    cert_manager.terminate().await?;
    controller.terminate().await?;
    case.finish(&[]).await
}
