//! The reconciler of requests for client certificates: the first ones of our own Machines' kubelets are approved, as
//! [`super::client`] says. Those for serving certificates are decided with their Machine.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use machinist_infra::cache::store::Key;
use machinist_infra::kube::error::RemoteError;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::approve;
use super::bindings;
use super::client::{Binding, Case, MachineFacts, approval, judge, token_id};
use super::reported::Reported;
use super::{ClientApprover, Verdict};
use crate::bootstrap::token::TokenView;
use crate::cache::{Node, StoredMachine, StoredRequest, TOKEN_NAMESPACE};
use crate::context::Context;
use crate::machine::ownership::{NodeClaim, NodeVerdict, node_verdict};
use crate::runtime::kernel::{Reconciler, Requeue};
use crate::runtime::queue::Queue;
use crate::runtime::write::{Stop, WriteError};
use crate::telemetry::metrics::Purpose;

/// Approves requests for client certificates.
pub struct ClientRequestReconciler {
    context: Arc<Context>,
    /// Refusals that were reported.
    reported: Reported,
    /// When the cluster's role bindings were asked for last.
    asked: Mutex<bindings::Asked>,
}

/// A pending request that came with a bootstrap token, and what it is judged by.
pub struct Snapshot {
    request: Arc<StoredRequest>,
    binding: Bound,
    machine: Option<Arc<StoredMachine>>,
    node: Option<Arc<Node>>,
}

/// What binds the request's token to a Machine.
enum Bound {
    /// Its Secret, if there is one.
    Secret(Option<TokenView>),
    /// The Machine's record of the token of that ID.
    Record(String),
}

impl ClientRequestReconciler {
    /// Of a process that has judged nothing yet.
    pub fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            reported: Reported::default(),
            asked: Mutex::new(bindings::Asked::at(Instant::now())),
        }
    }
}

impl Reconciler for ClientRequestReconciler {
    const NAME: &'static str = "certificatesigningrequest";
    const AT_ONCE: usize = 16;
    const REMEMBERS_FAILURES: bool = false;

    type Snapshot = Snapshot;
    type Plan = Verdict;

    fn context(&self) -> &Context {
        &self.context
    }

    fn queue(&self) -> &Arc<Queue<Key>> {
        &self.context.queues.requests
    }

    async fn begin(&self) {}

    async fn snapshot(&self, key: &Key, _: Timestamp) -> Option<Snapshot> {
        let stores = &self.context.stores;
        let request = stores.requests.get(key)?;
        let id = token_id(&request.object).filter(|_| !request.decided)?;
        let (binding, machine) = match self.context.settings.client_approver {
            // Until the Machine's record has it: a guest may be faster.
            ClientApprover::Only => {
                let machine = stores.machine_with_token(id.as_str())?;
                (Bound::Record(id.to_string()), Some(machine))
            }
            ClientApprover::Here | ClientApprover::Elsewhere => {
                let name = format!("bootstrap-token-{id}");
                let secret = stores.tokens.get(&Key::new(TOKEN_NAMESPACE, name));
                let token = secret.and_then(|secret| TokenView::from_secret(&secret).ok());
                let uid = token.as_ref().map(|token| token.machine_uid.as_str());
                let machine = uid.and_then(|uid| stores.machine_of_uid(uid));
                (Bound::Secret(token), machine)
            }
        };
        let node = machine
            .as_ref()
            .and_then(|machine| stores.nodes.get(&Key::new("", machine.name())));
        Some(Snapshot {
            request,
            binding,
            machine,
            node,
        })
    }

    fn decide(&self, snapshot: &Snapshot, now: Timestamp) -> Verdict {
        let machine = snapshot.machine.as_deref();
        let binding = match (&snapshot.binding, machine) {
            (Bound::Secret(token), _) => token.as_ref().map(Binding::Secret),
            (Bound::Record(id), Some(machine)) => Some(Binding::Record {
                id,
                machine_uid: machine.uid(),
            }),
            (Bound::Record(_), None) => None,
        };
        let facts = match (machine, binding) {
            (Some(machine), Some(binding)) => Some(facts(machine, snapshot.node.as_deref(), binding)),
            _ => None,
        };
        judge(&Case {
            request: &snapshot.request.object,
            token: binding,
            machine: facts,
            now,
        })
    }

    fn summary(verdict: &Verdict) -> (Vec<&'static str>, Option<Duration>) {
        let steps = match verdict {
            Verdict::Approve => vec![approve::APPROVE],
            Verdict::Refused(_) => vec!["report a signing request"],
            Verdict::NotOurs | Verdict::Waiting(_) => Vec::new(),
        };
        (steps, None)
    }

    async fn apply(
        &self,
        _: &Key,
        snapshot: Snapshot,
        verdict: Verdict,
        _: Timestamp,
    ) -> Result<Requeue, Stop<String>> {
        let Snapshot { request, machine, .. } = &snapshot;
        let (context, machine) = (self.context.as_ref(), machine.as_deref());
        let done = match verdict {
            Verdict::NotOurs | Verdict::Waiting(_) => Ok(()),
            Verdict::Refused(reason) => {
                approve::tell(
                    context,
                    &self.reported,
                    machine,
                    Purpose::Client,
                    request,
                    &reason,
                )
                .await;
                Ok(())
            }
            Verdict::Approve => {
                let approval = approval(&request.object);
                let approved = approve::put(context, machine, &approval, Purpose::Client).await;
                approved.map(|approved| context.stores.requests.written(approved))
            }
        };
        if self.is_due_to_ask() {
            bindings::check(context).await;
        }
        match done {
            // If another has written, or it is gone, the watch tells.
            Ok(()) | Err(Stop::Stale) => Ok(Requeue::OnEvent),
            Err(stop) => Err(stop.map(|error| {
                let (verb, error) = (approve::APPROVE, RemoteError::from(&error));
                WriteError { verb, error }.to_string()
            })),
        }
    }

    async fn forget(&self, _: &Key) {}
}

impl ClientRequestReconciler {
    fn is_due_to_ask(&self) -> bool {
        let mut asked = self.asked.lock();
        asked.is_due(Instant::now())
    }
}

/// What counts of a Machine.
fn facts<'a>(machine: &'a StoredMachine, node: Option<&Node>, token: Binding<'_>) -> MachineFacts<'a> {
    let recorded = machine
        .record
        .as_ref()
        .is_some_and(|record| record.node_uid.is_some());
    let node_is_foreign =
        node.is_some_and(|node| node_verdict(NodeClaim::unobserved(machine, node)) != NodeVerdict::Ours);
    // A Node of the Machine's own from before its VM was recreated is older than the new VM's token. One that is younger
    // has joined with this very token, whether that is recorded yet or not. A former VM's Node goes before the token of the
    // next is on record, so that of a recorded token has joined with it.
    let is_younger = node.is_some_and(|node| match token {
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
        joined: recorded || (is_younger && !node_is_foreign),
        node_is_foreign,
    }
}
