//! The serving certificate of the Machine's node: which requests for it are approved, and why the others are not.
//!
//! It is decided with everything else about the Machine, so that whatever a request waits for (the Node, its link, the
//! VM's address) decides it, too, the moment that it happens.

use std::time::Duration;

use machinist_shared::names::condition;

use super::super::conditions::{Condition, Reason, Status};
use super::super::observed::{Asked, Infra};
use super::super::plan::Step;
use super::draft::Draft;
use crate::csr::approve::not_approved;
use crate::csr::serving::{Case, NodeState, VmState, judge};
use crate::csr::{Verdict, request::StoredRequest};

/// At most so many requests of one node are looked at, the newest: a kubelet has one, and whoever makes more of them in
/// its name shall not keep us busy.
const AT_MOST: usize = 32;

/// How often it is looked whether an address that somebody else has, too, is free: nothing tells of it.
const CONTESTED: Duration = Duration::from_secs(30);

/// Judges the pending requests and answers `ServingCertificate` if one stays pending.
pub(super) fn decide(draft: &mut Draft<'_>) {
    let observed = draft.observed;
    let mut answer: Option<Condition> = None;
    for asked in observed.requests.iter().take(AT_MOST) {
        let request = &asked.request;
        let (reason, said) = match judged(draft, request) {
            Verdict::NotOurs => continue,
            Verdict::Approve => {
                draft.on_requests.push(Step::ApproveServing {
                    name: request.name().to_owned(),
                    uid: request.uid().to_owned(),
                });
                continue;
            }
            Verdict::Waiting(reason) => (Reason::CertificatePending, reason),
            Verdict::Refused(reason) => {
                refuse(draft, asked, &reason);
                (Reason::CertificateRefused, reason)
            }
        };
        let is_worse = reason == Reason::CertificateRefused
            && answer
                .as_ref()
                .is_none_or(|answer| answer.reason != reason.text());
        if answer.is_none() || is_worse {
            let message = not_approved(request.name(), &said);
            let found = Condition::new(condition::SERVING_CERTIFICATE, Status::False, reason, message);
            answer = Some(if reason == Reason::CertificatePending {
                found.lazy()
            } else {
                found
            });
        }
    }
    if let Infra::Open(open) = &observed.infra
        && answer.is_some()
        && !open.contested.is_empty()
    {
        draft.plan.look_again(CONTESTED);
    }
    if let Some(answer) = answer {
        draft.condition(answer);
    }
}

fn judged(draft: &Draft<'_>, request: &StoredRequest) -> Verdict {
    let observed = draft.observed;
    let (node, vm) = match (&draft.own_node, &observed.infra) {
        // Only where the VM is known to be the Machine's do its addresses count.
        (Some(node), Infra::Open(open)) => {
            let seen = VmState::Seen {
                addresses: &open.addresses,
                contested: &open.contested,
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

fn refuse(draft: &mut Draft<'_>, asked: &Asked, reason: &str) {
    if !asked.told.iter().any(|told| told == reason) {
        draft.on_requests.push(Step::RefuseServing {
            name: asked.request.name().to_owned(),
            uid: asked.request.uid().to_owned(),
            reason: reason.to_owned(),
        });
    }
}
