//! Approves signing requests, and tells of those that are not approved: the first client certificates of our own Machines'
//! kubelets as [`super::client`] says. Those for serving certificates are decided with their Machine.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::Api;
use kube::api::PostParams;
use machinist_infra::client::RemoteError;
use machinist_infra::store::Key;
use tokio::time::Instant;

use super::bindings;
use super::client::{Binding, Case, MachineFacts, approval, judge, token_id};
use super::request::StoredRequest;
use super::{ClientApprover, Verdict};
use crate::bootstrap::token::TokenView;
use crate::cache::{StoredMachine, TOKEN_NAMESPACE};
use crate::context::Context;
use crate::machine::ownership::{NodeClaim, NodeVerdict, node_verdict};
use crate::runtime::backoff::{Backoff, Jitter};
use crate::runtime::queue::Queue;
use crate::telemetry::events::Event;

/// Reason of the Event that tells of a request that is not approved.
pub const NOT_APPROVED: &str = "SigningRequestNotApproved";

/// Which certificate a request is for, in metrics.
#[derive(Debug, Clone, Copy)]
pub enum Purpose {
    /// The first client certificate.
    Client,
    /// A serving certificate.
    Serving,
}

impl Purpose {
    fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Serving => "serving",
        }
    }

    /// Why a request of that kind is approved, for the log.
    fn why(self) -> &'static str {
        match self {
            Self::Client => "it is for the node of the Machine that its bootstrap token is bound to",
            Self::Serving => "it is for nothing but the node's own name and its VM's own addresses",
        }
    }
}

/// First and longest pause before a request is looked at again that should have been approved and was not.
const PAUSE: Backoff = Backoff {
    first: Duration::from_millis(500),
    longest: Duration::from_secs(30),
};

/// How looking at a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Whatever changes it from here on is told by a watch.
    Settled,
    /// It could not be approved, and nothing will tell when it can.
    Again,
}

/// How often in a row each request could not be approved.
#[derive(Debug, Default)]
struct Attempts {
    by_request: HashMap<Key, u32>,
    jitter: Jitter,
}

impl Attempts {
    /// When to look at the request again, if nothing tells of it before.
    fn pause(&mut self, key: &Key, outcome: Outcome) -> Option<Duration> {
        if outcome == Outcome::Settled {
            self.by_request.remove(key);
            return None;
        }
        let before = self.by_request.entry(key.clone()).or_default();
        let pause = PAUSE.pause(*before, self.jitter);
        *before += 1;
        Some(pause)
    }
}

/// How long requests wait for what is known of the API server's addresses.
const LOOKED_UP: Duration = Duration::from_secs(5);

/// Reads the cluster's own addresses before any node asks for a serving certificate, so that no request waits for it.
pub async fn read_own_addresses(context: &Context) {
    let _ = tokio::time::timeout(LOOKED_UP, context.access.looked_up()).await;
    if let Ok(hosts) = context.access.hosts()
        && let Err(error) = context.reserved.get(&context.client, &hosts).await
    {
        tracing::warn!(%error, "cannot read the cluster's own addresses; it is tried again when a node asks for a certificate");
    }
}

/// Judges signing requests until the queue is closed.
pub async fn work(context: Arc<Context>, requests: Arc<Queue<Key>>) {
    let (mut attempts, mut asked) = (Attempts::default(), bindings::Asked::at(Instant::now()));
    while let Some(key) = requests.next().await {
        let request = context.stores.requests.get(&key);
        let outcome = match &request {
            Some(request) => consider(&context, request).await,
            None => Outcome::Settled,
        };
        requests.done(&key);
        let is_with_a_token = request.is_some_and(|request| token_id(&request.object).is_some());
        if is_with_a_token && asked.is_due(Instant::now()) {
            bindings::check(&context).await;
        }
        if let Some(pause) = attempts.pause(&key, outcome) {
            requests.add_after(key, pause);
        }
    }
}

async fn consider(context: &Context, request: &StoredRequest) -> Outcome {
    let Some(id) = token_id(&request.object).filter(|_| !request.decided) else {
        return Outcome::Settled;
    };
    if !context.may_write() {
        return Outcome::Again;
    }
    let stores = &context.stores;
    let secret = stores
        .tokens
        .get(&Key::new(TOKEN_NAMESPACE, format!("bootstrap-token-{id}")));
    let token = secret.and_then(|secret| TokenView::from_secret(&secret).ok());
    let machine = match (context.settings.client_approver, &token) {
        (ClientApprover::Only, _) => match stores.machine_with_token(id.as_str()) {
            // Told when the Machine's record has it: a guest may be faster.
            None => return Outcome::Settled,
            machine => machine,
        },
        (_, Some(token)) => stores.machine_of_uid(&token.machine_uid),
        (_, None) => None,
    };
    let binding = match (context.settings.client_approver, &machine) {
        (ClientApprover::Only, Some(machine)) => Some(Binding::Record {
            id: id.as_str(),
            machine_uid: machine.uid(),
        }),
        _ => token.as_ref().map(Binding::Secret),
    };
    let facts = match (machine.as_deref(), binding) {
        (Some(machine), Some(binding)) => Some(facts(context, machine, binding)),
        _ => None,
    };
    let case = Case {
        request: &request.object,
        token: binding,
        machine: facts,
        now: context.now(),
    };
    match judge(&case) {
        Verdict::NotOurs | Verdict::Waiting(_) => Outcome::Settled,
        Verdict::Refused(reason) => {
            tell(context, machine.as_deref(), Purpose::Client, request, &reason).await;
            Outcome::Settled
        }
        Verdict::Approve => {
            let approval = approval(&request.object);
            match put(context, machine.as_deref(), &approval, Purpose::Client).await {
                Ok(Some(approved)) => {
                    context.stores.requests.written(approved);
                    Outcome::Settled
                }
                // Somebody else wrote, or it is gone; the watch tells.
                Ok(None) => Outcome::Settled,
                Err(error) => {
                    let (machine, uid) = named(machine.as_deref());
                    let error = RemoteError::from(&error);
                    tracing::warn!(machine, uid, request = request.name(), %error, "cannot approve");
                    Outcome::Again
                }
            }
        }
    }
}

/// What counts of a Machine.
fn facts<'a>(context: &Context, machine: &'a StoredMachine, token: Binding<'_>) -> MachineFacts<'a> {
    let recorded = machine
        .record
        .as_ref()
        .is_some_and(|record| record.node_uid.is_some());
    let node = context.stores.nodes.get(&Key::new("", machine.name()));
    let node_is_stranger = node
        .as_ref()
        .is_some_and(|node| node_verdict(NodeClaim::unobserved(machine, node)) != NodeVerdict::Ours);
    // A Node of the Machine's own from before its VM was made anew is older than the new VM's token. One that is younger
    // has joined with this very token, whether that is recorded yet or not. A former VM's Node goes before the token of the
    // next is on record, so that of a recorded token has joined with it.
    let is_younger = node.as_ref().is_some_and(|node| match token {
        Binding::Secret(token) => {
            let created = node.metadata.creation_timestamp.as_ref();
            created.is_none_or(|created| created.0 >= token.created)
        }
        Binding::Record { .. } => true,
    });
    MachineFacts {
        name: machine.name(),
        uid: machine.uid(),
        deleting: machine.is_deleting(),
        joined: recorded || (is_younger && !node_is_stranger),
        node_is_stranger,
    }
}

/// A Machine and its UID, for the log.
fn named(machine: Option<&StoredMachine>) -> (Option<String>, Option<&str>) {
    let name = machine.map(|machine| Key::of(machine).to_string());
    (name, machine.map(StoredMachine::uid))
}

/// Writes an approval; `None` if the request has changed or is gone.
pub async fn put(
    context: &Context,
    machine: Option<&StoredMachine>,
    approval: &CertificateSigningRequest,
    purpose: Purpose,
) -> Result<Option<StoredRequest>, kube::Error> {
    let api: Api<CertificateSigningRequest> = Api::all(context.client.clone());
    let name = approval.metadata.name.as_deref().unwrap_or_default();
    let answer = api
        .replace_subresource("approval", name, &PostParams::default(), approval)
        .await;
    let result = if answer.is_ok() { "ok" } else { "error" };
    context
        .metrics
        .writes
        .with_label_values(&["approve a signing request", result])
        .inc();
    match answer {
        Ok(approved) => {
            context.metrics.count_request(purpose.label(), "approved");
            let requester = approval.spec.username.as_deref().unwrap_or_default();
            let ((machine, uid), why) = (named(machine), purpose.why());
            let purpose = purpose.label();
            tracing::info!(machine, uid, request = name, requester, purpose, why, "approved");
            Ok(Some(approved.into()))
        }
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Tells, once for each request and reason, why a request is not approved.
pub async fn tell(
    context: &Context,
    machine: Option<&StoredMachine>,
    purpose: Purpose,
    request: &StoredRequest,
    reason: &str,
) {
    let stores = &context.stores;
    let is_pending = |uid: &str| stores.requests.has_index(uid) || stores.serving.has_index(uid);
    if !context.told.note(request.uid(), reason, is_pending) {
        return;
    }
    context.metrics.count_request(purpose.label(), "not_approved");
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
    if let Err(error) = context.events.publish(machine, &event).await {
        tracing::warn!(machine = name, uid, error = %RemoteError::from(&error), "cannot record an Event");
    }
}

/// For a person.
pub fn not_approved(request: &str, reason: &str) -> String {
    format!("certificate signing request {request} is not approved: {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_approved_is_looked_at_again_after_a_pause_that_doubles() {
        let mut attempts = Attempts {
            jitter: Jitter::NONE,
            ..Attempts::default()
        };
        let key = Key::new("", "csr-1");
        let mut pause = |outcome| attempts.pause(&key, outcome).map(|pause| pause.as_millis());
        assert_eq!(pause(Outcome::Settled), None);
        assert_eq!(
            [Outcome::Again; 3].map(&mut pause),
            [Some(500), Some(1000), Some(2000)]
        );
        for _ in 0..40 {
            pause(Outcome::Again);
        }
        assert_eq!(pause(Outcome::Again), Some(30_000));
        assert_eq!(pause(Outcome::Settled), None);
        assert_eq!(pause(Outcome::Again), Some(500), "it begins anew");
    }
}
