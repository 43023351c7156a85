//! HTTP over TLS with limits on sizes, times and concurrency.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::middleware::map_response_with_state;
use axum::response::{IntoResponse, Response};
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use http::{HeaderValue, StatusCode, Version, header};
use machinist_infra::http_server::{self, NoDelayAcceptor};
pub use machinist_infra::http_server::{Handle, Timeouts};
pub use machinist_infra::process::bind;
use rustls::ServerConfig;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;

/// Limits for clients.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Timeout of a body.
    pub timeouts: Timeouts,
    /// Maximum bytes of a request's body. It exceeds two objects of etcd's size limit in one review.
    pub body: usize,
    /// Maximum number of concurrent complete requests; others are refused immediately.
    pub in_flight: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            timeouts: Timeouts::default(),
            body: 7 * 1024 * 1024,
            in_flight: 64,
        }
    }
}

/// Set during shutdown: responses then make HTTP/1.1 clients reconnect to another replica.
#[derive(Debug, Clone, Default)]
pub struct Draining(Arc<AtomicBool>);

impl Draining {
    /// Starts draining.
    pub fn begin(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether the server is draining.
    pub fn is_draining(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Adds the timeout to every route.
pub fn limited(router: Router, timeouts: &Timeouts, draining: Draining) -> Router {
    let layers = ServiceBuilder::new()
        .layer(CatchPanicLayer::custom(panicked))
        .layer(TimeoutLayer::with_status_code(
            StatusCode::REQUEST_TIMEOUT,
            timeouts.request,
        ));
    router
        .layer(layers)
        .layer(map_response_with_state(draining, close_when_draining))
}

async fn close_when_draining(State(draining): State<Draining>, mut response: Response) -> Response {
    // HTTP/2 has no such header; its clients are notified when the server stops.
    if draining.is_draining() && response.version() <= Version::HTTP_11 {
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    // The payload may contain the request; the location is already logged.
    (StatusCode::INTERNAL_SERVER_ERROR, "internal error").into_response()
}

/// The response to a request above the limit.
pub(crate) fn overloaded() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "too many requests at once").into_response()
}

/// A JSON response.
pub fn json_response(body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Serves HTTPS until the handle stops it.
pub async fn serve_tls(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    router: Router,
    timeouts: &Timeouts,
    handle: Handle,
) -> io::Result<()> {
    let acceptor = RustlsAcceptor::new(RustlsConfig::from_config(tls))
        .handshake_timeout(timeouts.handshake)
        .acceptor(NoDelayAcceptor::new());
    http_server::serve(listener, acceptor, router, timeouts, handle).await
}
