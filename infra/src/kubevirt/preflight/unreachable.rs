//! Errors of requests to an infra cluster.

use std::future::Future;

use machinist_shared::api::field::{ErrorKind, Report};
use tokio::time::{Instant, timeout_at};

use super::request::PreflightRequest;
use crate::kube::error::RemoteError;

/// Why the infra cluster could not be reached.
#[derive(Debug)]
pub(super) enum Unreachable {
    /// Not everything was answered in time.
    Late,
    /// The server cannot be asked.
    Failed(String),
}

impl Unreachable {
    /// For a person; a server that has answered something lately is slow.
    pub(super) fn text(&self, is_answering: bool) -> String {
        match self {
            Self::Late if is_answering => {
                "it answers, but too slowly to be asked everything; a longer time may be allowed with --infra-timeout, \
                 chart value webhook.infraTimeout"
                    .to_owned()
            }
            Self::Late => "no answer in time".to_owned(),
            Self::Failed(why) => why.clone(),
        }
    }
}

impl From<RemoteError> for Unreachable {
    fn from(error: RemoteError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// The response, if it arrives in time.
pub(super) async fn within<T>(deadline: Instant, answer: impl Future<Output = T>) -> Result<T, Unreachable> {
    timeout_at(deadline, answer).await.map_err(|_| Unreachable::Late)
}

/// An error that is independent of the spec: the credential is invalid, or the cluster is unavailable.
pub(super) fn refused(
    request: &PreflightRequest<'_>,
    error: &RemoteError,
    report: &mut Report,
) -> Result<(), Unreachable> {
    let path = request.kubeconfig_path();
    match error.code() {
        Some(401) => report.error(
            &path,
            ErrorKind::Invalid,
            format!("the infra cluster does not accept its credential: {error}"),
        ),
        Some(404) => report.error(
            &path,
            ErrorKind::Invalid,
            format!(
                "the infra cluster has no KubeVirt, or no namespace {}: {error}",
                request.namespace
            ),
        ),
        _ => return Err(Unreachable::Failed(error.to_string())),
    }
    Ok(())
}
