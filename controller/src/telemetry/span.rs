//! A reconcile of one object, as metrics and spans have it.

use machinist_infra::cache::store::Key;
use tokio::time::Instant;
use tracing::Instrument as _;
use tracing::field::Empty;

use crate::telemetry::metrics::Metrics;

/// Runs a reconcile, which says whether every write succeeded.
pub async fn measured(
    metrics: &Metrics,
    controller: &'static str,
    key: &Key,
    reconcile: impl Future<Output = bool>,
) {
    let span = tracing::info_span!(
        "pass",
        otel.name = %format_args!("reconcile {controller}"),
        otel.status_code = Empty,
        k8s.resource = %format_args!("{controller}s"),
        k8s.namespace.name = &*key.namespace,
        k8s.object.name = &*key.name,
    );
    let began = Instant::now();
    let ok = reconcile.instrument(span.clone()).await;
    metrics.count_pass(controller, ok, began.elapsed());
    if !ok {
        span.record("otel.status_code", "ERROR");
    }
}
