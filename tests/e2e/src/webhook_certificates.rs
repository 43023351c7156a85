//! The webhook's CA and serving certificate, which the controller creates and rotates with the chart's rights: the certificates of
//! the replicas, and the trusted CAs of the webhook configurations.

use std::{collections::BTreeSet, time::SystemTime};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{
    admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
    core::v1::Secret,
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use machinist_certs::{Bundle, Root};
use serde_json::{Value, json};
use testbed::bed::{Options, SYSTEM_NAMESPACE};

use crate::{Case, case::WAIT_TIMEOUT, load::Load, replicas::Replica, wait};

/// Secret of the CA.
pub const AUTHORITY: &str = "machinist-webhook-ca";
/// Secret that the webhook serves with.
pub const SERVING: &str = "machinist-webhook-cert";
/// The name that the serving certificate is for.
const SERVICE: &str = "machinist-webhook.machinist-system.svc";
/// One that defaults and one that validates, for each of three kinds.
const WEBHOOKS: usize = 6;

/// Values of the chart under which the API server calls the webhook behind its Service.
pub fn values() -> Value {
    // On a busy machine a handshake can be slow: only failures of trust count.
    json!({"webhook": {"url": "", "caBundle": "", "timeoutSeconds": 15}})
}

/// A bed whose controller creates the certificates.
pub async fn start() -> Result<Case> {
    Case::start_alone(Options {
        boot: None,
        chart_values: values(),
        webhook_args: [
            &format!("--tls-secret={SYSTEM_NAMESPACE}/{SERVING}"),
            // There is no KubeVirt, and admission must not depend on an infra cluster.
            "--infra-unreachable=off",
            // The API server calls it through a Service here, which learns of its shutdown a little later.
            "--shutdown-delay-duration=10s",
            "--reference-access-check=off",
        ]
        .map(ToString::to_string)
        .into(),
        controller_args: [
            &format!("--webhook-serving-secret={SYSTEM_NAMESPACE}/{SERVING}"),
            "--webhook-certificate-overlap=3s",
        ]
        .map(ToString::to_string)
        .into(),
        ..Options::default()
    })
    .await
}

/// Stops the load, and fails if any admission failed.
pub async fn nothing_failed(load: Load, what: &str) -> Result<()> {
    let tally = load.end(what).await;
    ensure!(tally.failed.is_empty(), "{:?}", tally.failed.first());
    ensure!(tally.sent > 0, "nothing was sent");
    Ok(())
}

/// Whether the CA signed a serving certificate that is valid for the webhook's Service now.
pub fn accepts(leaf: &[u8], root: &Root) -> bool {
    root.accepts(leaf, SERVICE, SystemTime::now())
}

/// The Secrets in the namespace of the release.
pub fn secrets(case: &Case) -> Api<Secret> {
    Api::namespaced(case.bed.user().client(), SYSTEM_NAMESPACE)
}

/// `kubectl annotate secret NAME machinist.dev/rotate=`.
pub async fn rotate(case: &Case, secret: &str) -> Result<()> {
    let annotate = json!({"metadata": {"annotations": {"machinist.dev/rotate": ""}}});
    secrets(case)
        .patch(secret, &PatchParams::default(), &Patch::Merge(annotate))
        .await?;
    Ok(())
}

/// Waits until all replicas serve with the same certificate, other than this one.
pub async fn served_by_all(replicas: &[Replica], old: &[u8]) -> Result<Vec<u8>> {
    let all = async {
        loop {
            let mut shown = BTreeSet::new();
            for replica in replicas {
                shown.insert(replica.served().await?);
            }
            if shown.len() == 1
                && let Some(new) = shown.pop_first().filter(|new| new != old)
            {
                return Ok(new);
            }
        }
    };
    tokio::time::timeout(WAIT_TIMEOUT, all)
        .await
        .context("not all replicas serve with a new certificate")?
}

/// Waits until every webhook of both configurations trusts the same roots, and `fits` holds for them.
pub async fn trusted(
    case: &Case,
    what: &str,
    fits: impl Fn(&BTreeSet<Root>) -> bool,
) -> Result<BTreeSet<Root>> {
    let client = case.bed.user().client();
    let same = |bundles: Vec<Option<Vec<u8>>>| -> Option<BTreeSet<Root>> {
        let roots = |pem: Option<Vec<u8>>| Bundle::from_pem(&pem.unwrap_or_default()).roots;
        let roots: Vec<_> = bundles.into_iter().map(roots).collect();
        let first = roots.first()?.clone();
        (roots.len() == WEBHOOKS / 2 && roots.iter().all(|other| *other == first)).then_some(first)
    };
    let of_mutating = |found: &MutatingWebhookConfiguration| {
        let webhooks = found.webhooks.iter().flatten();
        same(
            webhooks
                .map(|webhook| Some(webhook.client_config.ca_bundle.clone()?.0))
                .collect(),
        )
    };
    let of_validating = |found: &ValidatingWebhookConfiguration| {
        let webhooks = found.webhooks.iter().flatten();
        same(
            webhooks
                .map(|webhook| Some(webhook.client_config.ca_bundle.clone()?.0))
                .collect(),
        )
    };
    let mutating: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let validating: Api<ValidatingWebhookConfiguration> = Api::all(client);
    let found = wait::for_state(&validating, "machinist", what, WAIT_TIMEOUT, |found| {
        of_validating(found).is_some_and(|roots| fits(&roots))
    })
    .await?;
    let wanted = of_validating(&found);
    wait::for_state(&mutating, "machinist", what, WAIT_TIMEOUT, |found| {
        of_mutating(found) == wanted
    })
    .await?;
    wanted.context("they trust the same")
}

/// Waits until every webhook trusts exactly one CA, the same, and returns it.
pub async fn trusted_alone(case: &Case) -> Result<Root> {
    let mut roots = trusted(case, "trusting one CA", |roots| roots.len() == 1).await?;
    roots.pop_first().context("there is one")
}

/// Waits until every webhook trusts exactly one CA, the same and not `old`, and returns it.
pub async fn trusted_alone_other_than(case: &Case, old: &Root) -> Result<Root> {
    let fits = |roots: &BTreeSet<Root>| roots.len() == 1 && !roots.contains(old);
    let mut roots = trusted(case, "trusting the new CA alone", fits).await?;
    roots.pop_first().context("there is one")
}
