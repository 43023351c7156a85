//! Checks that the author of an object can read the objects that it references.
//!
//! The controller reads any Secret that a spec references. So the author of a new reference needs the permission: the
//! webhook sends a SubjectAccessReview (verb `get`) for each Secret or ConfigMap that the stored object does not
//! reference already.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::ValueEnum;
use futures::future;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use machinist_shared::admission::Reference;
use machinist_shared::api::config_var::{KeyRef, RefKind};
use machinist_shared::api::field::{ErrorKind, Report};

use crate::review::User;

/// Timeout of all requests together.
const TIMEOUT: Duration = Duration::from_secs(1);

/// What to do if an author cannot read a referenced object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AccessMode {
    /// Refuse the object; also if the check fails.
    Enforce,
    /// A warning.
    Warn,
    /// No check.
    Off,
}

/// Checks the permissions of authors.
#[derive(Clone)]
pub struct Access {
    client: Client,
    mode: AccessMode,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access")
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// A Secret or ConfigMap: permissions do not apply to single keys.
type Named<'a> = (RefKind, &'a str, &'a str);

impl Access {
    /// Checks with the cluster of this client; `None` if checks are off.
    pub fn new(client: Client, mode: AccessMode) -> Option<Self> {
        (mode != AccessMode::Off).then_some(Self { client, mode })
    }

    /// Reports each reference that `author` cannot read, by field.
    pub(crate) async fn check(&self, author: &User<'_>, references: &[Reference]) -> Report {
        let mut report = Report::new();
        if references.is_empty() {
            return report;
        }
        let author = subject(author);
        let mut objects: Vec<Named<'_>> = references.iter().map(|reference| named(&reference.key)).collect();
        objects.sort_unstable();
        objects.dedup();
        let new_object = future::join_all(objects.iter().map(|object| self.may_read(&author, *object)));
        let answers: BTreeMap<Named<'_>, Answer> = match tokio::time::timeout(TIMEOUT, new_object).await {
            Ok(answers) => objects.into_iter().zip(answers).collect(),
            Err(_) => BTreeMap::new(),
        };
        for reference in references {
            let why = match answers.get(&named(&reference.key)) {
                Some(Answer::Yes) => continue,
                Some(Answer::No) => denied(author.user.as_deref().unwrap_or_default(), &reference.key),
                Some(Answer::Unknown) | None => unknown(&reference.key),
            };
            match self.mode {
                AccessMode::Enforce => report.error(&reference.path, ErrorKind::Forbidden, why),
                AccessMode::Warn | AccessMode::Off => report.warn(&reference.path, why),
            }
        }
        report
    }

    async fn may_read(&self, author: &SubjectAccessReviewSpec, (kind, namespace, name): Named<'_>) -> Answer {
        let resource = match kind {
            RefKind::Secret => "secrets",
            RefKind::ConfigMap => "configmaps",
        };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    verb: Some("get".to_owned()),
                    version: Some("v1".to_owned()),
                    resource: Some(resource.to_owned()),
                    namespace: Some(namespace.to_owned()),
                    name: Some(name.to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..author.clone()
            },
            ..SubjectAccessReview::default()
        };
        let api = Api::<SubjectAccessReview>::all(self.client.clone());
        match api
            .create(&PostParams::default(), &review)
            .await
            .map(|answer| answer.status)
        {
            Ok(Some(status)) if status.allowed => Answer::Yes,
            Ok(Some(_)) => Answer::No,
            Ok(None) => Answer::Unknown,
            Err(error) => {
                tracing::warn!(code = ?code(&error), "cannot check the permissions of an author");
                Answer::Unknown
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Yes,
    No,
    Unknown,
}

fn named(key: &KeyRef) -> Named<'_> {
    (key.kind, &key.namespace, &key.name)
}

/// The code of a response, if any; nothing else of it is shown.
fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

fn subject(user: &User<'_>) -> SubjectAccessReviewSpec {
    SubjectAccessReviewSpec {
        user: Some(user.username.to_string()),
        uid: (!user.uid.is_empty()).then(|| user.uid.to_string()),
        // The API server sets them; without groups, an author can only lose permissions.
        groups: user
            .groups
            .and_then(|groups| serde_json::from_str(groups.get()).ok()),
        extra: user
            .extra
            .and_then(|extra| serde_json::from_str(extra.get()).ok()),
        ..SubjectAccessReviewSpec::default()
    }
}

fn denied(user: &str, key: &KeyRef) -> String {
    format!(
        "user {user:?} cannot get {} {}/{}, which the object references: reference one that they can get, or grant them the permission",
        key.kind, key.namespace, key.name
    )
}

fn unknown(key: &KeyRef) -> String {
    format!(
        "could not check whether you can get {} {}/{}, which the object references: try again",
        key.kind, key.namespace, key.name
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use serde_json::value::RawValue;

    use super::*;

    #[test]
    fn the_author_is_asked_for_as_they_were_authenticated() {
        let groups = RawValue::from_string(json!(["a", "b"]).to_string()).unwrap();
        let extra = RawValue::from_string(json!({"scopes.example.com": ["x"]}).to_string()).unwrap();
        let user = User {
            username: "jane".into(),
            uid: "7".into(),
            groups: Some(&groups),
            extra: Some(&extra),
        };
        let want =
            json!({"user": "jane", "uid": "7", "groups": ["a", "b"], "extra": {"scopes.example.com": ["x"]}});
        assert_eq!(serde_json::to_value(subject(&user)).unwrap(), want);
        let bare = serde_json::to_value(subject(&User::default())).unwrap();
        assert_eq!(bare, json!({"user": ""}));
    }
}
