//! Certificates of kubelets through the real signers of kube-controller-manager, whose own approver runs: valid requests are
//! issued, and forged ones are not.

mod approved;
mod cluster_state;
mod forged;
mod separate_approver;

use anyhow::Result;
use e2e::Case;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

/// The address of a Machine's VM on the infra cluster.
async fn address(case: &Case, machine: &str) -> Result<String> {
    let machine = case.machines().get(machine).await?;
    let status = serde_json::to_value(&machine.status)?;
    let address = status["addresses"][0]["address"].as_str();
    Ok(address.unwrap_or_default().to_owned())
}

/// Of all conditions.
fn reasons(request: &CertificateSigningRequest) -> Vec<&str> {
    let status = request.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .filter_map(|condition| condition.reason.as_deref())
        .collect()
}
