//! With cloud-provider-kubevirt, simulated by the test: it initializes the Node and sets its providerID. The Machine gets no
//! providerID, and both are linked nevertheless, until the deletion.

use anyhow::{Context as _, Result};
use e2e::{Case, case::WAIT_TIMEOUT, manifest, wait};
use k8s_openapi::api::core::v1::{Node, Taint};
use kube::{
    ResourceExt as _,
    api::{Patch, PatchParams},
};
use machinist_shared::api::Machine;
use serde_json::json;
use testbed::bed::Options;

const UNINITIALIZED: &str = "node.cloudprovider.kubernetes.io/uninitialized";

#[tokio::test]
async fn a_node_with_the_provider_id_of_the_ccm_is_linked() -> Result<()> {
    let both = || vec!["--node-external-cloud-provider=true".to_owned()];
    let case = Case::start_with(Options {
        webhook_args: both(),
        controller_args: both(),
        ..Options::default()
    })
    .await?;
    case.apply(&manifest::machine("managed")).await?;
    let node = wait::for_state(&case.nodes(), "managed", "registered", WAIT_TIMEOUT, |_| true).await?;
    let waiting: Vec<String> = taints(&node).into_iter().map(|taint| taint.key).collect();
    assert!(waiting.contains(&UNINITIALIZED.to_owned()), "{waiting:?}");
    assert!(waiting.contains(&"dedicated".to_owned()), "{waiting:?}");
    assert_eq!(provider_id(&node), None, "the kubelet must not say it");

    // As the CCM does: it sets the ID once, then it removes the taint.
    let left: Vec<Taint> = taints(&node)
        .into_iter()
        .filter(|taint| taint.key != UNINITIALIZED)
        .collect();
    let initialized = json!({"spec": {"providerID": "kubevirt://managed", "taints": left}});
    case.nodes()
        .patch("managed", &PatchParams::default(), &Patch::Merge(initialized))
        .await?;
    let machine = case.node_ready("managed").await?;
    case.settled().await;
    let machine: Machine = case.machines().get(&machine.name_any()).await?;
    assert_eq!(machine.spec.provider_id, None, "the Machine has none of its own");
    let node = case.nodes().get("managed").await?;
    assert_eq!(
        provider_id(&node).as_deref(),
        Some("kubevirt://managed"),
        "it is the CCM's"
    );
    let reference = machine
        .status
        .as_ref()
        .and_then(|status| status.node_ref.as_ref());
    assert_eq!(reference.context("no nodeRef")?.uid, node.uid());
    assert_eq!(node.labels()["pool"], "workers");

    case.delete_machine("managed").await?;
    case.finish(&[]).await
}

fn taints(node: &Node) -> Vec<Taint> {
    let spec = node.spec.clone().unwrap_or_default();
    spec.taints.unwrap_or_default()
}

fn provider_id(node: &Node) -> Option<String> {
    node.spec.clone()?.provider_id
}
