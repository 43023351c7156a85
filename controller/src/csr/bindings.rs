//! Whether the cluster's role bindings undo what the approvers are for, or let every node end with its first certificate.
//!
//! It is asked, not read from bindings: the API server knows every way by which another client is allowed something, and asks
//! itself the same when kube-controller-manager's approver does. It is asked when a controller begins to lead, and again when
//! a token is used a while after that: who has no use for tokens is not asked for.

use std::time::Duration;

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec, SubjectAccessReviewStatus,
};
use kube::Api;
use kube::api::PostParams;
use machinist_infra::kube::error::RemoteError;
use machinist_shared::api::names;
use tokio::time::Instant;

use super::client::TOKEN_USER;
use super::request::{NODE_USER, NODES};
use crate::context::Context;
use crate::telemetry::events::Event;

/// A question about the cluster's bindings, and what a wrong answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// May a bootstrap token of ours have any node's certificate approved by Kubernetes itself?
    TokensAreTransferable,
    /// May a node renew its own client certificate?
    NodesCanRenew,
}

impl Question {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::TokensAreTransferable, Self::NodesCanRenew];

    /// What is asked of the API server.
    pub fn review(self) -> SubjectAccessReview {
        let (user, groups, subresource) = match self {
            Self::TokensAreTransferable => (
                format!("{TOKEN_USER}aaaaaa"),
                vec!["system:bootstrappers", names::TOKEN_GROUP],
                "nodeclient",
            ),
            Self::NodesCanRenew => (format!("{NODE_USER}a"), vec![NODES], "selfnodeclient"),
        };
        let groups = groups.into_iter().chain(["system:authenticated"]);
        SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user),
                groups: Some(groups.map(str::to_owned).collect()),
                resource_attributes: Some(ResourceAttributes {
                    group: Some("certificates.k8s.io".to_owned()),
                    resource: Some("certificatesigningrequests".to_owned()),
                    subresource: Some(subresource.to_owned()),
                    verb: Some("create".to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        }
    }

    /// What is wrong, for a person, if that is the answer.
    pub fn wrong(self, allowed: bool) -> Option<&'static str> {
        match (self, allowed) {
            (Self::TokensAreTransferable, true) => Some(
                "the holder of a Machine's bootstrap token can become ANY node: a role binding lets the group system:bootstrappers, \
                 or Machinist's own, use certificatesigningrequests/nodeclient, so kube-controller-manager approves any name for it. \
                 Find it with `kubectl get clusterrolebindings -o wide | grep nodeclient` and bind the group of the tokens that need it instead",
            ),
            (Self::NodesCanRenew, false) => Some(
                "nodes cannot renew their client certificates and end with the first one: bind the group system:nodes to the ClusterRole \
                 system:certificates.k8s.io:certificatesigningrequests:selfnodeclient (chart value nodes.bindSelfNodeClient)",
            ),
            _ => None,
        }
    }

    /// The label of its metric.
    fn label(self) -> &'static str {
        match self {
            Self::TokensAreTransferable => "transferable_tokens",
            Self::NodesCanRenew => "no_renewal",
        }
    }

    fn event(self) -> &'static str {
        match self {
            Self::TokensAreTransferable => "BootstrapTokensTransferable",
            Self::NodesCanRenew => "NodesCannotRenew",
        }
    }
}

/// How long an answer holds. Bindings change while a controller leads, and no event says so.
const HOLDS: Duration = Duration::from_mins(30);

/// When it was asked last.
#[derive(Debug)]
pub struct Asked(Instant);

impl Asked {
    /// At that time.
    pub fn at(now: Instant) -> Self {
        Self(now)
    }

    /// Whether it is to be asked again, which then counts as asked.
    pub fn is_due(&mut self, now: Instant) -> bool {
        let is_due = now.duration_since(self.0) >= HOLDS;
        if is_due {
            self.0 = now;
        }
        is_due
    }
}

/// Asks all of it once, and tells what is wrong: log, metric, and an Event about the namespace kube-system.
pub async fn check(context: &Context) {
    let api: Api<SubjectAccessReview> = Api::all(context.client.clone());
    for question in Question::ALL {
        if !context.may_write() {
            return;
        }
        let answer = api.create(&PostParams::default(), &question.review()).await;
        let allowed = match answer {
            Ok(SubjectAccessReview {
                status: Some(SubjectAccessReviewStatus { allowed, .. }),
                ..
            }) => allowed,
            Ok(_) => continue,
            Err(error) => {
                tracing::warn!(?question, error = %RemoteError::from(&error), "cannot find out whether role bindings are right");
                continue;
            }
        };
        let wrong = question.wrong(allowed);
        context
            .metrics
            .bindings
            .with_label_values(&[question.label()])
            .set(i64::from(wrong.is_some()));
        let Some(wrong) = wrong else { continue };
        tracing::warn!(?question, "{wrong}");
        let event = Event {
            warning: true,
            reason: question.event(),
            message: wrong.to_owned(),
        };
        let cluster = &context.settings.cluster_uid;
        context.events.publish_about_cluster(cluster, &event).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::tokens_of_one_machine(Question::TokensAreTransferable, false, None)]
    #[case::tokens_of_any_node(Question::TokensAreTransferable, true, Some("ANY node"))]
    #[case::nodes_that_renew(Question::NodesCanRenew, true, None)]
    #[case::nodes_that_end(Question::NodesCanRenew, false, Some("selfnodeclient"))]
    fn a_wrong_binding_is_reported(
        #[case] question: Question,
        #[case] allowed: bool,
        #[case] says: Option<&str>,
    ) {
        match (question.wrong(allowed), says) {
            (None, None) => {}
            (Some(wrong), Some(says)) => assert!(wrong.contains(says), "{wrong}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn it_is_asked_again_after_a_while() {
        let start = Instant::now();
        let mut asked = Asked::at(start);
        let at = |minutes| start + Duration::from_mins(minutes);
        let due = [1, 29, 30, 31, 59, 60].map(|minutes| asked.is_due(at(minutes)));
        assert_eq!(due, [false, false, true, false, false, true]);
    }

    #[test]
    fn it_is_asked_about_those_who_would_ask() {
        let of = |question: Question| question.review().spec;
        let token = of(Question::TokensAreTransferable);
        assert!(token.user.unwrap().starts_with("system:bootstrap:"));
        for group in ["system:bootstrappers", names::TOKEN_GROUP, "system:authenticated"] {
            assert!(
                token.groups.as_ref().unwrap().iter().any(|has| has == group),
                "{group}"
            );
        }
        let node = of(Question::NodesCanRenew).resource_attributes.unwrap();
        assert_eq!(node.subresource.as_deref(), Some("selfnodeclient"));
    }
}
