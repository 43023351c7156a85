//! `/healthz`, `/readyz` and `/metrics` over plain HTTP, for the kubelet and for Prometheus.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};
use machinist_certs::CurrentCertificate;
use prometheus::{Registry, TEXT_FORMAT, TextEncoder};

use crate::metrics::Metrics;
use crate::server::Draining;

/// The state for the probes.
#[derive(Debug)]
pub(crate) struct Ops {
    pub(crate) draining: Draining,
    pub(crate) certificate: Arc<CurrentCertificate>,
    pub(crate) registry: Registry,
    pub(crate) metrics: Metrics,
}

/// The three routes.
pub(crate) fn router(ops: Ops) -> Router {
    // Liveness never fails: a restart fixes neither a certificate nor a shutdown.
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
        .with_state(Arc::new(ops))
}

async fn ready(State(ops): State<Arc<Ops>>) -> (StatusCode, &'static str) {
    if ops.draining.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "shutting down")
    } else {
        match ops.certificate.expires() {
            None => (
                StatusCode::SERVICE_UNAVAILABLE,
                "there is no serving certificate yet",
            ),
            Some(expires) if expires <= SystemTime::now() => (
                StatusCode::SERVICE_UNAVAILABLE,
                "the serving certificate has expired",
            ),
            Some(_) => (StatusCode::OK, "ok"),
        }
    }
}

async fn scrape(State(ops): State<Arc<Ops>>) -> Response {
    // 0 without a certificate: the alert applies then as well.
    let expires = ops
        .certificate
        .expires()
        .and_then(|expires| expires.duration_since(UNIX_EPOCH).ok())
        .unwrap_or_default()
        .as_secs();
    ops.metrics
        .certificate_expires
        .set(i64::try_from(expires).unwrap_or(i64::MAX));
    match TextEncoder::new().encode_to_string(&ops.registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
