//! Approval depends on the state of the cluster at the time of the decision.

use anyhow::Result;
use e2e::{
    Case,
    case::WAIT_TIMEOUT,
    certificates::{self, Ask},
    manifest, wait,
};
use k8s_openapi::api::{
    certificates::v1::CertificateSigningRequest,
    core::v1::{Node, Secret},
    rbac::v1::{ClusterRole, PolicyRule},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;
use testbed::proxy::Request;

use super::address;

/// Requests that are valid when they are created and invalid when they are decided.
#[tokio::test]
async fn requests_that_became_invalid_before_the_decision_are_not_approved() -> Result<()> {
    let case = Case::start().await?;
    case.apply(&manifest::machine("denied")).await?;
    for name in ["expired", "deleted"] {
        let mut machine = manifest::machine(name);
        machine["metadata"]["annotations"] = json!({"sim.kubevirt.io/never-joins": "true"});
        case.apply(&machine).await?;
    }
    case.node_ready("denied").await?;
    case.condition("expired", "WaitingForNode").await?;
    case.condition("deleted", "WaitingForNode").await?;
    let own = address(&case, "denied").await?;
    let node = certificates::kubelet_of(&case, "denied").await?;
    let (expired, deleted) = (
        certificates::holder_of_token(&case, "expired").await?,
        certificates::holder_of_token(&case, "deleted").await?,
    );
    case.settled().await;
    case.bed.controller().terminate().await?;

    let denied = Ask::serving("denied", &own).post(&node).await?;
    case.bed
        .user()
        .kubectl_ok(&["certificate", "deny", &denied], "")
        .await?;
    let too_late = Ask::client("expired").post(&expired).await?;
    let token = certificates::token_of(&case, "expired").await?;
    let secrets = Api::<Secret>::namespaced(case.bed.user().client(), manifest::NAMESPACE);
    let past = json!({"stringData": {"expiration": "2020-01-01T00:00:00Z"}});
    secrets
        .patch(&token.name_any(), &PatchParams::default(), &Patch::Merge(past))
        .await?;
    let outlived = Ask::client("deleted").post(&deleted).await?;
    case.begin_deletion("deleted").await?;
    // The API server caches a token for ten seconds after it has expired.
    let later_still = Ask::client("expired").post(&expired).await.ok();

    case.bed.controller().start().await?;
    wait::for_absence(&case.machines(), "deleted", WAIT_TIMEOUT).await?;
    case.condition("expired", "BootstrapTokenExpired").await?;
    // Created after all of them.
    let sentinel = Ask::serving("denied", &own).post(&node).await?;
    certificates::issued(&case, &sentinel).await?;
    for name in [&denied, &too_late, &outlived].into_iter().chain(&later_still) {
        let request = certificates::requests(&case).get(name).await?;
        assert!(!certificates::is_approved(&request), "{name}: {request:?}");
        certificates::requests(&case)
            .delete(name, &DeleteParams::default())
            .await?;
    }
    for name in ["denied", "expired"] {
        case.delete_machine(name).await?;
    }
    case.finish(&[]).await
}

/// A kubelet can write any address into its own Node's status. That blocks no other node's certificate.
#[tokio::test]
async fn a_node_that_claims_the_address_of_a_vm_blocks_no_certificate() -> Result<()> {
    let case = Case::start().await?;
    for name in ["worker", "claimer"] {
        case.apply(&manifest::machine(name)).await?;
        case.node_ready(name).await?;
    }
    let own = address(&case, "worker").await?;
    node_with_address(&case, "cp-1", &own).await?;
    claim_address(&case, "claimer", &own).await?;
    let kubelet = certificates::kubelet_of(&case, "worker").await?;
    let request = Ask::serving("worker", &own).post(&kubelet).await?;
    certificates::issued(&case, &request).await?;
    for name in ["worker", "claimer"] {
        case.delete_machine(name).await?;
    }
    case.finish(&["Node/cp-1"]).await
}

/// A guest controls what its agent reports. That yields no certificate for the address of another Node.
#[tokio::test]
async fn no_certificate_is_issued_for_an_address_that_only_the_guest_agent_reports_and_another_node_has()
-> Result<()> {
    let case = Case::start().await?;
    let theirs = "10.200.0.7";
    let mut machine = manifest::machine("worker");
    machine["metadata"]["annotations"] = json!({"sim.kubevirt.io/agent-address": theirs});
    case.apply(&machine).await?;
    case.node_ready("worker").await?;
    node_with_address(&case, "cp-1", theirs).await?;
    let kubelet = certificates::kubelet_of(&case, "worker").await?;
    let request = Ask::serving("worker", theirs).post(&kubelet).await?;
    certificates::wait_for_event(&case, &request, "Node cp-1 has, too").await?;
    case.nodes().delete("cp-1", &DeleteParams::default()).await?;
    certificates::issued(&case, &request).await?;
    case.delete_machine("worker").await?;
    case.finish(&[]).await
}

async fn node_with_address(case: &Case, name: &str, address: &str) -> Result<()> {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    case.bed
        .user()
        .kubectl_ok(&["create", "-f", "-"], &node.to_string())
        .await?;
    claim_address(case, name, address).await
}

/// As its kubelet could write it.
async fn claim_address(case: &Case, node: &str, address: &str) -> Result<()> {
    let status = json!({"status": {"addresses": [{"type": "ExternalIP", "address": address}]}});
    Api::<Node>::all(case.bed.user().client())
        .patch_status(node, &PatchParams::default(), &Patch::Strategic(status))
        .await?;
    Ok(())
}

/// A guest agent can report any address, also one of Services.
#[tokio::test]
async fn no_certificate_is_issued_for_an_address_from_a_range_of_services() -> Result<()> {
    let case = Case::start().await?;
    case.bed.controller().terminate().await?;
    let range = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "vms"},
        "spec": {"cidrs": ["10.200.0.0/16"]}});
    case.bed
        .user()
        .kubectl_ok(&["create", "-f", "-"], &range.to_string())
        .await?;
    // The controller reads the ranges when it becomes the leader.
    case.bed.controller().start().await?;
    case.apply(&manifest::machine("worker")).await?;
    let message = case.condition("worker", "CertificateRefused").await?;
    assert!(
        message.contains("which the range of Services 10.200.0.0/16 has, too"),
        "{message}"
    );
    case.delete_machine("worker").await?;
    let of_node = |request: &CertificateSigningRequest| request.spec.signer_name == certificates::SERVING;
    for request in certificates::requests(&case).list(&ListParams::default()).await? {
        if of_node(&request) {
            assert!(!certificates::is_approved(&request), "{request:?}");
            certificates::requests(&case)
                .delete(&request.name_any(), &DeleteParams::default())
                .await?;
        }
    }
    case.finish(&[]).await
}

/// No event follows an approval that failed for the moment: the controller retries it.
#[tokio::test]
async fn a_client_request_whose_approval_failed_is_approved_as_soon_as_it_can_be() -> Result<()> {
    let case = Case::start().await?;
    let mut waiting = manifest::machine("waiting");
    waiting["metadata"]["annotations"] = json!({"sim.kubevirt.io/never-joins": "true"});
    case.apply(&waiting).await?;
    case.condition("waiting", "WaitingForNode").await?;
    let token = certificates::holder_of_token(&case, "waiting").await?;
    let roles = Api::<ClusterRole>::all(case.bed.user().client());
    let role = roles.get("machinist-controller").await?;
    let granting = |rules: &Option<Vec<PolicyRule>>| Patch::Merge(json!({"rules": rules}));
    let mut fewer = role.rules.clone();
    if let Some(rules) = &mut fewer {
        rules.retain(|rule| rule.verbs != ["approve"]);
    }
    let patch = PatchParams::default();
    roles
        .patch("machinist-controller", &patch, &granting(&fewer))
        .await?;

    // The API server learns of a change of rights by its own watch; until then, it allows the approval.
    let refused = loop {
        let name = Ask::client("waiting").post(&token).await?;
        let refusal = |request: &Request| {
            request.status == 403 && request.target.subresource == "approval" && request.target.name == name
        };
        tokio::select! {
            issued = certificates::issued(&case, &name) => drop(issued?),
            _ = case.bed.user().proxy().seen(refusal) => break name,
        }
    };
    roles
        .patch("machinist-controller", &patch, &granting(&role.rules))
        .await?;
    certificates::issued(&case, &refused).await?;
    case.delete_machine("waiting").await?;
    case.finish(&[]).await
}
