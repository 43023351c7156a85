//! Machinist's chart on a user cluster, as `helm upgrade --install` installs it.

use std::{fs, path::Path, process::Stdio};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{
        MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
    },
};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, PostParams},
};
use serde_json::{Value, json};

use crate::{ControlPlane, paths, pki::Ca, seed::INFRA_NAMESPACE};

/// Namespace of the Helm release on the user cluster.
pub const SYSTEM_NAMESPACE: &str = "machinist-system";
/// Name of the Helm release.
pub const RELEASE: &str = "machinist";

/// The values that the testbed gives to the chart: the webhook runs outside the cluster.
pub(crate) fn values(webhook_url: &str, webhook_ca: &Ca) -> Value {
    json!({
        "webhook": {"url": webhook_url, "caBundle": webhook_ca.base64()},
        "infra": {"namespace": INFRA_NAMESPACE},
    })
}

/// Merges `over` into `base`, object by object.
pub(crate) fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}

/// Runs `helm upgrade --install` with these values; Helm keeps its files in `dir`.
pub(crate) async fn install(user: &ControlPlane, dir: &Path, values: &Value) -> Result<()> {
    let file = dir.join("values.json");
    fs::write(&file, serde_json::to_vec_pretty(values)?)?;
    let home = dir.join("helm");
    let output = tokio::process::Command::new(&user.tools().helm)
        .args(["upgrade", "--install", RELEASE])
        .arg(paths::chart())
        .args([
            "--namespace",
            SYSTEM_NAMESPACE,
            "--create-namespace",
            "--kubeconfig",
        ])
        .arg(user.admin_kubeconfig_path())
        .arg("--values")
        .arg(&file)
        // Without the environment of the user who runs the tests.
        .envs(["CACHE", "CONFIG", "DATA"].map(|kind| (format!("HELM_{kind}_HOME"), home.join(kind))))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("starting helm")?;
    if !output.status.success() {
        bail!(
            "helm upgrade --install: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// Makes the webhook configurations of an installed chart name another webhook.
pub(crate) async fn point_webhooks(user: &ControlPlane, webhook_url: &str, ca: &Ca) -> Result<()> {
    let ca_bundle = ByteString(ca.pem().into_bytes());
    let point = |config: &mut WebhookClientConfig| {
        let path = config.url.as_deref().and_then(|url| url.rsplit_once('/'));
        let (_, path) = path.context("a webhook configuration without a URL")?;
        config.url = Some(format!("{webhook_url}/{path}"));
        config.ca_bundle = Some(ca_bundle.clone());
        anyhow::Ok(())
    };
    let ours = ListParams::default().labels(&format!("app.kubernetes.io/instance={RELEASE}"));
    let params = PostParams::default();
    let mutating: Api<MutatingWebhookConfiguration> = Api::all(user.client());
    for mut found in mutating.list(&ours).await? {
        for webhook in found.webhooks.iter_mut().flatten() {
            point(&mut webhook.client_config)?;
        }
        mutating.replace(&found.name_any(), &params, &found).await?;
    }
    let validating: Api<ValidatingWebhookConfiguration> = Api::all(user.client());
    for mut found in validating.list(&ours).await? {
        for webhook in found.webhooks.iter_mut().flatten() {
            point(&mut webhook.client_config)?;
        }
        validating.replace(&found.name_any(), &params, &found).await?;
    }
    Ok(())
}
