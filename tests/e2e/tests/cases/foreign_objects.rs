//! Objects that do not belong to the Machine stay unchanged and are reported.

use anyhow::Result;
use e2e::{Case, manifest};
use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};
use testbed::seed::INFRA_NAMESPACE;

#[tokio::test]
async fn a_foreign_vm_of_the_machines_name_is_untouched_and_reported() -> Result<()> {
    let case = Case::start().await?;
    let vm = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "taken-vm"},
        "spec": {"runStrategy": "Halted", "template": {"spec": {"domain": {"devices": {}, "memory": {"guest": "1Gi"}}}}},
    });
    create_on_infra(&case, &vm).await?;
    let before = case.vms().get("taken-vm").await?;
    is_reported(&case, "taken-vm", "VMNameTaken").await?;
    let after = case.vms().get("taken-vm").await?;
    assert_eq!(after.metadata.uid, before.metadata.uid);
    assert_eq!(
        (&after.metadata.labels, &after.data["spec"]),
        (&before.metadata.labels, &before.data["spec"])
    );
    case.finish(&["VirtualMachine/taken-vm"]).await
}

#[tokio::test]
async fn a_foreign_disk_of_the_machines_name_is_untouched_and_reported() -> Result<()> {
    let case = Case::start().await?;
    let disk = json!({
        "apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataVolume", "metadata": {"name": "taken-disk"},
        "spec": {"source": {"blank": {}}, "storage": {"storageClassName": "standard", "resources": {"requests": {"storage": "1Gi"}}}},
    });
    create_on_infra(&case, &disk).await?;
    let before = case.data_volumes().get("taken-disk").await?;
    is_reported(&case, "taken-disk", "DiskNameTaken").await?;
    let after = case.data_volumes().get("taken-disk").await?;
    assert_eq!(after.metadata.uid, before.metadata.uid);
    assert_eq!(after.metadata.owner_references, None, "it was adopted");
    let mut foreign = vec!["DataVolume/taken-disk"];
    let claims = e2e::leaks::leftovers(&case.bed).await?;
    foreign.extend(
        claims
            .iter()
            .map(String::as_str)
            .filter(|name| name.starts_with("PersistentVolumeClaim/")),
    );
    case.finish(&foreign).await
}

async fn create_on_infra(case: &Case, object: &Value) -> Result<()> {
    let create = ["create", "--namespace", INFRA_NAMESPACE, "-f", "-"];
    case.bed.infra().kubectl_ok(&create, &object.to_string()).await?;
    Ok(())
}

/// Applies a Machine of that name: it is refused at once or the problem is in its status. Either way the message contains
/// the name.
async fn is_reported(case: &Case, name: &str, reason: &str) -> Result<()> {
    let output = case
        .bed
        .user()
        .kubectl(&["apply", "-f", "-"], &manifest::machine(name).to_string())
        .await?;
    if !output.status.success() {
        let refusal = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(refusal.contains(name), "{refusal}");
        return Ok(());
    }
    let message = case.condition(name, reason).await?;
    assert!(message.contains(name), "{message}");
    case.delete_machine(name).await
}

#[tokio::test]
async fn a_machine_named_like_a_foreign_node_is_refused() -> Result<()> {
    let case = Case::start().await?;
    let before = foreign_node(&case).await?;
    let refusal = case.refused(&manifest::machine("cp-1")).await?;
    assert!(refusal.contains("cp-1"), "{refusal}");
    let after = case.nodes().get("cp-1").await?;
    assert_eq!(
        (after.metadata.uid, after.metadata.labels),
        (before.metadata.uid, before.metadata.labels)
    );
    case.finish(&["Node/cp-1"]).await
}

/// Such a Machine can exist if the webhook did not run.
#[tokio::test]
async fn a_machine_named_like_a_foreign_node_gets_no_vm_and_no_certificate() -> Result<()> {
    let case = Case::start().await?;
    let before = foreign_node(&case).await?;
    for kind in ["validatingwebhookconfiguration", "mutatingwebhookconfiguration"] {
        case.bed.user().kubectl_ok(&["delete", kind, "--all"], "").await?;
    }
    case.apply(&manifest::machine("cp-1")).await?;
    case.condition("cp-1", "NodeNameTaken").await?;
    // A nodeRef that another client wrote does not prove ownership.
    let forged = json!({"status": {"nodeRef": {"kind": "Node", "name": "cp-1", "uid": before.metadata.uid}}});
    as_the_peer(&case, "cp-1", &forged).await?;
    case.settled().await;
    assert_eq!(
        case.vm_history.uids("cp-1"),
        Vec::<String>::new(),
        "no VM was made"
    );
    case.delete_machine("cp-1").await?;
    let after = case.nodes().get("cp-1").await?;
    assert_eq!(
        (after.metadata.uid, after.metadata.labels),
        (before.metadata.uid, before.metadata.labels)
    );
    case.finish(&["Node/cp-1"]).await
}

#[tokio::test]
async fn a_node_ref_of_another_client_does_not_delete_the_node() -> Result<()> {
    let case = Case::start().await?;
    let before = foreign_node(&case).await?;
    let mut machine = manifest::machine("forger");
    machine["metadata"]["annotations"] = json!({"sim.kubevirt.io/never-joins": "true"});
    case.apply(&machine).await?;
    case.condition("forger", "WaitingForNode").await?;

    // By a client that the policy allows to: machine-controller, before the adoption of a cluster.
    let forged = json!({"status": {"nodeRef": {"kind": "Node", "name": "cp-1", "uid": before.metadata.uid}}});
    as_the_peer(&case, "forger", &forged).await?;
    case.settled().await;
    case.delete_machine("forger").await?;
    let after = case.nodes().get("cp-1").await?;
    assert_eq!(
        (
            after.metadata.uid,
            after.metadata.labels,
            after.metadata.annotations
        ),
        (
            before.metadata.uid,
            before.metadata.labels,
            before.metadata.annotations
        )
    );
    case.finish(&["Node/cp-1"]).await
}

/// Creates a foreign Node, and returns it as stored.
async fn foreign_node(case: &Case) -> Result<Node> {
    let node =
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "cp-1", "labels": {"mine": "yes"}}});
    case.bed
        .user()
        .kubectl_ok(&["create", "-f", "-"], &node.to_string())
        .await?;
    Ok(case.nodes().get("cp-1").await?)
}

/// Patches a Machine as a client that the policy allows to.
async fn as_the_peer(case: &Case, machine: &str, patch: &Value) -> Result<()> {
    let patch = patch.to_string();
    let args = [
        "patch",
        "machine",
        machine,
        "--namespace",
        manifest::NAMESPACE,
        "--type=merge",
        "--as=system:serviceaccount:kube-system:machine-controller",
        "--as-group=system:masters",
        "--patch",
        &patch,
    ];
    case.bed.user().kubectl_ok(&args, "").await?;
    Ok(())
}
