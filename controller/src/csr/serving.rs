//! Decides whether a kubelet gets the certificate that it serves with.
//!
//! The signer is the cluster's, so a certificate for a name or an address that is not the node's own would let that node
//! pass for another, or for the API server. So every name in it must be the node's, and every address one that the infra
//! cluster shows on the VM's own interfaces: not what the Machine's status says, which the one that may update Machines can
//! write, nor what the kubelet says of itself. The guest agent, which speaks for addresses of interfaces on networks
//! without an address management of their own, is in the guest's hand, too; so an address that anybody else is known to
//! have is no one's.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

use super::Verdict;
use super::request::{self, NODE_USER, NODES, Requested, check_expiration, check_usages, is_decided, shown};
pub use super::san_check::Contested;
use super::san_check::{check_addresses, check_dns_names};

/// The signer of kubelets' serving certificates.
pub const SIGNER: &str = "kubernetes.io/kubelet-serving";
/// Reason of the condition that approves.
pub const REASON: &str = "MachinistApproved";

/// All that a judgement needs.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// The request.
    pub request: &'a CertificateSigningRequest,
    /// Name of the Machine, which is its node's name.
    pub machine: &'a str,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// The Node of its name.
    pub node: &'a NodeState,
    /// What the infra cluster shows of the VM.
    pub vm: &'a VmState<'a>,
}

/// The Node of the Machine's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeState {
    /// It has not registered, or is gone.
    Absent,
    /// It is not the Machine's; why.
    Foreign(String),
    /// It is the Machine's, and its UID is recorded.
    Linked,
}

/// What the infra cluster shows of the VM.
#[derive(Debug, Clone)]
pub enum VmState<'a> {
    /// It cannot be seen; why.
    Unseen(&'a str),
    /// Addresses of its own interfaces, and which of them others have, too.
    Seen {
        /// As KubeVirt writes them.
        addresses: &'a [String],
        /// Who else has them.
        address_conflicts: &'a [Contested],
    },
}

/// The node whose serving certificate is asked for, if anybody of that kind asks and it is not decided.
pub fn node(request: &CertificateSigningRequest) -> Option<&str> {
    let spec = &request.spec;
    if spec.signer_name != SIGNER || is_decided(request) {
        return None;
    }
    let node = spec.username.as_deref()?.strip_prefix(NODE_USER)?;
    (!node.is_empty()).then_some(node)
}

/// Judges by every rule; the first that is not satisfied is the answer. What the request itself is wrong in comes before
/// what may still change.
pub fn judge(case: &Case<'_>) -> Verdict {
    if node(case.request) != Some(case.machine) {
        return Verdict::NotOurs;
    }
    let wanted = match content(case) {
        Ok(wanted) => wanted,
        Err(reason) => return Verdict::Refused(reason),
    };
    let name = case.machine;
    if case.deleting {
        return Verdict::Refused(format!("Machine {name} is being deleted"));
    }
    match case.node {
        NodeState::Absent => return Verdict::Waiting(format!("Node {name} has not registered")),
        NodeState::Foreign(why) => {
            return Verdict::Refused(format!("Node {name} does not belong to Machine {name}: {why}"));
        }
        NodeState::Linked => {}
    }
    match case.vm {
        VmState::Unseen(why) => Verdict::Waiting(format!("the VM's addresses cannot be seen: {why}")),
        VmState::Seen {
            addresses,
            address_conflicts,
        } => check_addresses(&wanted, addresses, address_conflicts),
    }
}

/// The request with its approval, to be put to the `approval` subresource.
pub fn approval(request: &CertificateSigningRequest) -> CertificateSigningRequest {
    let machine = node(request).unwrap_or_default();
    request::approval(
        request,
        REASON,
        format!(
            "serving certificate of the node of Machine {machine}, for its own name and its VM's own addresses"
        ),
    )
}

/// The rules that depend on nothing but the request.
fn content(case: &Case<'_>) -> Result<Requested, String> {
    let spec = &case.request.spec;
    let groups = spec.groups.as_deref().unwrap_or_default();
    for group in [NODES, "system:authenticated"] {
        if !groups.iter().any(|has| has == group) {
            return Err(format!("its requester is not in the group {group}"));
        }
    }
    check_usages(
        spec.usages.as_deref().unwrap_or_default(),
        "server auth",
        "a kubelet's serving certificate",
    )?;
    check_expiration(spec.expiration_seconds)?;
    let wanted = request::read(case.request)?;
    if wanted.node != case.machine {
        return Err(format!(
            "its common name is that of node {}, but node {} asks",
            shown(&wanted.node),
            case.machine
        ));
    }
    check_dns_names(&wanted, case.machine)?;
    Ok(wanted)
}

#[cfg(test)]
mod tests;
