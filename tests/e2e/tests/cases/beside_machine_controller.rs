//! Machinist installed while machine-controller runs: machine-controller holds the Lease, and Machinist's controller is the
//! standby. The webhook must serve nevertheless, or admission would fail.

use anyhow::Result;
use e2e::{Case, case::WAIT_TIMEOUT, wait};
use k8s_openapi::api::{
    admissionregistration::v1::ValidatingWebhookConfiguration, coordination::v1::Lease, core::v1::Secret,
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use testbed::{
    bed::{Options, SYSTEM_NAMESPACE},
    proxy::Request,
};

const AUTHORITY: &str = "machinist-webhook-ca";
const SERVING: &str = "machinist-webhook-cert";
const LEASE: &str = "machine-controller";
const STANDBY: &str = "standby";
const PEER: &str = "machine-controller-7d9c_0";

#[tokio::test]
async fn the_standby_creates_the_certificate_of_the_webhook() -> Result<()> {
    let case = Case::start_with(Options {
        boot: None,
        chart_values: json!({"webhook": {"url": "", "caBundle": ""}}),
        controller_args: vec![
            format!("--webhook-serving-secret={SYSTEM_NAMESPACE}/{SERVING}"),
            "--webhook-certificate-overlap=1s".to_owned(),
        ],
        ..Options::default()
    })
    .await?;
    case.bed.controller().terminate().await?;
    let client = case.bed.user().client();
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-system");
    let held = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": LEASE},
        "spec": {"holderIdentity": PEER, "leaseDurationSeconds": 3600},
    });
    let params = PatchParams::apply("machine-controller").force();
    leases.patch(LEASE, &params, &Patch::Apply(held)).await?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    for name in [AUTHORITY, SERVING] {
        match secrets.delete(name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            deleted => drop(deleted?),
        }
    }

    case.bed.controller().start().await?;
    let filled = |secret: &Secret| {
        secret
            .data
            .as_ref()
            .is_some_and(|data| data.contains_key("tls.key"))
    };
    wait::for_state(&secrets, SERVING, "made", WAIT_TIMEOUT, filled).await?;
    let authority = secrets.get(AUTHORITY).await?;
    let ca = authority.data.unwrap_or_default()["tls.crt"].clone();
    let configurations: Api<ValidatingWebhookConfiguration> = Api::all(client);
    wait::for_state(
        &configurations,
        "machinist",
        "trusting the new CA",
        WAIT_TIMEOUT,
        |found| {
            let mut webhooks = found.webhooks.iter().flatten();
            webhooks.all(|webhook| {
                let bundle = webhook.client_config.ca_bundle.as_ref();
                // Trusted beside the previous CA, as long as a replica may serve its certificate.
                bundle.is_some_and(|bundle| {
                    String::from_utf8_lossy(&bundle.0).contains(&*String::from_utf8_lossy(&ca.0))
                })
            })
        },
    )
    .await?;
    // A second standby waits for the Lease of the certificates as well.
    let standby = case.bed.new_controller(STANDBY, &[]).await?;
    standby.start().await?;
    let watches = |request: &Request| {
        let target = &request.target;
        let what = (target.verb, target.resource.as_str(), target.namespace.as_str());
        request.client == STANDBY && what == ("watch", "leases", SYSTEM_NAMESPACE)
    };
    let seen = case.bed.user().proxy().seen(watches);
    tokio::time::timeout(WAIT_TIMEOUT, seen).await?;
    standby.terminate().await?;
    let holder = leases
        .get(LEASE)
        .await?
        .spec
        .and_then(|spec| spec.holder_identity);
    assert_eq!(holder.as_deref(), Some(PEER), "it does not lead");
    case.finish(&[]).await
}
