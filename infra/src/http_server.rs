//! HTTP servers with timeouts on everything that a client does.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::middleware::AddExtension;
use axum_server::accept::Accept;
pub use axum_server::accept::NoDelayAcceptor;
use axum_server::service::SendService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// The routes, with the client's address.
type Routes = AddExtension<Router, ConnectInfo<SocketAddr>>;

/// Handle to stop a running server, with its address.
pub type Handle = axum_server::Handle<SocketAddr>;

/// Timeouts for a client.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// From the head of a request to the response.
    pub request: Duration,
    /// From the connection to the end of the TLS handshake, and from there to the first request.
    pub handshake: Duration,
    /// From the response to one request to the head of the next. Go clients close idle connections after 90 s, and
    /// should do so first.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            request: Duration::from_secs(10),
            handshake: Duration::from_secs(10),
            idle: Duration::from_mins(2),
        }
    }
}

/// Serves until the handle stops it; handlers can extract the client's address.
pub async fn serve<A>(
    listener: TcpListener,
    acceptor: A,
    router: Router,
    timeouts: &Timeouts,
    handle: Handle,
) -> io::Result<()>
where
    A: Accept<TcpStream, Routes> + Clone + Send + Sync + 'static,
    A::Stream: AsyncRead + AsyncWrite + Unpin + Send,
    A::Service: SendService<http::Request<hyper::body::Incoming>> + Send,
    A::Future: Send,
{
    let mut server = axum_server::from_tcp(listener)?
        .acceptor(acceptor)
        .handle(handle)
        .first_request_timeout(timeouts.handshake)
        .accept_error_handler(|_, error| tracing::debug!(%error, "a connection failed"));
    let http = server.http_builder();
    http.http1()
        .header_read_timeout(timeouts.idle)
        .max_buf_size(128 * 1024);
    http.http2()
        .max_concurrent_streams(256)
        .keep_alive_interval(Some(timeouts.idle))
        .keep_alive_timeout(timeouts.request);
    server
        .serve(router.into_make_service_with_connect_info::<SocketAddr>())
        .await
}
