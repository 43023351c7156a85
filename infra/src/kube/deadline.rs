//! A timeout on every request until its response begins, and a check of the request's path.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Method, Request, Response};
use kube::client::Body;
use tower::{BoxError, Layer, Service};

use crate::kube::error::{DisplayError, Elapsed};

/// A timeout on every request until its response begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    pub(crate) read: Duration,
    pub(crate) write: Duration,
}

impl<S> Layer<S> for Deadlines {
    type Service = WithDeadline<S>;

    fn layer(&self, inner: S) -> Self::Service {
        WithDeadline {
            inner,
            deadlines: *self,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct WithDeadline<S> {
    inner: S,
    deadlines: Deadlines,
}

impl<S, B> Service<Request<Body>> for WithDeadline<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if !is_sound(request.uri()) {
            let why = "the request contains a name that Kubernetes objects cannot have";
            return Box::pin(async move { Err(DisplayError(why.to_owned()).into()) });
        }
        let limit = if request.method() == Method::GET {
            self.deadlines.read
        } else {
            self.deadlines.write
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            tokio::time::timeout(limit, answer)
                .await
                .map_err(|_| Elapsed(limit))?
        })
    }
}

/// Whether a request's path has only plain parts. Names are validated before; this catches one that was not.
fn is_sound(url: &http::Uri) -> bool {
    let plain = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte))
    };
    let path = url.path().strip_prefix('/').unwrap_or_default();
    (path.is_empty() || path.split('/').all(plain)) && !url.query().is_some_and(|query| query.contains('?'))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("/api/v1/namespaces/a/secrets/b?", true)]
    #[case(
        "/apis/kubevirt.io/v1/namespaces/a/virtualmachines?limit=1&fieldSelector=a%3Db",
        true
    )]
    #[case("/api/v1/namespaces/kube-system/services/https:x:443/proxy?", true)]
    #[case("/version", true)]
    #[case("/", true)]
    #[case("/api/v1/namespaces/a/secrets/../../b/secrets/c?", false)]
    #[case("/api/v1/namespaces/a/secrets/./c?", false)]
    #[case("/api/v1/namespaces/a/secrets/%2e%2e/c?", false)]
    #[case("/api/v1/namespaces/a/secrets/..%2fc?", false)]
    #[case("/api/v1/namespaces//secrets?", false)]
    #[case("/api/v1/namespaces/a/secrets/b?x=y?", false)]
    fn only_paths_of_plain_parts_are_asked_for(#[case] url: &str, #[case] sound: bool) {
        assert_eq!(is_sound(&url.parse().unwrap()), sound);
    }
}
