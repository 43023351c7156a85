//! Why a cluster's API server could not be reached, or gave no answer; as much of it as may be shown.

use std::time::Duration;

/// Why a client could not be made. Never holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig cannot be used.
    #[error("the kubeconfig cannot be used: {0}")]
    Kubeconfig(String),
    /// The API server's URL is none. It may hold a password, so it is not shown.
    #[error("the API server's address is not a URL like https://10.0.0.1:6443")]
    Server,
    /// TLS could not be set up: the CA or client certificate is bad.
    #[error(
        "TLS cannot be set up from the kubeconfig; check certificate-authority-data and client-certificate-data"
    )]
    Tls,
}

/// What may be shown of a remote error: a decoded `Status`, or the kind of trouble; never a body or a header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct RemoteError {
    text: String,
    code: Option<u16>,
    lost: bool,
}

/// How much of a remote message is shown.
const MAX_MESSAGE: usize = 1024;

impl RemoteError {
    /// HTTP status code, where the API server answered at all.
    pub fn code(&self) -> Option<u16> {
        self.code
    }

    /// An error of our own words.
    pub fn other(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            code: None,
            lost: false,
        }
    }

    /// What may be shown of a request that got no answer.
    pub fn from_transport(error: &(dyn std::error::Error + 'static)) -> Self {
        Self {
            lost: true,
            ..Self::other(transport(error))
        }
    }

    /// Somebody else wrote first, or it is not what it was taken for: to be decided again.
    pub fn conflict(text: impl Into<String>) -> Self {
        Self {
            code: Some(409),
            ..Self::other(text)
        }
    }

    /// Whether a write met somebody else's.
    pub fn is_conflict(&self) -> bool {
        self.code == Some(409)
    }

    /// Whether there was no answer at all.
    pub fn is_unanswered(&self) -> bool {
        self.lost
    }

    /// Whether the API server did not answer in time, or said that it has too much to do.
    pub fn is_overload(&self) -> bool {
        self.lost || matches!(self.code, Some(429 | 502..=504))
    }

    /// Whether the API server answered, but will not serve this credential.
    pub fn is_refusal(&self) -> bool {
        matches!(self.code, Some(401 | 403))
    }

    /// There was no answer for so long.
    pub(crate) fn no_answer(time: Duration) -> Self {
        Self {
            lost: true,
            ..Self::other(Elapsed(time).to_string())
        }
    }

    /// What may be shown of a `Status`.
    pub(crate) fn from_status(status: &kube::core::Status) -> Self {
        // The client's own reason where the answer was no Status: it is then of anybody, perhaps of a server that only this
        // process can reach, and nobody who wrote its address into a spec is to read it.
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
                Self::other("the answer is not what a Kubernetes API gives")
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

/// The kind of a transport error, from the innermost cause that says something.
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

/// Whether the API server answered that the credential lacks a right.
pub(crate) fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}

/// The request was not answered in time.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {0:?}")]
pub(crate) struct Elapsed(pub(crate) Duration);

/// The answer is larger than it may be.
#[derive(Debug, thiserror::Error)]
#[error("the answer is larger than {0} KiB")]
pub(crate) struct TooLarge(pub(crate) usize);

/// The answer did not end in time.
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
