//! Working Nodes keep working, with valid certificates, whatever is wrong with their Machine, and while it is paused.

use anyhow::Result;
use e2e::{
    Case,
    case::WAIT_TIMEOUT,
    certificates::{self, Ask},
    infra, manifest,
    manifest::NAMESPACE,
    wait,
};
use k8s_openapi::api::core::v1::Node;
use kube::{Client, ResourceExt as _};
use machinist_shared::api::{
    Machine,
    names::{annotation, condition, label},
};
use serde_json::json;

#[tokio::test]
async fn a_node_that_rejects_a_label_is_linked_and_gets_certificates() -> Result<()> {
    let case = Case::start().await?;
    let mut machine = manifest::machine("worker");
    machine["spec"]["metadata"] = json!({"labels": {"team": "a b", "rack": "1"}});
    // Admission refuses it from all users but the controller, whose sets may have such a template from before.
    let controller = "system:serviceaccount:machinist-system:machinist-controller";
    let create = [
        "create",
        "-f",
        "-",
        "--as",
        controller,
        "--as-group=system:masters",
    ];
    case.bed.user().kubectl_ok(&create, &machine.to_string()).await?;
    let message = case.condition("worker", "DecorationFailed").await?;
    assert!(message.contains("a b"), "{message}");
    let linked = |machine: &Machine| {
        let phase = machine.status.as_ref().and_then(|status| status.phase.clone());
        node_of(machine).is_some() && phase.as_deref() == Some("Running")
    };
    let found = wait::for_state(
        &case.machines(),
        "worker",
        "linked and Running",
        WAIT_TIMEOUT,
        linked,
    )
    .await?;
    assert_eq!(node_of(&found), case.nodes().get("worker").await?.uid());
    serves(&case, "worker").await?;
    assert!(certificates::tokens(&case).await?.is_empty(), "its token is gone");
    case.delete_machine("worker").await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_joined_machine_without_its_secret_gets_certificates() -> Result<()> {
    let case = Case::start().await?;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "names", "namespace": NAMESPACE},
        "stringData": {"project": "p1"},
    });
    case.apply(&secret).await?;
    let mut machine = manifest::machine("worker");
    machine["spec"]["providerSpec"]["value"]["cloudProviderSpec"]["projectID"] =
        json!({"secretKeyRef": {"namespace": NAMESPACE, "name": "names", "key": "project"}});
    case.apply(&machine).await?;
    case.node_ready("worker").await?;
    let delete = ["delete", "secret", "names", "--namespace", NAMESPACE];
    case.bed.user().kubectl_ok(&delete, "").await?;
    case.condition("worker", "ReferenceNotFound").await?;
    serves(&case, "worker").await?;
    let now = case.machines().get("worker").await?;
    let status = now.status.clone().unwrap_or_default();
    assert_eq!(
        (status.error_reason, status.phase.as_deref()),
        (None, Some("Running"))
    );
    assert_eq!(infra::condition_of(&now, condition::NODE_READY).status, "True");
    case.delete_machine("worker").await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_paused_machine_gets_certificates_and_is_not_reconciled_otherwise() -> Result<()> {
    let case = Case::start().await?;
    case.apply(&manifest::machine("worker")).await?;
    case.node_ready("worker").await?;
    let user = case.bed.user();
    let machine = ["machine", "worker", "--namespace", NAMESPACE];
    let (paused, resumed) = (
        format!("{}=by-hand", annotation::INITIALIZERS),
        format!("{}-", annotation::INITIALIZERS),
    );
    user.kubectl_ok(&[&["annotate"], &machine[..], &[&paused]].concat(), "")
        .await?;
    let unlabel = format!("{}-", label::OWNED_BY);
    user.kubectl_ok(&["label", "node", "worker", &unlabel], "")
        .await?;
    serves(&case, "worker").await?;
    let is_owned = |node: &Node| node.labels().contains_key(label::OWNED_BY);
    assert!(
        !is_owned(&case.nodes().get("worker").await?),
        "nothing else was done"
    );

    user.kubectl_ok(&[&["annotate"], &machine[..], &[&resumed]].concat(), "")
        .await?;
    wait::for_state(&case.nodes(), "worker", "labeled again", WAIT_TIMEOUT, is_owned).await?;
    case.delete_machine("worker").await?;
    case.finish(&[]).await
}

/// Requests a certificate of the node's own address, and waits until it is issued.
async fn serves(case: &Case, name: &str) -> Result<()> {
    let machine = case.machines().get(name).await?;
    let addresses = machine
        .status
        .and_then(|status| status.addresses)
        .unwrap_or_default();
    let kubelet: Client = certificates::kubelet_of(case, name).await?;
    let request = Ask::serving(name, &addresses[0].address).post(&kubelet).await?;
    certificates::issued(case, &request).await?;
    Ok(())
}

fn node_of(machine: &Machine) -> Option<String> {
    machine.status.as_ref()?.node_ref.as_ref()?.uid.clone()
}
