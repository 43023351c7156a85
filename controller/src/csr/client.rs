//! Decides whether a bootstrapping kubelet gets its first client certificate.
//!
//! Kubernetes cannot bind a bootstrap token to a node name: its own approver signs any name for the one that holds one. So
//! every rule that ties a request to the one Machine whose token asked for it is here. Nothing is ever denied: a request
//! that does not satisfy us may be another approver's to approve.

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use machinist_shared::api::names;

use super::Verdict;
use super::request::{self, check_expiration, check_usages, is_decided};
use crate::bootstrap::token::{TokenId, TokenView};
pub use crate::cache::TOKEN_USER;

/// The signer of kubelets' client certificates.
pub use crate::cache::CLIENT_SIGNER as SIGNER;
/// Reason of the condition that approves.
pub const REASON: &str = "MachinistApproved";

/// All that a judgement needs.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// The request.
    pub request: &'a CertificateSigningRequest,
    /// The token whose ID [`token_id`] names, if it is bound to a Machine.
    pub token: Option<Binding<'a>>,
    /// The Machine whose UID the token carries, if it exists.
    pub machine: Option<MachineFacts<'a>>,
    /// The time.
    pub now: Timestamp,
}

/// What binds a token to a Machine.
#[derive(Debug, Clone, Copy)]
pub enum Binding<'a> {
    /// Its Secret, which is there and ours.
    Secret(&'a TokenView),
    /// The record of the Machine of that UID, which has the ID of the token in its VM's user data. Nothing else is known of the
    /// token by a process that may not read Secrets; the API server found it valid when the request was made.
    Record {
        /// The token's ID.
        id: &'a str,
        /// The Machine's UID.
        machine_uid: &'a str,
    },
}

impl Binding<'_> {
    fn id(&self) -> &str {
        match self {
            Self::Secret(token) => token.id.as_str(),
            Self::Record { id, .. } => id,
        }
    }

    fn machine_uid(&self) -> &str {
        match self {
            Self::Secret(token) => &token.machine_uid,
            Self::Record { machine_uid, .. } => machine_uid,
        }
    }
}

/// What counts of the Machine.
#[derive(Debug, Clone, Copy)]
pub struct MachineFacts<'a> {
    /// Its name, which is its node's name.
    pub name: &'a str,
    /// Its UID.
    pub uid: &'a str,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether its node has joined: there is no first certificate after that.
    pub joined: bool,
    /// Whether a Node of its name exists that is not its own.
    pub node_is_foreign: bool,
}

/// ID of the token of ours that the request came with, if it did and it is not decided.
pub fn token_id(request: &CertificateSigningRequest) -> Option<TokenId> {
    let spec = &request.spec;
    let groups = spec.groups.as_deref().unwrap_or_default();
    let ours = spec.signer_name == SIGNER && groups.iter().any(|group| group == names::TOKEN_GROUP);
    if !ours || is_decided(request) {
        return None;
    }
    spec.username
        .as_deref()?
        .strip_prefix(TOKEN_USER)
        .and_then(TokenId::parse)
}

/// Judges by every rule; the first that is not satisfied is the answer.
pub fn judge(case: &Case<'_>) -> Verdict {
    let Some(id) = token_id(case.request) else {
        return Verdict::NotOurs;
    };
    match check(case, &id) {
        Ok(()) => Verdict::Approve,
        Err(reason) => Verdict::Refused(reason),
    }
}

/// The request with its approval, to be put to the `approval` subresource.
pub fn approval(request: &CertificateSigningRequest) -> CertificateSigningRequest {
    // A request that was judged can be read, and the node is the Machine.
    let machine = request::read(request)
        .map(|wanted| wanted.node)
        .unwrap_or_default();
    request::approval(
        request,
        REASON,
        format!(
            "first client certificate of the node of Machine {machine}, asked for with its own bootstrap token"
        ),
    )
}

fn check(case: &Case<'_>, id: &TokenId) -> Result<(), String> {
    let Some(token) = case.token.filter(|token| token.id() == id.as_str()) else {
        return Err(format!(
            "bootstrap token {id} does not exist or is not bound to a Machine"
        ));
    };
    if let Binding::Secret(token) = token
        && token.expiration <= case.now
    {
        return Err(format!("bootstrap token {id} expired at {}", token.expiration));
    }
    let Some(machine) = case.machine.filter(|machine| machine.uid == token.machine_uid()) else {
        return Err(format!(
            "there is no Machine with UID {}, to which bootstrap token {id} is bound",
            token.machine_uid()
        ));
    };
    check_machine(&machine)?;
    if let Binding::Secret(token) = token {
        // Both to the second. An older one was made with an earlier token of the same ID.
        match &case.request.metadata.creation_timestamp {
            Some(created) if created.0 >= token.created => {}
            _ => return Err(format!("it is older than bootstrap token {id}")),
        }
    }
    let spec = &case.request.spec;
    check_usages(
        spec.usages.as_deref().unwrap_or_default(),
        "client auth",
        "a kubelet's client certificate",
    )?;
    check_expiration(spec.expiration_seconds)?;
    let wanted = request::read(case.request)?;
    if wanted.has_names {
        return Err(
            "its request has the extension 2.5.29.17: a client certificate has no other names".to_owned(),
        );
    }
    if wanted.node != machine.name {
        return Err(format!(
            "it asks for node {}, but bootstrap token {id} is bound to Machine {}",
            request::shown(&wanted.node),
            machine.name
        ));
    }
    Ok(())
}

fn check_machine(machine: &MachineFacts<'_>) -> Result<(), String> {
    let name = machine.name;
    if machine.deleting {
        Err(format!("Machine {name} is being deleted"))
    } else if machine.joined {
        Err(format!("the node of Machine {name} has joined already"))
    } else if machine.node_is_foreign {
        Err(format!(
            "Node {name} exists and does not belong to Machine {name}"
        ))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
