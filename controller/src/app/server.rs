//! `/healthz`, `/readyz` and `/metrics` over plain HTTP.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use machinist_infra::http_server::{self, Handle, NoDelayAcceptor, Timeouts};
use prometheus::{Encoder, TextEncoder};
use tokio_util::sync::CancellationToken;

/// What the probes tell.
#[derive(Debug, Default)]
pub struct Health {
    ready: AtomicBool,
}

impl Health {
    /// The caches are synced, or no longer.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }
}

/// Serves the probes until `stop`.
pub async fn probes(
    listener: TcpListener,
    health: Arc<Health>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    // Liveness never fails for someone else's outage: if this answers, the process lives.
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .with_state(health);
    serve(listener, router, stop).await
}

/// Serves the metrics until `stop`.
pub async fn metrics(
    listener: TcpListener,
    registry: prometheus::Registry,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new().route("/metrics", get(scrape)).with_state(registry);
    serve(listener, router, stop).await
}

async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) -> std::io::Result<()> {
    let (timeouts, handle) = (Timeouts::default(), Handle::new());
    let server = http_server::serve(
        listener,
        NoDelayAcceptor::new(),
        router,
        &timeouts,
        handle.clone(),
    );
    let mut server = std::pin::pin!(server);
    tokio::select! {
        ended = &mut server => return ended,
        () = stop.cancelled_owned() => handle.graceful_shutdown(Some(timeouts.request)),
    }
    server.await
}

async fn ready(State(health): State<Arc<Health>>) -> (StatusCode, &'static str) {
    if health.ready.load(Ordering::Acquire) {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the caches are not synced yet")
    }
}

async fn scrape(State(registry): State<prometheus::Registry>) -> impl IntoResponse {
    let encoder = TextEncoder::new();
    let mut body = Vec::new();
    match encoder.encode(&registry.gather(), &mut body) {
        Ok(()) => (
            StatusCode::OK,
            [(header::CONTENT_TYPE, encoder.format_type().to_owned())],
            body,
        ),
        Err(error) => {
            let text = [(header::CONTENT_TYPE, "text/plain".to_owned())];
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                text,
                error.to_string().into_bytes(),
            )
        }
    }
}
