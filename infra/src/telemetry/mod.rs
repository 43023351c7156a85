//! Telemetry of a server: log lines on stderr, and spans for an OpenTelemetry collector if one is set. Otherwise, no
//! spans are created.

mod collector;
pub mod metrics;
pub(crate) mod requests;

use std::time::Duration;

use clap::ValueEnum;
use http::HeaderMap;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tokio::runtime::Runtime;
use tracing::{Level, Metadata, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::filter::{EnvFilter, FilterExt as _, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

pub use collector::{Endpoint, TelemetryError};

use crate::process::hide_panic_messages;

/// How long shutdown waits until the last spans are exported.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Form of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Human-readable.
    Console,
}

/// Telemetry options.
#[derive(Debug)]
pub struct TelemetryOptions<'a> {
    /// Name of the server, as spans have it.
    pub service: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Form of the log lines.
    pub format: LogFormat,
    /// Log filter, as directives of `RUST_LOG`, which wins if it is set.
    pub level: &'a str,
    /// The collector of spans.
    pub collector: &'a Endpoint,
}

/// Exports spans until dropped, and then the last ones, for up to [`FLUSH_TIMEOUT`].
#[derive(Debug, Default)]
#[must_use = "without it, no span is delivered"]
pub struct Telemetry(Option<Export>);

/// The exporter of spans, on separate threads: a slow or unreachable collector blocks nothing.
#[derive(Debug)]
struct Export {
    provider: SdkTracerProvider,
    runtime: Runtime,
}

/// Starts logging, including panics without their messages, and the export of spans.
pub fn start(settings: &TelemetryOptions<'_>) -> Result<Telemetry, TelemetryError> {
    let export = Export::start(settings)?;
    let spans = export.as_ref().map(|export| {
        tracing_opentelemetry::layer()
            .with_tracer(export.tracer(settings))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_context_activation(false)
            .with_filter(filter_fn(is_our_span))
    });
    let level = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(settings.level));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match settings.format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Console => lines.boxed(),
    };
    tracing_subscriber::registry()
        .with(spans)
        .with(lines.with_filter(level.and(filter_fn(is_line))))
        .init();
    hide_panic_messages();
    Ok(Telemetry(export))
}

/// A log line is an event without the spans around it. Regardless of `RUST_LOG`, events of the Kubernetes client about
/// undecodable responses are dropped: they contain the whole response, and the response to the creation of a Secret
/// contains the Secret.
fn is_line(metadata: &Metadata<'_>) -> bool {
    metadata.is_event() && !(metadata.target().starts_with("kube_client") && *metadata.level() > Level::ERROR)
}

/// Spans of libraries are of no use to operators.
fn is_our_span(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.target().starts_with("machinist_")
}

/// Sets the parent of a span from the headers of its request (`traceparent`), if present.
pub fn set_parent(span: &Span, headers: &HeaderMap) {
    if span.is_disabled() {
        return;
    }
    let parent = TraceContextPropagator::new().extract(&HeaderExtractor(headers));
    // It fails for spans that are not exported.
    let _ = span.set_parent(parent);
}

impl Export {
    fn start(settings: &TelemetryOptions<'_>) -> Result<Option<Self>, TelemetryError> {
        let Some(uri) = &settings.collector.0 else {
            return Ok(None);
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("spans")
            .enable_all()
            .build()
            .map_err(TelemetryError::Threads)?;
        let exporter = collector::exporter(uri, runtime.handle().clone())?;
        let resource = Resource::builder()
            .with_service_name(settings.service)
            .with_attribute(opentelemetry::KeyValue::new("service.version", settings.version))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource)
            .build();
        Ok(Some(Self { provider, runtime }))
    }

    fn tracer(&self, settings: &TelemetryOptions<'_>) -> SdkTracer {
        self.provider.tracer(settings.service)
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(Export { provider, runtime }) = self.0.take() {
            // An unreachable collector is already logged.
            let _ = provider.shutdown_with_timeout(FLUSH_TIMEOUT);
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use opentelemetry::trace::TraceContextExt as _;

    use super::*;

    #[test]
    fn a_span_continues_the_trace_of_its_request() {
        let provider = SdkTracerProvider::builder().build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let traced = [("traceparent", format!("00-{trace}-b7ad6b7169203331-01"))];
        let headers = |pairs: &[(&'static str, String)]| -> HeaderMap {
            let pairs = pairs
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            pairs.collect()
        };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let trace_of = |headers: &HeaderMap| {
                let span = tracing::info_span!("admission");
                set_parent(&span, headers);
                let context = span.context();
                let found = context.span().span_context().trace_id();
                found.to_string()
            };
            assert_eq!(trace_of(&headers(&traced)), trace);
            let own = trace_of(&HeaderMap::new());
            assert!(own != trace && own != trace_of(&HeaderMap::new()), "{own}");
        });
    }

    /// Counts events.
    #[derive(Debug, Clone, Default)]
    struct Lines(Arc<AtomicUsize>);

    impl<S: tracing::Subscriber> Layer<S> for Lines {
        fn on_event(&self, _: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn no_answer_of_an_api_server_is_logged() {
        let lines = Lines::default();
        let layer = lines.clone().with_filter(filter_fn(is_line));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(target: "kube_client::client", "{{\"kind\": \"Secret\"}}, missing field");
            tracing::debug!(target: "kube_client::client", "Unsuccessful data error parse: secret");
            assert_eq!(lines.0.load(Ordering::Relaxed), 0);
            tracing::error!(target: "kube_client::client", "one line");
            tracing::warn!(target: "machinist_infra::kube::client", "another");
            assert_eq!(lines.0.load(Ordering::Relaxed), 2);
        });
    }
}
