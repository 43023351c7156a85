//! A timeout on every request until its response begins, and a check of the request's path.

use std::time::Duration;

use futures::future::BoxFuture;
use http::{Method, Request, Response};
use kube::client::Body;
use tower::{BoxError, Service};

use crate::kube::error::{DisplayError, Elapsed};
use crate::kube::layer::{Middleware, layer};

/// A timeout on every request until its response begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    pub(crate) read: Duration,
    pub(crate) write: Duration,
}

layer!(Deadlines);

impl<S, B> Middleware<S, Body> for Deadlines
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Answer = S::Response;

    fn call(
        &self,
        inner: &mut S,
        request: Request<Body>,
    ) -> BoxFuture<'static, Result<Self::Answer, S::Error>> {
        if !is_sound(request.uri()) {
            let why = "the request contains a name that Kubernetes objects cannot have";
            return Box::pin(async move { Err(DisplayError(why.to_owned()).into()) });
        }
        let limit = if request.method() == Method::GET {
            self.read
        } else {
            self.write
        };
        let answer = inner.call(request);
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
