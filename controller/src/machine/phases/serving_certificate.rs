//! The serving certificate of the Machine's node: which requests for it are approved, and why the others are not.
//!
//! It is decided with everything else about the Machine, so that whatever a request waits for (the Node, its link, the
//! VM's address) decides it, too, the moment that it happens.

use std::time::Duration;

use machinist_shared::api::names::condition;

use super::super::conditions::{Condition, Status};
use super::super::plan::Step;
use super::super::reason::Reason;
use super::super::snapshot::types::{Asked, Infra};
use super::{PhaseResult, View};
use crate::csr::approve::not_approved;
use crate::csr::serving::{Case, NodeState, VmState, judge};
use crate::csr::{Verdict, request::StoredRequest};

/// At most so many requests of one node are judged, the newest: a kubelet has one, and whatever makes more of them in its
/// name shall not keep us busy.
const AT_MOST: usize = 32;

/// How often it is decided again whether an address that something else has, too, is free: no event tells.
const CONTESTED_INTERVAL: Duration = Duration::from_secs(30);

/// Judges the pending requests and answers `ServingCertificate` if one stays pending.
pub(super) fn run(view: &View<'_>) -> PhaseResult {
    let mut result = PhaseResult::default();
    if view.observed.name_winner.is_some() {
        return result;
    }
    let mut answer: Option<(Reason, String)> = None;
    for asked in view.observed.requests.iter().take(AT_MOST) {
        let request = &asked.request;
        let (reason, why) = match judged(view, request) {
            Verdict::NotOurs => continue,
            Verdict::Approve => {
                result.on_requests.push(Step::ApproveServing {
                    name: request.name().to_owned(),
                    uid: request.uid().to_owned(),
                });
                continue;
            }
            Verdict::Waiting(reason) => (Reason::CertificatePending, reason),
            Verdict::Refused(reason) => {
                result.on_requests.extend(refusal(asked, &reason));
                (Reason::CertificateRefused, reason)
            }
        };
        let is_worse = match &answer {
            None => true,
            Some((worst, _)) => *worst != reason && reason == Reason::CertificateRefused,
        };
        if is_worse {
            answer = Some((reason, not_approved(request.name(), &why)));
        }
    }
    let Some((reason, message)) = answer else {
        return result;
    };
    let condition = Condition::new(condition::SERVING_CERTIFICATE, Status::False, reason, message);
    let address_conflicts = view.open().is_some_and(|open| !open.address_conflicts.is_empty());
    result
        .condition(match reason {
            Reason::CertificatePending => condition.lazy(),
            _ => condition,
        })
        .requeue(address_conflicts.then_some(CONTESTED_INTERVAL))
}

fn judged(view: &View<'_>, request: &StoredRequest) -> Verdict {
    let observed = view.observed;
    let (node, vm) = match (&view.before.found.node, &observed.infra) {
        // Only where the VM is known to be the Machine's do its addresses count.
        (Some(node), Infra::Open(open)) => {
            let seen = VmState::Seen {
                addresses: &open.addresses,
                address_conflicts: &open.address_conflicts,
            };
            (node, seen)
        }
        (_, Infra::Open(_)) => (
            &NodeState::Linked,
            VmState::Unseen("the Machine has no VM that runs"),
        ),
        (_, Infra::Connecting) => (
            &NodeState::Linked,
            VmState::Unseen("connecting to the infra cluster"),
        ),
        (_, Infra::Unreachable(how) | Infra::Refused(how) | Infra::NoCredential(how)) => {
            (&NodeState::Linked, VmState::Unseen(how.as_str()))
        }
    };
    judge(&Case {
        request: &request.object,
        machine: observed.machine.name(),
        deleting: observed.machine.is_deleting(),
        node,
        vm: &vm,
    })
}

/// What is done about a request that is not approved: its reason is reported once.
fn refusal(asked: &Asked, reason: &str) -> Option<Step> {
    let is_known = asked.reported.iter().any(|reported| reported == reason);
    (!is_known).then(|| Step::RefuseServing {
        name: asked.request.name().to_owned(),
        uid: asked.request.uid().to_owned(),
        reason: reason.to_owned(),
    })
}
