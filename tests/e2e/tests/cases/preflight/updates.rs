//! An update is never refused because of what is stored, whatever changed on the infra cluster since.

use anyhow::Result;
use e2e::{
    infra, manifest,
    preflight::{deployment, patch, start},
};
use serde_json::json;
use testbed::{bed::MACHINES, seed::INFRA_SECRET};

const CLOUD: &str = "spec.template.spec.providerSpec.value.cloudProviderSpec";

#[tokio::test]
async fn a_deleted_reference_is_a_warning_and_a_new_missing_one_is_refused() -> Result<()> {
    let case = start(&[]).await?;
    case.apply(&deployment("pool", &manifest::machine("pool")))
        .await?;
    let instancetype = "virtualmachineclusterinstancetypes.instancetype.kubevirt.io";
    case.bed
        .infra()
        .kubectl_ok(&["delete", instancetype, "standard-2"], "")
        .await?;
    // A restart clears its cache, which would have the instancetype for another minute.
    case.bed.webhook().terminate().await?;
    case.bed.webhook().launch()?;
    case.bed.webhook().ready().await?;

    let newer = |kubelet: &str| json!({"spec": {"template": {"spec": {"versions": {"kubelet": kubelet}}}}});
    let (taken, said) = patch(&case, "pool", &newer("1.36.2")).await?;
    assert!(taken, "{said}");
    let warning = format!("{CLOUD}.virtualMachine.instancetype.name: \"standard-2\": there is no");
    assert!(said.contains(&warning), "{said}");

    let value = json!({"cloudProviderSpec": {"virtualMachine": {"instancetype": {"name": "standard-3"}}}});
    let change = json!({"spec": {"template": {"spec": {"providerSpec": {"value": value}}}}});
    let (taken, said) = patch(&case, "pool", &change).await?;
    assert!(!taken, "{said}");
    assert!(said.contains("\"standard-3\": there is no"), "{said}");

    // Nor is an update refused because the credential was revoked.
    let kubeconfig = infra::account(&case, "revoked", MACHINES).await?;
    infra::revoke(&case, "revoked", &kubeconfig).await?;
    infra::store(case.bed.user().client(), INFRA_SECRET, &kubeconfig).await?;
    let (taken, said) = patch(&case, "pool", &newer("1.36.1")).await?;
    assert!(taken, "{said}");
    assert!(said.contains("does not accept its credential"), "{said}");
    case.finish_without_controller(&[]).await
}
