//! The circuit breaker of one infra cluster: while it is unreachable, no request waits for it.
//!
//! A request without a response makes the cluster *suspected*. Then a single probe, instead of one request per Machine,
//! determines whether it is *broken*, and when it is reachable again.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Request, Response};
use kube::client::Body;
use tokio::sync::{Semaphore, watch};
use tower::{BoxError, Service};

use crate::backoff::Backoff;
use crate::kube::error::{DisplayError, RemoteError};
use crate::kube::layer::{Middleware, layer};

/// The state of an infra cluster's circuit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Circuit {
    /// Reachable, as far as is known.
    Closed,
    /// A request got no response; requests continue until a probe decides.
    Suspected(RemoteError),
    /// Unreachable; every request except a probe fails immediately.
    Open(RemoteError),
}

/// The circuit breaker of one infra cluster, shared by the clients of all credentials.
#[derive(Debug)]
pub struct Breaker {
    state: watch::Sender<Circuit>,
    /// Requests in flight, across all credentials.
    pub(crate) in_flight: Arc<Semaphore>,
}

impl Breaker {
    /// A closed breaker with that limit of requests in flight.
    pub fn new(in_flight: usize) -> Self {
        Self {
            state: watch::Sender::new(Circuit::Closed),
            in_flight: Arc::new(Semaphore::new(in_flight)),
        }
    }

    /// Records a request without a response.
    pub fn suspect(&self, cause: RemoteError) {
        self.change(|state| (*state == Circuit::Closed).then_some(Circuit::Suspected(cause)));
    }

    /// Records a failed probe. Returns whether the state changed.
    pub fn open(&self, cause: RemoteError) -> bool {
        self.change(|state| (!matches!(state, Circuit::Open(_))).then_some(Circuit::Open(cause)))
    }

    /// Records a successful probe. Returns whether the circuit was open.
    pub fn close(&self) -> bool {
        let mut was_open = false;
        self.change(|state| {
            was_open = matches!(state, Circuit::Open(_));
            (*state != Circuit::Closed).then_some(Circuit::Closed)
        });
        was_open
    }

    /// Why the circuit is open, while it is.
    pub fn cause(&self) -> Option<RemoteError> {
        match &*self.state.borrow() {
            Circuit::Open(cause) => Some(cause.clone()),
            Circuit::Closed | Circuit::Suspected(_) => None,
        }
    }

    /// Returns when a probe is due.
    pub async fn suspected(&self) {
        self.wait(|state| *state != Circuit::Closed).await;
    }

    /// Returns when the circuit is closed.
    pub async fn closed(&self) {
        self.wait(|state| *state == Circuit::Closed).await;
    }

    /// Returns when the circuit is open.
    pub async fn opened(&self) {
        self.wait(|state| matches!(state, Circuit::Open(_))).await;
    }

    async fn wait(&self, until: impl FnMut(&Circuit) -> bool) {
        // The sender lives as long as `self`.
        let _ = self.state.subscribe().wait_for(until).await;
    }

    fn change(&self, next: impl FnOnce(&Circuit) -> Option<Circuit>) -> bool {
        self.state.send_if_modified(|state| match next(state) {
            Some(next) => {
                *state = next;
                true
            }
            None => false,
        })
    }
}

/// Marks a request that is sent even if the circuit is open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Probe;

/// Pauses between two probes of an unreachable cluster.
pub const PROBE_BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(500),
    longest: Duration::from_secs(5),
};

/// Fails requests immediately while the circuit is open, and reports requests without a response to the breaker.
#[derive(Debug, Clone)]
pub(crate) struct BreakerLayer(pub(crate) Arc<Breaker>);

layer!(BreakerLayer);

impl<S, B> Middleware<S, Body> for BreakerLayer
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
        if request.extensions().get::<Probe>().is_none()
            && let Some(cause) = self.0.cause()
        {
            return Box::pin(async move { Err(BoxError::from(DisplayError(cause.to_string()))) });
        }
        let (answer, breaker) = (inner.call(request), Arc::clone(&self.0));
        Box::pin(async move {
            let answer = answer.await;
            if let Err(error) = &answer {
                breaker.suspect(RemoteError::from_transport(error.as_ref()));
            }
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower::{Layer as _, ServiceExt as _, service_fn};

    fn cause(text: &str) -> RemoteError {
        RemoteError::other(text)
    }

    #[test]
    fn a_single_lost_request_is_a_suspicion_and_only_a_probe_opens_the_circuit() {
        let breaker = Breaker::new(1);
        breaker.suspect(cause("lost"));
        assert_eq!(breaker.cause(), None, "requests go on");
        assert!(breaker.open(cause("no answer")));
        assert_eq!(breaker.cause(), Some(cause("no answer")));
        breaker.suspect(cause("later"));
        assert!(!breaker.open(cause("again")), "no news");
        assert_eq!(breaker.cause(), Some(cause("no answer")), "the first cause stays");
        assert!(breaker.close());
        assert!(!breaker.close());
        assert_eq!(breaker.cause(), None);
    }

    #[tokio::test]
    async fn an_open_circuit_fails_at_once_without_asking_and_lets_a_probe_through() {
        let breaker = Arc::new(Breaker::new(1));
        let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let service = BreakerLayer(Arc::clone(&breaker)).layer(service_fn(move |_: Request<Body>| {
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            async { Err::<Response<Body>, _>(BoxError::from(DisplayError("no answer within 3s".into()))) }
        }));
        let request = || Request::new(Body::empty());
        assert!(service.clone().oneshot(request()).await.is_err());
        breaker.suspected().await;
        breaker.open(cause("no answer within 3s"));
        let error = service.clone().oneshot(request()).await.unwrap_err();
        assert_eq!(error.to_string(), "no answer within 3s");
        assert_eq!(
            asked.load(std::sync::atomic::Ordering::SeqCst),
            1,
            "the second was not asked"
        );
        let mut probe = request();
        probe.extensions_mut().insert(Probe);
        assert!(service.oneshot(probe).await.is_err());
        assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 2);
    }
}
