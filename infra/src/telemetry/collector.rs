//! The exporter to the collector: OTLP over HTTP.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::uri::{Parts, PathAndQuery};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::{Client, connect::Connect};
use hyper_util::rt::TokioExecutor;
use kube::Config;
use kube::client::ConfigExt as _;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject as _};
use tokio::runtime::Handle;

use crate::process::install_tls_provider;

/// OTLP's path for traces, below a collector's URL.
const TRACES: &str = "/v1/traces";

/// Timeout of a delivery. Meanwhile, spans wait, and are dropped when the queue is full.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum bytes of a response that are read: only errors have content.
const MAX_ANSWER: usize = 64 * 1024;

/// OpenTelemetry's variable for a file with CAs of collectors.
const CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";

/// URL of a collector, if any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoint(pub(super) Option<Uri>);

impl FromStr for Endpoint {
    type Err = String;

    /// The empty string is `None`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let bad = || format!("{text:?} is not a URL like http://collector:4318");
        let url: Uri = text.parse().map_err(|_| bad())?;
        let Parts {
            scheme: Some(scheme),
            authority: Some(authority),
            path_and_query,
            ..
        } = url.into_parts()
        else {
            return Err(bad());
        };
        if !matches!(scheme.as_str(), "http" | "https") || path_and_query.iter().any(|p| p.query().is_some())
        {
            return Err(bad());
        }
        if authority.as_str().contains('@') {
            return Err("the URL must not contain credentials; set OTEL_EXPORTER_OTLP_HEADERS".to_owned());
        }
        let path = path_and_query.as_ref().map_or("", PathAndQuery::path);
        let path = path.trim_end_matches('/');
        let path = format!("{}{TRACES}", path.strip_suffix(TRACES).unwrap_or(path));
        let url = Uri::builder().scheme(scheme).authority(authority);
        let url = url.path_and_query(path).build().map_err(|_| bad())?;
        Ok(Self(Some(url)))
    }
}

/// Why spans cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// A thread cannot be started.
    #[error("the threads that deliver spans cannot be started: {0}")]
    Threads(#[source] std::io::Error),
    /// The file of `OTEL_EXPORTER_OTLP_CERTIFICATE`.
    #[error("{CERTIFICATE} is {}, which is not a file of PEM certificates: {error}", .path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: pem::Error,
    },
    /// A CA is invalid, or the system has none.
    #[error("TLS to the collector cannot be set up; check {CERTIFICATE}")]
    Tls,
    /// An invalid setting of OpenTelemetry.
    #[error("spans cannot be exported; check the variables OTEL_EXPORTER_OTLP_…: {0}")]
    Exporter(#[source] ExporterBuildError),
}

/// Exports spans to the collector at `url`, on `runtime`.
pub(super) fn exporter(url: &Uri, runtime: Handle) -> Result<SpanExporter, TelemetryError> {
    let mut config = Config::new(url.clone());
    config.root_cert = certificates()?;
    install_tls_provider();
    let connector = config.rustls_https_connector().map_err(|_| TelemetryError::Tls)?;
    let collector = Collector {
        client: Client::builder(TokioExecutor::new()).build(connector),
        runtime,
        failing: AtomicBool::new(false),
    };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_endpoint(url.to_string())
        .with_timeout(EXPORT_TIMEOUT)
        .with_http_client(collector);
    exporter.build().map_err(TelemetryError::Exporter)
}

/// CAs that are trusted instead of the system's.
fn certificates() -> Result<Option<Vec<Vec<u8>>>, TelemetryError> {
    let Some(path) = std::env::var_os(CERTIFICATE).map(PathBuf::from) else {
        return Ok(None);
    };
    let read = || -> Result<Vec<Vec<u8>>, pem::Error> {
        let found = CertificateDer::pem_file_iter(&path)?;
        found.map(|der| Ok(der?.to_vec())).collect()
    };
    let error = match read() {
        Ok(found) if !found.is_empty() => return Ok(Some(found)),
        Ok(_) => pem::Error::NoItemsFound,
        Err(error) => error,
    };
    Err(TelemetryError::Certificates { path, error })
}

/// A client of the collector that logs when it starts to fail and when it recovers.
#[derive(Debug)]
struct Collector<C> {
    client: Client<C, Full<Bytes>>,
    runtime: Handle,
    failing: AtomicBool,
}

impl<C> Collector<C> {
    fn note(&self, answer: &Result<Response<Bytes>, HttpError>) {
        let error = match answer {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("HTTP {}", response.status())),
            Err(error) => Some(innermost(error.as_ref())),
        };
        let failed = self.failing.swap(error.is_some(), Ordering::Relaxed);
        match error {
            Some(error) if !failed => {
                tracing::warn!(
                    error,
                    "the collector does not accept spans; they are dropped until it does"
                );
            }
            None if failed => tracing::info!("the collector accepts spans again"),
            _ => {}
        }
    }
}

/// The innermost cause.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[async_trait]
impl<C: Connect + Clone + std::fmt::Debug + Send + Sync + 'static> HttpClient for Collector<C> {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.client.request(request.map(Full::new));
        let answer = async move {
            let (parts, body) = answer.await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
            Ok(Response::from_parts(parts, body))
        };
        // The exporter's thread has no runtime.
        let in_time = async { tokio::time::timeout(EXPORT_TIMEOUT, answer).await };
        let answer = match self.runtime.spawn(in_time).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(elapsed)) => Err(elapsed.into()),
            Err(ended) => Err(ended.into()),
        };
        self.note(&answer);
        answer
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("http://collector:4318", "http://collector:4318/v1/traces")]
    #[case("http://collector:4318/", "http://collector:4318/v1/traces")]
    #[case("https://[::1]/otlp/", "https://[::1]/otlp/v1/traces")]
    #[case("https://collector/v1/traces", "https://collector/v1/traces")]
    fn spans_go_where_otlp_has_them(#[case] text: &str, #[case] want: &str) {
        let Endpoint(found) = text.parse().unwrap();
        assert_eq!(found.unwrap().to_string(), want);
    }

    #[rstest]
    #[case("collector:4318", "is not a URL like http://collector:4318")]
    #[case("ftp://collector", "is not a URL like http://collector:4318")]
    #[case("/v1/traces", "is not a URL like http://collector:4318")]
    #[case("http://collector?token=x", "is not a URL like http://collector:4318")]
    #[case("http://me:sesame@collector", "set OTEL_EXPORTER_OTLP_HEADERS")]
    fn what_is_no_url_of_a_collector_is_refused(#[case] text: &str, #[case] want: &str) {
        let error = text.parse::<Endpoint>().unwrap_err();
        assert!(error.contains(want), "{error}");
        assert!(!error.contains("sesame"), "{error}");
    }

    #[test]
    fn nothing_is_nowhere() {
        assert_eq!("".parse(), Ok(Endpoint::default()));
    }
}
