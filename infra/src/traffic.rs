//! Counts the requests of the clients that share it: by verb for the metrics, and how many writes are under way, so that who
//! hands over knows when the last is done.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use http::{Method, Request, Response};
use tokio::sync::watch;
use tower::{Layer, Service};

/// Verbs as RBAC has them.
pub const VERBS: [&str; 7] = ["get", "list", "watch", "create", "update", "patch", "delete"];

/// Requests of the clients that share it.
#[derive(Debug, Clone, Default)]
pub struct Traffic(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// By verb: answered, and failed.
    requests: [[AtomicU64; 2]; VERBS.len()],
    /// Writes that have begun and not ended.
    writing: watch::Sender<usize>,
}

/// Requests of one verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// One of [`VERBS`].
    pub verb: &'static str,
    /// How many were answered with success.
    pub ok: u64,
    /// How many were answered with an error, or not at all.
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

    /// Returns once no write is under way.
    pub async fn quiet(&self) {
        // The sender lives in `self`.
        let _ = self.0.writing.subscribe().wait_for(|writing| *writing == 0).await;
    }
}

/// A write that is under way, until this is dropped.
struct Writing(Arc<Counts>);

impl Writing {
    fn new(counts: &Arc<Counts>) -> Self {
        counts.writing.send_modify(|writing| *writing += 1);
        Self(Arc::clone(counts))
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.writing.send_modify(|writing| *writing -= 1);
    }
}

/// Index in [`VERBS`].
fn verb<B>(request: &Request<B>) -> usize {
    let name = match *request.method() {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ if is_watch(request.uri().query().unwrap_or_default()) => "watch",
        _ if is_collection(request.uri().path()) => "list",
        _ => "get",
    };
    VERBS.iter().position(|verb| *verb == name).unwrap_or_default()
}

/// Whether a query asks for a watch.
pub(crate) fn is_watch(query: &str) -> bool {
    let mut pairs = query.split('&');
    pairs.any(|pair| matches!(pair, "watch=true" | "watch=1" | "watch"))
}

/// `/api/v1/nodes`, `/apis/GROUP/VERSION/namespaces/NAMESPACE/RESOURCE` and the like.
fn is_collection(path: &str) -> bool {
    let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
    let (["api", _, resource @ ..] | ["apis", _, _, resource @ ..]) = parts.as_slice() else {
        return false;
    };
    match resource {
        [_] => true,
        ["namespaces", _, of_namespace @ ..] => of_namespace.len() == 1,
        _ => false,
    }
}

impl<S> Layer<S> for Traffic {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        let traffic = self.clone();
        Counted { inner, traffic }
    }
}

/// A service whose requests are counted.
#[derive(Debug, Clone)]
pub struct Counted<S> {
    inner: S,
    traffic: Traffic,
}

impl<S, A, B> Service<Request<A>> for Counted<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let counts = Arc::clone(&self.traffic.0);
        let verb = verb(&request);
        let writing = (request.method() != Method::GET).then(|| Writing::new(&counts));
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let failed = answer.as_ref().map_or(true, |response| {
                response.status().is_client_error() || response.status().is_server_error()
            });
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
    use tower::{ServiceExt as _, service_fn};

    use super::*;

    fn request(method: &str, target: &str) -> Request<()> {
        Request::builder().method(method).uri(target).body(()).unwrap()
    }

    #[rstest]
    #[case("GET", "/api/v1/nodes", "list")]
    #[case("GET", "/api/v1/nodes?watch=true&fieldSelector=a", "watch")]
    #[case("GET", "/api/v1/nodes/a", "get")]
    #[case("GET", "/api/v1/namespaces", "list")]
    #[case("GET", "/api/v1/namespaces/kube-system", "get")]
    #[case("GET", "/api/v1/namespaces/a/secrets", "list")]
    #[case("GET", "/api/v1/namespaces/a/secrets/b", "get")]
    #[case("GET", "/apis/kubevirt.io/v1/namespaces/a/virtualmachines", "list")]
    #[case("GET", "/apis/kubevirt.io/v1/namespaces/a/virtualmachines/b", "get")]
    #[case("GET", "/version", "get")]
    #[case("POST", "/api/v1/namespaces/a/pods/b/eviction", "create")]
    #[case("PUT", "/apis/coordination.k8s.io/v1/namespaces/a/leases/b", "update")]
    #[case("PATCH", "/api/v1/nodes/a", "patch")]
    #[case("DELETE", "/api/v1/nodes/a", "delete")]
    fn a_request_has_the_verb_of_its_right(#[case] method: &str, #[case] target: &str, #[case] want: &str) {
        assert_eq!(VERBS[verb(&request(method, target))], want);
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
            let service = traffic.layer(answers);
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
        assert!(traffic.quiet().now_or_never().is_some());
        let (answer, answered) = oneshot::channel();
        let answered = answered.shared();
        let service = traffic.layer(service_fn(move |_: Request<()>| {
            let answered = answered.clone();
            async move {
                answered.await.unwrap();
                Ok::<_, Infallible>(Response::new(()))
            }
        }));
        let asked = tokio::spawn(service.oneshot(request(method, "/api/v1/nodes/a")));
        tokio::task::yield_now().await;
        assert_eq!(traffic.quiet().now_or_never().is_some(), meanwhile);
        answer.send(()).unwrap();
        traffic.quiet().await;
        asked.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_write_that_is_given_up_is_not_waited_for() {
        let traffic = Traffic::default();
        let service = traffic.layer(service_fn(|_: Request<()>| {
            std::future::pending::<Result<Response<()>, Infallible>>()
        }));
        let asked = service.oneshot(request("POST", "/api/v1/nodes"));
        assert!(asked.now_or_never().is_none());
        assert!(traffic.quiet().now_or_never().is_some());
    }
}
