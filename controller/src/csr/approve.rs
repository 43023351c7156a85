//! Approves signing requests, and reports those that are not approved.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::Api;
use kube::api::PostParams;
use machinist_infra::cache::store::Key;

use super::reported::Reported;
use crate::cache::{StoredMachine, StoredRequest};
use crate::context::Context;
use crate::runtime::write::{Stop, write};
use crate::telemetry::events::Event;
use crate::telemetry::metrics::{Purpose, Verdict};

/// Reason of the Event that reports a request that is not approved.
pub const NOT_APPROVED: &str = "SigningRequestNotApproved";

/// Why a request for that purpose is approved, for the log.
fn why(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Client => "it is for the node of the Machine that its bootstrap token is bound to",
        Purpose::Serving => "it is for nothing but the node's own name and its VM's own addresses",
    }
}

/// What an approval does, in logs and metrics.
pub const APPROVE: &str = "approve a signing request";

/// A Machine and its UID, for the log.
fn named(machine: Option<&StoredMachine>) -> (Option<String>, Option<&str>) {
    let name = machine.map(|machine| Key::of(machine).to_string());
    (name, machine.map(StoredMachine::uid))
}

/// Writes an approval.
pub async fn put(
    context: &Context,
    machine: Option<&StoredMachine>,
    approval: &CertificateSigningRequest,
    purpose: Purpose,
) -> Result<StoredRequest, Stop<kube::Error>> {
    let api: Api<CertificateSigningRequest> = Api::all(context.client.clone());
    let (name, params) = (
        approval.metadata.name.as_deref().unwrap_or_default(),
        PostParams::default(),
    );
    let answer = api.replace_subresource("approval", name, &params, approval);
    let approved: CertificateSigningRequest = write(context, APPROVE, answer).await?;
    context.metrics.count_request(purpose, Verdict::Approved);
    let requester = approval.spec.username.as_deref().unwrap_or_default();
    let ((machine, uid), why) = (named(machine), why(purpose));
    let purpose = purpose.label();
    tracing::info!(machine, uid, request = name, requester, purpose, why, "approved");
    Ok(approved.into())
}

/// Tells, once for each request and reason, why a request is not approved.
pub async fn tell(
    context: &Context,
    reported: &Reported,
    machine: Option<&StoredMachine>,
    purpose: Purpose,
    request: &StoredRequest,
    reason: &str,
) {
    let stores = &context.stores;
    let is_pending = |uid: &str| stores.requests.has_index(uid) || stores.serving.has_index(uid);
    if !reported.note(request.uid(), reason, is_pending) {
        return;
    }
    context.metrics.count_request(purpose, Verdict::NotApproved);
    let (name, uid) = named(machine);
    tracing::warn!(
        machine = name,
        uid,
        request = request.name(),
        purpose = purpose.label(),
        why = reason,
        "a signing request is not approved"
    );
    let Some(machine) = machine else { return };
    let event = Event {
        warning: true,
        reason: NOT_APPROVED,
        message: not_approved(request.name(), reason),
    };
    context.events.publish(machine, &event).await;
}

/// For a person.
pub fn not_approved(request: &str, reason: &str) -> String {
    format!("certificate signing request {request} is not approved: {reason}")
}
