//! Counts the requests of the clients that share it: by verb for the metrics, and writes in flight, so that a handover
//! can wait for the last one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::BoxFuture;
use http::{Method, Request, Response};
use tokio::sync::watch;
use tower::Service;

use crate::kube::layer::{Middleware, layer};
use crate::telemetry::requests;
pub use crate::telemetry::requests::VERBS;

/// Request counters of the clients that share it.
#[derive(Debug, Clone, Default)]
pub struct Traffic(Arc<Counts>);

/// Counts the requests to one server.
#[derive(Debug, Clone)]
pub(crate) struct ServerTraffic {
    traffic: Traffic,
    server: Arc<str>,
}

#[derive(Debug, Default)]
struct Counts {
    /// By verb: successes and failures.
    requests: [[AtomicU64; 2]; VERBS.len()],
    /// Writes in flight.
    writing: watch::Sender<usize>,
}

/// Requests of one verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// One of [`VERBS`].
    pub verb: &'static str,
    /// Number of successful responses.
    pub ok: u64,
    /// Number of error responses and missing responses.
    pub error: u64,
}

impl Traffic {
    /// Requests so far, by verb.
    pub fn counts(&self) -> impl Iterator<Item = Count> {
        let counts = VERBS.iter().zip(&self.0.requests);
        counts.map(|(verb, [ok, error])| Count {
            verb,
            ok: ok.load(Ordering::Relaxed),
            error: error.load(Ordering::Relaxed),
        })
    }

    /// Counts the requests to `server`.
    pub(crate) fn to(&self, server: &str) -> ServerTraffic {
        ServerTraffic {
            traffic: self.clone(),
            server: server.into(),
        }
    }

    /// Returns when no write is in flight.
    pub async fn writes_done(&self) {
        // The sender lives in `self`.
        let _ = self.0.writing.subscribe().wait_for(|writing| *writing == 0).await;
    }
}

/// A write in flight, until dropped.
struct WriteGuard(Arc<Counts>);

impl WriteGuard {
    fn new(counts: &Arc<Counts>) -> Self {
        counts.writing.send_modify(|writing| *writing += 1);
        Self(Arc::clone(counts))
    }
}

impl Drop for WriteGuard {
    fn drop(&mut self) {
        self.0.writing.send_modify(|writing| *writing -= 1);
    }
}

layer!(ServerTraffic);

/// Counts requests and creates spans.
impl<S, A, B> Middleware<S, A> for ServerTraffic
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Answer = S::Response;

    fn call(&self, inner: &mut S, request: Request<A>) -> BoxFuture<'static, Result<Self::Answer, S::Error>> {
        let Self { traffic, server } = self;
        let counts = Arc::clone(&traffic.0);
        let verb = requests::verb(&request);
        let span = requests::span(&request, verb, server);
        let writing = (request.method() != Method::GET).then(|| WriteGuard::new(&counts));
        let answer = inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let failed = requests::answered(&span, answer.as_ref().ok().map(Response::status));
            counts.requests[verb][usize::from(failed)].fetch_add(1, Ordering::Relaxed);
            drop(writing);
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::FutureExt as _;
    use rstest::rstest;
    use tokio::sync::oneshot;
    use tower::{Layer as _, ServiceExt as _, service_fn};

    use super::*;

    fn request(method: &str, target: &str) -> Request<()> {
        Request::builder().method(method).uri(target).body(()).unwrap()
    }

    #[tokio::test]
    async fn answers_are_counted_by_verb_and_result() {
        let traffic = Traffic::default();
        let answers = service_fn(|request: Request<()>| async move {
            let code = if request.uri().path().ends_with("/bad") {
                404
            } else {
                200
            };
            Ok::<_, Infallible>(Response::builder().status(code).body(()).unwrap())
        });
        for path in ["/api/v1/nodes/a", "/api/v1/nodes/b", "/api/v1/nodes/bad"] {
            let service = traffic.to("server").layer(answers);
            service.oneshot(request("GET", path)).await.unwrap();
        }
        let (ok, error) = (2, 1);
        let get = Count {
            verb: "get",
            ok,
            error,
        };
        let counts: Vec<_> = traffic.counts().collect();
        assert_eq!(counts[0], get);
        assert!(
            counts[1..].iter().all(|count| (count.ok, count.error) == (0, 0)),
            "{counts:?}"
        );
    }

    #[rstest]
    #[case::a_write("PATCH", false)]
    #[case::a_read("GET", true)]
    #[tokio::test]
    async fn it_is_quiet_once_no_write_is_under_way(#[case] method: &str, #[case] meanwhile: bool) {
        let traffic = Traffic::default();
        assert!(traffic.writes_done().now_or_never().is_some());
        let (answer, answered) = oneshot::channel();
        let answered = answered.shared();
        let service = traffic.to("server").layer(service_fn(move |_: Request<()>| {
            let answered = answered.clone();
            async move {
                answered.await.unwrap();
                Ok::<_, Infallible>(Response::new(()))
            }
        }));
        let asked = tokio::spawn(service.oneshot(request(method, "/api/v1/nodes/a")));
        tokio::task::yield_now().await;
        assert_eq!(traffic.writes_done().now_or_never().is_some(), meanwhile);
        answer.send(()).unwrap();
        traffic.writes_done().await;
        asked.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_write_that_is_given_up_is_not_waited_for() {
        let traffic = Traffic::default();
        let service = traffic.to("server").layer(service_fn(|_: Request<()>| {
            std::future::pending::<Result<Response<()>, Infallible>>()
        }));
        let asked = service.oneshot(request("POST", "/api/v1/nodes"));
        assert!(asked.now_or_never().is_none());
        assert!(traffic.writes_done().now_or_never().is_some());
    }
}
