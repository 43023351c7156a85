//! One write, as all reconcilers make it, and what its answer means.

use kube::api::{DeleteParams, PatchParams, Preconditions};
use machinist_infra::kube::error::RemoteError;
use machinist_shared::api::names::CONTROLLER;
use serde_json::{Value, json};

use crate::context::Context;

/// Why a plan was not carried out to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop<E> {
    /// Something had changed meanwhile, or is not gone yet: what is next is decided when that shows.
    Stale,
    /// A write failed.
    Failed(E),
    /// This process may not write any more; the leader now decides.
    NotLeader,
}

impl<E> Stop<E> {
    /// The same, described otherwise.
    pub fn map<T>(self, tell: impl FnOnce(E) -> T) -> Stop<T> {
        match self {
            Self::Stale => Stop::Stale,
            Self::Failed(error) => Stop::Failed(tell(error)),
            Self::NotLeader => Stop::NotLeader,
        }
    }
}

/// A write that failed, for a person.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb}: {error}")]
pub struct WriteError {
    /// What was tried.
    pub verb: &'static str,
    /// What the answer was.
    pub error: RemoteError,
}

/// What an API server answered.
pub trait Answer {
    /// Whether it says that the object is gone, or has changed since the write was decided.
    fn is_stale(&self) -> bool;
}

impl Answer for kube::Error {
    /// 404 is an object that is gone, and 409 one that has changed or another of its name: a watch shows either. The name of
    /// a new object is taken (409, too) is for the one that chose the name to judge. 422 and all other refusals are failures: the
    /// same write would be refused again.
    fn is_stale(&self) -> bool {
        matches!(self, Self::Api(status) if status.code == 404 || status.code == 409 && !is_taken(self))
    }
}

/// Whether the name of a new object is taken.
pub fn is_taken(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.reason == "AlreadyExists")
}

/// Makes one write, if this process leads, and counts it. `verb` is what it does.
pub async fn write<T, E: Answer>(
    context: &Context,
    verb: &'static str,
    write: impl Future<Output = Result<T, E>>,
) -> Result<T, Stop<E>> {
    let counted = async {
        let result = write.await;
        context.metrics.count_write(verb, result.is_ok());
        result
    };
    fenced(context, counted).await
}

/// Does what may write, and counts that itself, if this process leads.
pub async fn fenced<T, E: Answer>(
    context: &Context,
    write: impl Future<Output = Result<T, E>>,
) -> Result<T, Stop<E>> {
    if !context.may_write() {
        return Err(Stop::NotLeader);
    }
    write.await.map_err(|error| match error {
        // Not sent, or answered too late.
        _ if !context.may_write() => Stop::NotLeader,
        error if error.is_stale() => Stop::Stale,
        error => Stop::Failed(error),
    })
}

/// Patches are ours.
pub fn patch_params() -> PatchParams {
    PatchParams {
        field_manager: Some(CONTROLLER.to_owned()),
        ..PatchParams::default()
    }
}

/// Deletes only the object of that UID.
pub fn with_uid(uid: &str) -> DeleteParams {
    let preconditions = Preconditions {
        uid: Some(uid.to_owned()),
        resource_version: None,
    };
    DeleteParams {
        preconditions: Some(preconditions),
        ..DeleteParams::default()
    }
}

/// The merge patch of an object as it was decided about, and of no other of its name.
pub fn guarded(patch: &Value, uid: &str, resource_version: Option<&str>) -> Value {
    let mut patch = patch.clone();
    let guard = json!({"metadata": {"uid": uid, "resourceVersion": resource_version}});
    json_patch::merge(&mut patch, &guard);
    patch
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::an_object_that_is_gone(404, "NotFound", true)]
    #[case::an_object_that_has_changed(409, "Conflict", true)]
    #[case::a_name_that_is_taken(409, "AlreadyExists", false)]
    #[case::a_refusal_by_admission(422, "Invalid", false)]
    #[case::a_quota(403, "Forbidden", false)]
    #[case::an_api_server_in_trouble(500, "InternalError", false)]
    fn an_answer_is_stale(#[case] code: u16, #[case] reason: &str, #[case] stale: bool) {
        let status = kube::core::Status {
            code,
            reason: reason.to_owned(),
            ..Default::default()
        };
        assert_eq!(kube::Error::Api(Box::new(status)).is_stale(), stale);
    }

    #[test]
    fn a_delete_names_the_uid_that_was_decided_on() {
        let params = serde_json::to_value(with_uid("u-1")).unwrap();
        assert_eq!(params["preconditions"]["uid"], "u-1");
    }
}
