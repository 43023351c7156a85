//! A pass of a controller over one object, as metrics and spans have it.

use machinist_infra::store::Key;
use tokio::time::Instant;
use tracing::Instrument as _;
use tracing::field::Empty;

use crate::telemetry::metrics::Metrics;

/// Runs a pass, which says whether every write succeeded, or nothing if it had to wait.
pub async fn measured(
    metrics: &Metrics,
    controller: &'static str,
    key: &Key,
    pass: impl Future<Output = Option<bool>>,
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
    let Some(ok) = pass.instrument(span.clone()).await else {
        return;
    };
    metrics.count_pass(controller, ok, began.elapsed());
    if !ok {
        span.record("otel.status_code", "ERROR");
    }
}
