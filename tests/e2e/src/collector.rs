//! A collector of spans: accepts OTLP over HTTP, as an OpenTelemetry collector does, and returns the received spans.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use axum::{Router, body::Bytes, extract::State, routing::post};
use http::StatusCode;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{Span as Sent, status::StatusCode as SpanStatus},
};
use prost::Message as _;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

/// Spans are delivered every five seconds.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// A received span.
#[derive(Debug, Clone)]
pub struct Span {
    /// Name of the server that created it.
    pub service: String,
    /// What was done.
    pub name: String,
    /// Its trace.
    pub trace: Vec<u8>,
    /// Itself in that trace.
    pub id: Vec<u8>,
    /// The span that it is part of; empty if none.
    pub parent: Vec<u8>,
    /// When it ended, since 1970.
    pub ended: Duration,
    /// Whether it failed.
    pub failed: bool,
    /// Its attributes.
    pub attributes: BTreeMap<String, String>,
}

impl Span {
    /// An attribute, or nothing.
    pub fn tells(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }

    /// Whether it is a descendant of `other`.
    pub fn is_part_of(&self, other: &Self) -> bool {
        self.parent == other.id && self.trace == other.trace
    }
}

/// A collector that runs until it is dropped.
pub struct Collector {
    url: String,
    spans: watch::Receiver<Vec<Span>>,
    server: JoinHandle<()>,
}

impl Collector {
    /// Listens on a port of its own.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let (sender, spans) = watch::channel(Vec::new());
        let router = Router::new()
            .route("/v1/traces", post(take))
            .with_state(Arc::new(sender));
        let server = tokio::spawn(async move {
            // It ends with the runtime.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { url, spans, server })
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Waits for a span, among those received so far and later ones.
    pub async fn span(&self, what: &str, fits: impl Fn(&Span) -> bool) -> Result<Span> {
        let mut spans = self.spans.clone();
        let came = spans.wait_for(|spans| spans.iter().any(&fits));
        let came = tokio::time::timeout(WAIT_TIMEOUT, came).await;
        let found = came
            .ok()
            .and_then(Result::ok)
            .and_then(|spans| spans.iter().find(|span| fits(span)).cloned());
        found.with_context(|| {
            let names: Vec<_> = self
                .all()
                .into_iter()
                .map(|span| (span.service, span.name))
                .collect();
            format!("no span of {what} within {WAIT_TIMEOUT:?}: {names:?}")
        })
    }

    /// The spans received so far.
    pub fn all(&self) -> Vec<Span> {
        self.spans.borrow().clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn take(State(spans): State<Arc<watch::Sender<Vec<Span>>>>, body: Bytes) -> StatusCode {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else {
        return StatusCode::BAD_REQUEST;
    };
    for resource in request.resource_spans {
        let about = resource.resource.unwrap_or_default();
        let service = attributes(about.attributes).remove("service.name");
        let service = service.unwrap_or_default();
        let came = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
        let came: Vec<_> = came.map(|span| read(&service, span)).collect();
        spans.send_modify(|spans| spans.extend(came));
    }
    StatusCode::OK
}

fn read(service: &str, span: Sent) -> Span {
    let code = span.status.map(|status| status.code());
    Span {
        service: service.to_owned(),
        name: span.name,
        trace: span.trace_id,
        id: span.span_id,
        parent: span.parent_span_id,
        ended: Duration::from_nanos(span.end_time_unix_nano),
        failed: code == Some(SpanStatus::Error),
        attributes: attributes(span.attributes),
    }
}

fn attributes(pairs: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    pairs
        .into_iter()
        .map(|pair| (pair.key, text(pair.value)))
        .collect()
}
