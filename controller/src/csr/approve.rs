//! Approves the client certificates of our own Machines' kubelets, as the pure [`super::judge`] says.

use std::sync::Arc;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use machinist_infra::client::RemoteError;
use machinist_infra::store::Key;

use super::judge::{Case, MachineFacts, Verdict, approval, judge, token_id};
use crate::bootstrap::token::TokenView;
use crate::context::Context;
use crate::machine::ownership::{NodeClaim, NodeVerdict, node_verdict};
use crate::queue::Queue;
use crate::user::{StoredMachine, TOKEN_NAMESPACE};

/// Judges signing requests until the queue is closed.
pub async fn work(context: Arc<Context>, requests: Arc<Queue<Key>>) {
    while let Some(key) = requests.next().await {
        if let Some(request) = context.stores.requests.get(&key) {
            consider(&context, &request).await;
        }
        requests.done(&key);
    }
}

async fn consider(context: &Context, request: &CertificateSigningRequest) {
    let Some(id) = token_id(request) else { return };
    let secret = context
        .stores
        .tokens
        .get(&Key::new(TOKEN_NAMESPACE, format!("bootstrap-token-{id}")));
    let token = secret.and_then(|secret| TokenView::from_secret(&secret).ok());
    let machine = token.as_ref().and_then(|token| {
        let found = context.stores.machines.by_index(&token.machine_uid);
        found
            .into_iter()
            .find(|machine| machine.uid() == token.machine_uid)
    });
    let facts = machine.as_deref().map(|machine| MachineFacts {
        name: machine.name(),
        uid: machine.uid(),
        deleting: machine.is_deleting(),
        joined: machine
            .record
            .as_ref()
            .is_some_and(|record| record.node_uid.is_some()),
        node_is_stranger: node_is_stranger(context, machine),
    });
    let case = Case {
        request,
        token: token.as_ref(),
        machine: facts,
        now: context.now(),
    };
    match judge(&case) {
        Verdict::NotOurs => {}
        Verdict::Undecided(reason) => {
            tracing::warn!(
                request = request.name_any(),
                reason,
                "a signing request is not approved"
            );
        }
        Verdict::Approve => approve(context, request).await,
    }
}

/// Whether a Node of the Machine's name exists that is not known to be its own. A Node that is the Machine's from
/// before its VM was made anew is its own.
fn node_is_stranger(context: &Context, machine: &StoredMachine) -> bool {
    context
        .stores
        .nodes
        .get(&Key::new("", machine.name()))
        .is_some_and(|node| {
            let claim = NodeClaim {
                machine,
                node: &node,
                firmware_uuid: None,
                addresses: &[],
            };
            node_verdict(claim) != NodeVerdict::Ours
        })
}

async fn approve(context: &Context, request: &CertificateSigningRequest) {
    if !context.may_write() {
        return;
    }
    let api: Api<CertificateSigningRequest> = Api::all(context.client.clone());
    let name = request.name_any();
    let answer = api
        .replace_subresource("approval", &name, &PostParams::default(), &approval(request))
        .await;
    let result = if answer.is_ok() { "ok" } else { "error" };
    context
        .metrics
        .writes
        .with_label_values(&["approve a signing request", result])
        .inc();
    match answer {
        Ok(approved) => {
            tracing::info!(request = name, "approved");
            context.stores.requests.written(approved);
        }
        // Somebody else wrote; the watch brings it back.
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => tracing::warn!(request = name, error = %RemoteError::from(&error), "cannot approve"),
    }
}
