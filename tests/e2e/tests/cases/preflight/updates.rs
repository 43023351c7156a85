//! What is stored is never a reason to refuse an update, whatever became of the infra cluster since.

use anyhow::Result;
use e2e::{
    infra, manifest,
    preflight::{deployment, patch, start},
};
use serde_json::json;
use testbed::{bed::MACHINES, seed::INFRA_SECRET};

const CLOUD: &str = "spec.template.spec.providerSpec.value.cloudProviderSpec";

#[tokio::test]
async fn what_vanished_since_is_a_warning_and_what_is_new_is_refused() -> Result<()> {
    let case = start(&[]).await?;
    case.apply(&deployment("pool", &manifest::machine("pool")))
        .await?;
    let instancetype = "virtualmachineclusterinstancetypes.instancetype.kubevirt.io";
    case.bed
        .infra()
        .kubectl_ok(&["delete", instancetype, "standard-2"], "")
        .await?;
    // It would believe for a minute that it is there.
    case.bed.webhook().terminate().await?;
    case.bed.webhook().launch()?;
    case.bed.webhook().ready().await?;

    let newer = |kubelet: &str| json!({"spec": {"template": {"spec": {"versions": {"kubelet": kubelet}}}}});
    let (taken, said) = patch(&case, "pool", &newer("1.36.2")).await?;
    assert!(taken, "{said}");
    let told = format!("{CLOUD}.virtualMachine.instancetype.name: \"standard-2\": there is no");
    assert!(said.contains(&told), "{said}");

    let value = json!({"cloudProviderSpec": {"virtualMachine": {"instancetype": {"name": "standard-3"}}}});
    let change = json!({"spec": {"template": {"spec": {"providerSpec": {"value": value}}}}});
    let (taken, said) = patch(&case, "pool", &change).await?;
    assert!(!taken, "{said}");
    assert!(said.contains("\"standard-3\": there is no"), "{said}");

    // A credential that is not known any more is no reason either.
    let kubeconfig = infra::account(&case, "revoked", MACHINES).await?;
    infra::revoke(&case, "revoked", &kubeconfig).await?;
    infra::store(case.bed.user().client(), INFRA_SECRET, &kubeconfig).await?;
    let (taken, said) = patch(&case, "pool", &newer("1.36.1")).await?;
    assert!(taken, "{said}");
    assert!(said.contains("does not accept its credential"), "{said}");
    case.finish_without_controller(&[]).await
}
