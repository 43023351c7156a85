//! Decides whether a bootstrapping kubelet gets its first client certificate.
//!
//! Kubernetes cannot bind a bootstrap token to a node name: its own approver signs any name for whoever holds one. So
//! every rule that ties a request to the one Machine whose token asked for it is here. Nothing is ever denied: a request
//! that does not satisfy us may be somebody else's to approve.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
};
use machinist_shared::names;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::oid_registry::{OID_X509_COMMON_NAME, OID_X509_EXT_KEY_USAGE, OID_X509_ORGANIZATION_NAME};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Name;

use crate::bootstrap::token::{TokenId, TokenView};

/// The signer of kubelets' client certificates.
pub const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Reason of the condition that approves.
pub const REASON: &str = "MachinistApproved";

/// The API server prepends this to a bootstrap token's ID.
const TOKEN_USER: &str = "system:bootstrap:";
const NODE_USER: &str = "system:node:";
const NODES: &str = "system:nodes";

/// All that a judgement needs.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// The request.
    pub request: &'a CertificateSigningRequest,
    /// The token whose ID [`token_id`] names, if it is there and ours.
    pub token: Option<&'a TokenView>,
    /// The Machine whose UID the token carries, if it exists.
    pub machine: Option<MachineFacts<'a>>,
    /// The time.
    pub now: Timestamp,
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
    pub node_is_stranger: bool,
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It satisfies every rule.
    Approve,
    /// It did not come with a token of ours, or it is decided already.
    NotOurs,
    /// It came with a token of ours and does not satisfy this rule, perhaps not yet.
    Undecided(String),
}

/// ID of the token of ours that the request came with, if it did and nobody has decided it.
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
        Err(reason) => Verdict::Undecided(reason),
    }
}

/// The request with its approval, to be put to the `approval` subresource.
pub fn approval(request: &CertificateSigningRequest) -> CertificateSigningRequest {
    let mut approved = request.clone();
    // A request that was judged has such a name, and it is the Machine's.
    let machine = requested_node(request).unwrap_or_default();
    let status = approved
        .status
        .get_or_insert_with(CertificateSigningRequestStatus::default);
    status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
        type_: "Approved".to_owned(),
        status: "True".to_owned(),
        reason: Some(REASON.to_owned()),
        message: Some(format!("first client certificate of the node of Machine {machine}, asked for with its own bootstrap token")),
        ..CertificateSigningRequestCondition::default()
    });
    approved
}

fn is_decided(request: &CertificateSigningRequest) -> bool {
    let Some(status) = &request.status else {
        return false;
    };
    let conditions = status.conditions.as_deref().unwrap_or_default();
    status
        .certificate
        .as_ref()
        .is_some_and(|certificate| !certificate.0.is_empty())
        || conditions
            .iter()
            .any(|c| matches!(c.type_.as_str(), "Approved" | "Denied" | "Failed"))
}

fn check(case: &Case<'_>, id: &TokenId) -> Result<(), String> {
    let Some(token) = case.token.filter(|token| token.id == *id) else {
        return Err(format!(
            "bootstrap token {id} does not exist or is not bound to a Machine"
        ));
    };
    if token.expiration <= case.now {
        return Err(format!("bootstrap token {id} expired at {}", token.expiration));
    }
    let Some(machine) = case.machine.filter(|machine| machine.uid == token.machine_uid) else {
        return Err(format!(
            "there is no Machine with UID {}, to which bootstrap token {id} is bound",
            token.machine_uid
        ));
    };
    check_machine(&machine)?;
    // Both to the second. An older one was made with an earlier token of the same ID.
    match &case.request.metadata.creation_timestamp {
        Some(created) if created.0 >= token.created => {}
        _ => return Err(format!("it is older than bootstrap token {id}")),
    }
    check_usages(case.request.spec.usages.as_deref().unwrap_or_default())?;
    let node = requested_node(case.request)?;
    if node != machine.name {
        return Err(format!(
            "it asks for node {node:?}, but bootstrap token {id} is bound to Machine {}",
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
    } else if machine.node_is_stranger {
        Err(format!(
            "Node {name} exists and does not belong to Machine {name}"
        ))
    } else {
        Ok(())
    }
}

/// Kubelets leave `key encipherment` out for keys other than RSA.
fn check_usages(usages: &[String]) -> Result<(), String> {
    let mut set: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    set.remove("key encipherment");
    if set == BTreeSet::from(["client auth", "digital signature"]) {
        Ok(())
    } else {
        Err(format!(
            "its usages are {usages:?} and not those of a kubelet's client certificate"
        ))
    }
}

/// The node that the certificate would be for. Fails for anything but a sound request for a node's client certificate
/// and nothing more.
fn requested_node(request: &CertificateSigningRequest) -> Result<String, String> {
    let der = der(&request.spec.request.0)?;
    let parsed = X509CertificationRequest::from_der(&der);
    let (rest, parsed) = parsed.map_err(|_| "its request is not PKCS #10".to_owned())?;
    if !rest.is_empty() {
        return Err("its request has bytes after its end".to_owned());
    }
    parsed
        .verify_signature()
        .map_err(|_| "its request is not signed with its own key".to_owned())?;
    let info = &parsed.certification_request_info;
    for attribute in info.iter_attributes() {
        // Whatever else is asked for (names, CA rights, further usages) a kubelet does not ask for.
        let ParsedCriAttribute::ExtensionRequest(wanted) = attribute.parsed_attribute() else {
            return Err(format!("its request has the attribute {}", attribute.oid));
        };
        if let Some(other) = wanted
            .extensions
            .iter()
            .find(|extension| extension.oid != OID_X509_EXT_KEY_USAGE)
        {
            return Err(format!("its request has the extension {}", other.oid));
        }
    }
    node_of(&info.subject)
}

/// The node's name in a subject of exactly one organization, `system:nodes`, and one common name.
fn node_of(subject: &X509Name<'_>) -> Result<String, String> {
    let (mut organization, mut common_name) = (None, None);
    for attribute in subject.iter_attributes() {
        let slot = match attribute.attr_type() {
            oid if *oid == OID_X509_ORGANIZATION_NAME => &mut organization,
            oid if *oid == OID_X509_COMMON_NAME => &mut common_name,
            oid => return Err(format!("its subject has the attribute {oid}")),
        };
        let text = attribute
            .as_str()
            .map_err(|_| "its subject is not text".to_owned())?;
        if slot.replace(text).is_some() {
            return Err("its subject has two organizations or two common names".to_owned());
        }
    }
    if organization != Some(NODES) {
        return Err(format!(
            "its organization is {:?} and not {NODES}",
            organization.unwrap_or_default()
        ));
    }
    let common_name = common_name.unwrap_or_default();
    match common_name.strip_prefix(NODE_USER) {
        Some(node) if !node.is_empty() => Ok(node.to_owned()),
        _ => Err(format!(
            "its common name is {common_name:?} and not that of a node"
        )),
    }
}

/// The content of exactly one PEM block. PEM's readers differ in what they skip before, inside and after a block; where
/// there is nothing to skip, the signer reads what we read.
fn der(pem: &[u8]) -> Result<Vec<u8>, String> {
    const WHAT: &str = "its request is not one PEM block CERTIFICATE REQUEST and nothing else";
    let text = std::str::from_utf8(pem).map_err(|_| WHAT.to_owned())?;
    let body = text
        .strip_prefix("-----BEGIN CERTIFICATE REQUEST-----\n")
        .and_then(|rest| {
            rest.strip_suffix('\n')
                .unwrap_or(rest)
                .strip_suffix("\n-----END CERTIFICATE REQUEST-----")
        })
        .ok_or(WHAT)?;
    // Any line that is not base64 (a header, a second block) fails to decode.
    STANDARD
        .decode(body.replace('\n', ""))
        .map_err(|_| WHAT.to_owned())
}

#[cfg(test)]
mod tests;
