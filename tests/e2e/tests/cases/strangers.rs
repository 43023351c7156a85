//! What is not the Machine's is left alone, and said so.

use anyhow::Result;
use e2e::{Case, manifest};
use serde_json::json;

#[tokio::test]
async fn a_strangers_vm_and_disk_of_the_machines_name_are_untouched_and_reported() -> Result<()> {
    let case = Case::start().await?;
    let infra = case.bed.infra();
    let create = ["create", "--namespace", "machinist-infra", "-f", "-"];
    let vm = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "taken-vm"},
        "spec": {"runStrategy": "Halted", "template": {"spec": {"domain": {"devices": {}, "memory": {"guest": "1Gi"}}}}},
    });
    let disk = json!({
        "apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataVolume", "metadata": {"name": "taken-disk"},
        "spec": {"source": {"blank": {}}, "storage": {"storageClassName": "standard", "resources": {"requests": {"storage": "1Gi"}}}},
    });
    infra.kubectl_ok(&create, &vm.to_string()).await?;
    infra.kubectl_ok(&create, &disk.to_string()).await?;
    let vm_before = case.vms().get("taken-vm").await?;
    let disk_before = case.data_volumes().get("taken-disk").await?;

    for (name, reason) in [("taken-vm", "VMNameTaken"), ("taken-disk", "DiskNameTaken")] {
        // Refused at once or reported in the status: either way the person learns the name.
        let output = case
            .bed
            .user()
            .kubectl(&["apply", "-f", "-"], &manifest::machine(name).to_string())
            .await?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(said.contains(name), "{said}");
            continue;
        }
        let said = case.condition(name, reason).await?;
        assert!(said.contains(name), "{said}");
        case.delete_machine(name).await?;
    }

    let vm_after = case.vms().get("taken-vm").await?;
    assert_eq!(vm_after.metadata.uid, vm_before.metadata.uid);
    assert_eq!(
        (&vm_after.metadata.labels, &vm_after.data["spec"]),
        (&vm_before.metadata.labels, &vm_before.data["spec"])
    );
    let disk_after = case.data_volumes().get("taken-disk").await?;
    assert_eq!(disk_after.metadata.uid, disk_before.metadata.uid);
    assert_eq!(disk_after.metadata.owner_references, None, "nobody adopted it");
    let mut strangers = vec!["VirtualMachine/taken-vm", "DataVolume/taken-disk"];
    let claims = e2e::leaks::leftovers(&case.bed).await?;
    strangers.extend(
        claims
            .iter()
            .map(String::as_str)
            .filter(|name| name.starts_with("PersistentVolumeClaim/")),
    );
    case.finish(&strangers).await
}

#[tokio::test]
async fn a_machine_named_like_a_foreign_node_gets_no_vm_and_no_certificate() -> Result<()> {
    let case = Case::start().await?;
    let node =
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "cp-1", "labels": {"mine": "yes"}}});
    case.bed
        .user()
        .kubectl_ok(&["create", "-f", "-"], &node.to_string())
        .await?;
    let before = case.nodes().get("cp-1").await?;

    let said = case.refused(&manifest::machine("cp-1")).await?;
    assert!(said.contains("cp-1"), "{said}");

    // Had it slipped past admission (a webhook that was off), the controller would not touch the Node either.
    let server = ["validatingwebhookconfiguration", "mutatingwebhookconfiguration"];
    for kind in server {
        case.bed.user().kubectl_ok(&["delete", kind, "--all"], "").await?;
    }
    case.apply(&manifest::machine("cp-1")).await?;
    case.condition("cp-1", "NodeNameTaken").await?;
    // A nodeRef that somebody wrote proves nothing.
    let forged = json!({"status": {"nodeRef": {"kind": "Node", "name": "cp-1", "uid": before.metadata.uid}}});
    as_the_peer(&case, "cp-1", &forged).await?;
    case.settled().await;
    assert_eq!(case.lives.uids("cp-1"), Vec::<String>::new(), "no VM was made");
    case.delete_machine("cp-1").await?;
    let after = case.nodes().get("cp-1").await?;
    assert_eq!(
        (after.metadata.uid, after.metadata.labels),
        (before.metadata.uid, before.metadata.labels)
    );
    case.finish(&["Node/cp-1"]).await
}

#[tokio::test]
async fn a_node_ref_written_by_hand_takes_no_node_along() -> Result<()> {
    let case = Case::start().await?;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "cp-1"}});
    case.bed
        .user()
        .kubectl_ok(&["create", "-f", "-"], &node.to_string())
        .await?;
    let before = case.nodes().get("cp-1").await?;
    let mut machine = manifest::machine("forger");
    machine["metadata"]["annotations"] = json!({"sim.kubevirt.io/never-joins": "true"});
    case.apply(&machine).await?;
    case.condition("forger", "WaitingForNode").await?;

    // By someone whom the policy lets, machine-controller before a cluster moved over.
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

/// Patches a Machine as somebody whom the policy lets.
async fn as_the_peer(case: &Case, machine: &str, patch: &serde_json::Value) -> Result<()> {
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
