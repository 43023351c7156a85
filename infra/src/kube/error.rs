//! Errors of requests to a cluster's API server, without parts that must not be shown.

use std::time::Duration;

/// Why a client could not be created. Never contains a secret.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig cannot be used.
    #[error("the kubeconfig cannot be used: {0}")]
    Kubeconfig(String),
    /// The API server's URL is malformed. It may contain a password, so it is not shown.
    #[error("the API server's address is not a URL like https://10.0.0.1:6443")]
    Server,
    /// TLS could not be set up: the CA or client certificate is bad.
    #[error(
        "TLS cannot be set up from the kubeconfig; check certificate-authority-data and client-certificate-data"
    )]
    Tls,
}

/// The displayable part of a remote error: a decoded `Status`, or the kind of error; never a body or a header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct RemoteError {
    text: String,
    code: Option<u16>,
    lost: bool,
}

/// Maximum length of a remote message.
const MAX_MESSAGE: usize = 1024;

impl RemoteError {
    /// HTTP status code, if the API server responded.
    pub fn code(&self) -> Option<u16> {
        self.code
    }

    /// An error with Machinist's own message.
    pub fn other(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            code: None,
            lost: false,
        }
    }

    /// The displayable part of an error of a request without a response.
    pub fn from_transport(error: &(dyn std::error::Error + 'static)) -> Self {
        Self {
            lost: true,
            ..Self::other(transport(error))
        }
    }

    /// A conflict: another client wrote first, or the object is not the expected one. The decision must be repeated.
    pub fn conflict(text: impl Into<String>) -> Self {
        Self {
            code: Some(409),
            ..Self::other(text)
        }
    }

    /// Whether a write conflicted with another client's.
    pub fn is_conflict(&self) -> bool {
        self.code == Some(409)
    }

    /// Whether there was no response at all.
    pub fn is_unanswered(&self) -> bool {
        self.lost
    }

    /// Whether the API server did not respond in time, or reported overload.
    pub fn is_overload(&self) -> bool {
        self.lost || matches!(self.code, Some(429 | 502..=504))
    }

    /// Whether the API server responded, but rejects this credential.
    pub fn is_refusal(&self) -> bool {
        matches!(self.code, Some(401 | 403))
    }

    /// No response for that long.
    pub(crate) fn no_answer(time: Duration) -> Self {
        Self {
            lost: true,
            ..Self::other(Elapsed(time).to_string())
        }
    }

    /// The displayable part of a `Status`.
    pub(crate) fn from_status(status: &kube::core::Status) -> Self {
        // The client's own reason if the response was not a Status: it may come from a server that only this process
        // can reach, and the author of the spec with its address must not see it.
        let mut text = if status.message.is_empty() || status.reason == "Failed to parse error data" {
            format!("HTTP {}", status.code)
        } else {
            status.message.clone()
        };
        if text.len() > MAX_MESSAGE {
            let end = (0..=MAX_MESSAGE)
                .rev()
                .find(|i| text.is_char_boundary(*i))
                .unwrap_or(0);
            text.truncate(end);
            text.push('…');
        }
        Self {
            text,
            code: Some(status.code),
            lost: false,
        }
    }
}

impl From<&kube::Error> for RemoteError {
    fn from(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::from_status(status),
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => {
                Self::other("the response is not one of a Kubernetes API")
            }
            kube::Error::Auth(_) => Self::other("the kubeconfig's credential cannot be used"),
            other => match cause::<TooLarge>(other) {
                Some(too_large) => Self::other(too_large.to_string()),
                None => Self::from_transport(other),
            },
        }
    }
}

impl From<kube::Error> for RemoteError {
    fn from(error: kube::Error) -> Self {
        Self::from(&error)
    }
}

/// The innermost cause of that type.
fn cause<'a, E: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a E> {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.filter_map(|error| error.downcast_ref()).last()
}

/// The kind of a transport error, from the innermost meaningful cause.
fn transport(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut text = "the API server cannot be reached".to_owned();
    while let Some(error) = cause {
        if let Some(elapsed) = error.downcast_ref::<Elapsed>() {
            return elapsed.to_string();
        }
        if let Some(slow) = error.downcast_ref::<TooSlow>() {
            return slow.to_string();
        }
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            text = match io.kind() {
                std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
                std::io::ErrorKind::TimedOut => "connecting timed out".to_owned(),
                std::io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
                std::io::ErrorKind::PermissionDenied => io.to_string(),
                _ => text,
            };
        }
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return format!("TLS: {tls}");
        }
        if let Some(own) = error.downcast_ref::<DisplayError>() {
            return own.0.clone();
        }
        cause = error.source();
    }
    text
}

/// An error whose text may be shown as it is.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DisplayError(pub String);

/// Whether the API server reported a missing permission.
pub(crate) fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}

/// The request got no response in time.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {0:?}")]
pub(crate) struct Elapsed(pub(crate) Duration);

/// The response is too large.
#[derive(Debug, thiserror::Error)]
#[error("the answer is larger than {0} KiB")]
pub(crate) struct TooLarge(pub(crate) usize);

/// The response did not end in time.
#[derive(Debug, thiserror::Error)]
#[error("the answer did not end within {0:?}")]
pub(crate) struct TooSlow(pub(crate) Duration);

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use k8s_openapi::api::core::v1::Namespace;
    use kube::client::Body;
    use kube::{Api, Client};

    use super::*;

    #[tokio::test]
    async fn nothing_is_shown_of_an_answer_that_is_of_no_api_server() {
        let answer = |_: http::Request<Body>| async {
            let mut response = http::Response::new(Body::from(b"the metadata of another server".to_vec()));
            *response.status_mut() = http::StatusCode::NOT_FOUND;
            Ok::<_, Infallible>(response)
        };
        let client = Client::new(tower::service_fn(answer), "default");
        let error = Api::<Namespace>::all(client).get("default").await.unwrap_err();
        let shown = RemoteError::from(&error);
        assert_eq!((shown.to_string().as_str(), shown.code), ("HTTP 404", Some(404)));
    }
}
