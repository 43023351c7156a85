//! A Machine that cannot be decoded, because it was stored without the webhook, does not block other Machines and can be
//! deleted.

use anyhow::Result;
use e2e::{Case, case::WAIT_TIMEOUT, manifest, wait};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

#[tokio::test]
async fn it_blocks_no_other_machine_and_can_be_deleted() -> Result<()> {
    let case = Case::start().await?;
    without_webhooks(&case).await?;
    let specs = [
        json!({"providerSpec": {"value": {"nonsense": true}}}),
        json!({"providerSpec": {"value": {"cloudProvider": "kubevirt", "cloudProviderSpec": ["nonsense"]}}}),
        json!({"providerSpec": {"value": {"cloudProvider": 5, "operatingSystem": {}, "cloudProviderSpec": {}}}}),
        json!({"versions": {"kubelet": "1.36.3"}}),
        Value::Null,
    ];
    let mut broken = Vec::new();
    for (index, spec) in specs.into_iter().enumerate() {
        let name = format!("broken-{index}");
        case.apply(&json!({
            "apiVersion": "cluster.k8s.io/v1alpha1", "kind": "Machine",
            "metadata": {"name": name, "namespace": manifest::NAMESPACE}, "spec": spec,
        }))
        .await?;
        broken.push(name);
    }
    for name in &broken {
        case.condition(name, "InvalidSpec").await?;
    }

    // Other Machines continue, also after a restart.
    case.bed.controller().terminate().await?;
    case.bed.controller().start().await?;
    case.apply(&manifest::machine("sound")).await?;
    case.node_ready("sound").await?;
    for name in &broken {
        assert_eq!(case.vm_history.uids(name), Vec::<String>::new());
        case.delete_machine(name).await?;
    }

    case.delete_machine("sound").await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn one_with_a_recorded_vm_is_removed_after_its_vm() -> Result<()> {
    let case = Case::start().await?;
    case.apply(&manifest::machine("spoiled")).await?;
    case.node_ready("spoiled").await?;
    without_webhooks(&case).await?;
    let nonsense =
        json!({"spec": {"providerSpec": {"value": {"cloudProvider": 5, "cloudProviderSpec": []}}}});
    case.machines()
        .patch("spoiled", &PatchParams::default(), &Patch::Merge(nonsense))
        .await?;
    case.condition("spoiled", "InvalidSpec").await?;
    assert!(case.vms().get_opt("spoiled").await?.is_some(), "its VM runs on");

    case.begin_deletion("spoiled").await?;
    wait::for_absence(&case.machines(), "spoiled", WAIT_TIMEOUT).await?;
    assert!(
        case.vms().get_opt("spoiled").await?.is_none(),
        "the VM went first"
    );
    assert!(
        case.nodes().get_opt("spoiled").await?.is_none(),
        "and so did the Node"
    );
    case.finish(&[]).await
}

async fn without_webhooks(case: &Case) -> Result<()> {
    for kind in ["validatingwebhookconfigurations", "mutatingwebhookconfigurations"] {
        case.bed
            .user()
            .kubectl_ok(&["delete", kind, "machinist"], "")
            .await?;
    }
    Ok(())
}
