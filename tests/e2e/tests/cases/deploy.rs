//! What `make deploy` does: the chart as it comes, installed by Helm and upgraded.

use anyhow::{Context as _, Result};
use e2e::{
    Case,
    helm::{self, Helm},
};
use k8s_openapi::api::{
    admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
    core::v1::Secret,
};
use kube::Api;
use testbed::bed::{Machinist, Options};

const NAMESPACE: &str = "machinist-system";
/// One that defaults and one that validates, for each of three kinds.
const WEBHOOKS: usize = 6;

#[tokio::test]
async fn the_webhooks_certificate_is_made_once_and_trusted() -> Result<()> {
    let case = Case::start_with(Options {
        machinist: Machinist::Absent,
        boot: None,
        ..Options::default()
    })
    .await?;
    deploy(&case).await?;
    let made = certificate(&case).await?;
    assert_eq!(
        trusted(&case).await?,
        vec![made.ca.clone(); WEBHOOKS],
        "every webhook trusts it"
    );
    assert!(made.leaf != made.ca);

    // An upgrade that made another would break the webhook until its pods have it.
    deploy(&case).await?;
    assert_eq!(certificate(&case).await?, made);
    assert_eq!(trusted(&case).await?, vec![made.ca; WEBHOOKS]);
    case.finish(&[]).await
}

async fn deploy(case: &Case) -> Result<()> {
    let chart = helm::chart();
    let args = [
        "upgrade",
        "--install",
        "machinist",
        &chart,
        "--namespace",
        NAMESPACE,
        "--create-namespace",
    ];
    Helm::of(case.bed.user()).ok(&args).await.map(drop)
}

#[derive(Debug, PartialEq, Eq)]
struct Made {
    ca: Vec<u8>,
    leaf: Vec<u8>,
}

async fn certificate(case: &Case) -> Result<Made> {
    let secrets = Api::<Secret>::namespaced(case.bed.user().client(), NAMESPACE);
    let mut data = secrets
        .get("machinist-webhook-cert")
        .await?
        .data
        .unwrap_or_default();
    let mut take = |key: &str| {
        data.remove(key)
            .map(|bytes| bytes.0)
            .with_context(|| format!("no {key}"))
    };
    take("tls.key")?;
    Ok(Made {
        ca: take("ca.crt")?,
        leaf: take("tls.crt")?,
    })
}

/// The CAs of all our webhooks.
async fn trusted(case: &Case) -> Result<Vec<Vec<u8>>> {
    let client = case.bed.user().client();
    let mutating = Api::<MutatingWebhookConfiguration>::all(client.clone())
        .get("machinist")
        .await?;
    let validating = Api::<ValidatingWebhookConfiguration>::all(client)
        .get("machinist")
        .await?;
    let mutating = mutating
        .webhooks
        .into_iter()
        .flatten()
        .map(|webhook| webhook.client_config);
    let validating = validating
        .webhooks
        .into_iter()
        .flatten()
        .map(|webhook| webhook.client_config);
    Ok(mutating
        .chain(validating)
        .filter_map(|config| Some(config.ca_bundle?.0))
        .collect())
}
