//! Checks again, right before a write is sent, whether this process still leads: the write may have waited for other
//! requests since the decision.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use http::{Method, Request, Response};
use kube::client::Body;
use tower::{BoxError, Service};

use crate::kube::error::DisplayError;
use crate::kube::layer::{Middleware, layer};

/// Whether a write may be sent now; always true without a fence.
#[derive(Clone, Default)]
pub struct MayWrite(Option<Arc<dyn Fn() -> bool + Send + Sync>>);

impl MayWrite {
    /// Checks `fence`.
    pub fn by(fence: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(fence)))
    }

    fn allows(&self, request: &Request<Body>) -> bool {
        self.0.as_ref().is_none_or(|fence| !is_write(request) || fence())
    }
}

impl fmt::Debug for MayWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MayWrite").field(&self.0.is_some()).finish()
    }
}

/// Reviews of permissions and tokens are created like objects, but change nothing.
fn is_write(request: &Request<Body>) -> bool {
    const REVIEWS: [&str; 2] = ["/apis/authorization.k8s.io/", "/apis/authentication.k8s.io/"];
    let path = request.uri().path();
    request.method() != Method::GET && !REVIEWS.iter().any(|reviews| path.starts_with(reviews))
}

layer!(MayWrite);

impl<S, B> Middleware<S, Body> for MayWrite
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError>,
    S::Future: Send + 'static,
    B: 'static,
{
    type Answer = S::Response;

    fn call(
        &self,
        inner: &mut S,
        request: Request<Body>,
    ) -> BoxFuture<'static, Result<Self::Answer, S::Error>> {
        if self.allows(&request) {
            return Box::pin(inner.call(request));
        }
        let why = DisplayError("not sent: this process is no longer the leader".to_owned());
        Box::pin(async { Err(why.into()) })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use rstest::rstest;
    use tower::{ServiceBuilder, ServiceExt as _};

    use super::*;
    use crate::kube::error::RemoteError;

    fn request(method: &Method, path: &str) -> Request<Body> {
        let request = Request::builder().method(method).uri(path);
        request.body(Body::empty()).unwrap()
    }

    #[rstest]
    #[case(Method::GET, "/api/v1/nodes", false)]
    #[case(Method::POST, "/api/v1/namespaces/a/events", true)]
    #[case(Method::DELETE, "/api/v1/nodes/a", true)]
    #[case(Method::PATCH, "/apis/cluster.k8s.io/v1alpha1/namespaces/a/machines/b", true)]
    #[case(Method::POST, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", false)]
    fn reviews_are_no_writes(#[case] method: Method, #[case] path: &str, #[case] writes: bool) {
        assert_eq!(is_write(&request(&method, path)), writes);
    }

    /// The decision to write was made while it was allowed, but the one place in flight was taken until it was not.
    #[tokio::test]
    async fn a_write_that_had_to_wait_is_not_sent_behind_a_closed_fence() {
        let (leads, sent) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU32::new(0)));
        let (answer, answered) = tokio::sync::watch::channel(());
        let inner = {
            let sent = Arc::clone(&sent);
            tower::service_fn(move |_: Request<Body>| {
                sent.fetch_add(1, Ordering::SeqCst);
                let mut answered = answered.clone();
                async move {
                    let _ = answered.changed().await;
                    Ok::<_, Infallible>(Response::new(()))
                }
            })
        };
        let fence = Arc::clone(&leads);
        let service = ServiceBuilder::new()
            .concurrency_limit(1)
            .layer(MayWrite::by(move || fence.load(Ordering::SeqCst)))
            .map_err(BoxError::from)
            .service(inner);
        let delete = || request(&Method::DELETE, "/api/v1/nodes/a");
        let first = tokio::spawn(service.clone().oneshot(delete()));
        while sent.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let mut second = Box::pin(service.clone().oneshot(delete()));
        assert!(futures::poll!(&mut second).is_pending());
        leads.store(false, Ordering::SeqCst);
        answer.send(()).unwrap();
        assert!(first.await.unwrap().is_ok());
        let refused = second.await.unwrap_err();
        assert_eq!(
            RemoteError::from_transport(&*refused).to_string(),
            "not sent: this process is no longer the leader"
        );
        assert_eq!(sent.load(Ordering::SeqCst), 1);
        drop(answer);
        let read = service.oneshot(request(&Method::GET, "/api/v1/nodes"));
        assert!(read.await.is_ok());
    }
}
