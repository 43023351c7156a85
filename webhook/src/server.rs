//! HTTP over TLS with a bound on everything that a client chooses: sizes, times, and how much at once.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::error_handling::HandleErrorLayer;
use axum::extract::{Request, State};
use axum::middleware::map_response_with_state;
use axum::response::{IntoResponse, Response};
use axum::{BoxError, Router};
use axum_server::accept::{Accept, NoDelayAcceptor};
use axum_server::service::SendService;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, Version, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
pub use machinist_infra::process::bind;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tower::ServiceBuilder;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::load_shed::LoadShedLayer;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;

/// What tells a running server to stop, and where it listens.
pub type Handle = axum_server::Handle<SocketAddr>;

/// What a client may use up.
#[derive(Debug, Clone)]
pub struct Limits {
    /// From the first byte of a request to the answer.
    pub request: Duration,
    /// From the connection to the end of the TLS handshake, and from there to the first request.
    pub handshake: Duration,
    /// From one request's answer to the next request's head. Go's clients close idle connections after 90 s, and they
    /// should be first.
    pub idle: Duration,
    /// Bytes of a request's body. etcd's own limit leaves room for an old and a new object in one review.
    pub body: usize,
    /// Requests at once; more are turned away at once.
    pub in_flight: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request: Duration::from_secs(10),
            handshake: Duration::from_secs(10),
            idle: Duration::from_mins(2),
            body: 7 * 1024 * 1024,
            in_flight: 64,
        }
    }
}

/// Set when the server is about to stop: answers then ask HTTP/1.1 clients to connect anew, elsewhere.
#[derive(Debug, Clone, Default)]
pub struct Draining(Arc<AtomicBool>);

impl Draining {
    /// The server is about to stop.
    pub fn begin(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it is.
    pub fn is_draining(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Puts the limits on time and number around every route.
pub fn limited(router: Router, limits: &Limits, draining: Draining) -> Router {
    let layers = ServiceBuilder::new()
        .layer(CatchPanicLayer::custom(panicked))
        .layer(TimeoutLayer::with_status_code(
            StatusCode::REQUEST_TIMEOUT,
            limits.request,
        ))
        .layer(HandleErrorLayer::new(overloaded))
        .layer(LoadShedLayer::new())
        .layer(GlobalConcurrencyLimitLayer::new(limits.in_flight));
    router
        .layer(layers)
        .layer(map_response_with_state(draining, close_when_draining))
}

async fn close_when_draining(State(draining): State<Draining>, mut response: Response) -> Response {
    // HTTP/2 knows no such header; its clients are told when the server stops.
    if draining.is_draining() && response.version() <= Version::HTTP_11 {
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    // The payload may quote the request; where it happened has been logged.
    (StatusCode::INTERNAL_SERVER_ERROR, "internal error").into_response()
}

async fn overloaded(_: BoxError) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "too many requests at once").into_response()
}

/// The whole body of a JSON request; 415 for another content type, 413 for too long a body.
pub async fn json_body(request: Request, limit: usize) -> Result<Bytes, Response> {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    if !content_type.is_some_and(is_json) {
        return Err((
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the content type must be application/json",
        )
            .into_response());
    }
    let too_large = || {
        (
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body has more than {limit} bytes"),
        )
            .into_response()
    };
    let length = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length > limit as u64) {
        return Err(too_large());
    }
    match Limited::new(request.into_body(), limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(_) => Err((StatusCode::BAD_REQUEST, "the body ended early").into_response()),
    }
}

/// `application/json`, with whatever parameters.
fn is_json(value: &HeaderValue) -> bool {
    let value = value.as_bytes();
    let end = value.iter().position(|byte| *byte == b';').unwrap_or(value.len());
    value[..end]
        .trim_ascii()
        .eq_ignore_ascii_case(b"application/json")
}

/// A JSON answer.
pub fn json_response(body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Serves HTTPS until the handle says otherwise.
pub async fn serve_tls(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    router: Router,
    limits: &Limits,
    handle: Handle,
) -> io::Result<()> {
    let acceptor = RustlsAcceptor::new(RustlsConfig::from_config(tls))
        .handshake_timeout(limits.handshake)
        .acceptor(NoDelayAcceptor::new());
    serve(listener, acceptor, router, limits, handle).await
}

/// Serves plain HTTP until the handle says otherwise.
pub async fn serve_plain(
    listener: TcpListener,
    router: Router,
    limits: &Limits,
    handle: Handle,
) -> io::Result<()> {
    serve(listener, NoDelayAcceptor::new(), router, limits, handle).await
}

async fn serve<A>(
    listener: TcpListener,
    acceptor: A,
    router: Router,
    limits: &Limits,
    handle: Handle,
) -> io::Result<()>
where
    A: Accept<TcpStream, Router> + Clone + Send + Sync + 'static,
    A::Stream: AsyncRead + AsyncWrite + Unpin + Send,
    A::Service: SendService<http::Request<hyper::body::Incoming>> + Send,
    A::Future: Send,
{
    let mut server = axum_server::from_tcp(listener)?
        .acceptor(acceptor)
        .handle(handle)
        .first_request_timeout(limits.handshake)
        .accept_error_handler(|_, error| tracing::debug!(%error, "a connection failed"));
    let http = server.http_builder();
    http.http1()
        .header_read_timeout(limits.idle)
        .max_buf_size(128 * 1024);
    http.http2()
        .max_concurrent_streams(256)
        .keep_alive_interval(Some(limits.idle))
        .keep_alive_timeout(limits.request);
    server.serve(router.into_make_service()).await
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("application/json", true)]
    #[case("Application/JSON; charset=utf-8", true)]
    #[case("application/json ;q=1", true)]
    #[case("application/jsonp", false)]
    #[case("text/plain; application/json", false)]
    #[case("", false)]
    fn json_is_json_with_whatever_parameters(#[case] value: &str, #[case] want: bool) {
        assert_eq!(is_json(&HeaderValue::from_str(value).unwrap()), want);
    }
}
