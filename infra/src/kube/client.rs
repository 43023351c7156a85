//! Clients that cannot hang: no retries inside the client, a timeout on everything but watches, a limit of requests in
//! flight, no redirects, no proxy, and no connection to an address that is not allowed.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Method, Request, Response};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::config::KubeConfigOptions;
use kube::{Client, Config};
use machinist_shared::api::syntax;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::{BoxError, Layer, Service, ServiceBuilder};

use crate::kube::answer::{AnswerLimits, TooLarge, TooSlow};
use crate::kube::breaker::{Breaker, BreakerLayer};
use crate::kube::clock::ServerClock;
use crate::kube::fence::MayWrite;
use crate::kube::kubeconfig::{AddressPolicy, InfraKubeconfig};
use crate::kube::traffic::Traffic;
use crate::kube::user_cluster::{KubectlCluster, UserCluster};

/// Limits of a client.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// How long connecting may take.
    pub connect: Duration,
    /// How long a read other than a watch may take.
    pub read: Duration,
    /// How long a write may take: shorter than the time between the last renewal of the Lease and its loss.
    pub write: Duration,
    /// How many requests may be in flight.
    pub in_flight: usize,
    /// Where connections may lead.
    pub addresses: AddressPolicy,
    /// `User-Agent`.
    pub user_agent: String,
    /// Where requests are counted.
    pub traffic: Traffic,
    /// Asked right before each write is sent.
    pub may_write: MayWrite,
    /// Told the time by every answer of the one API server that it is about.
    pub clock: Option<ServerClock>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            read: Duration::from_secs(10),
            write: Duration::from_secs(3),
            in_flight: 64,
            addresses: AddressPolicy::default(),
            user_agent: concat!("machinist/", env!("CARGO_PKG_VERSION")).to_owned(),
            traffic: Traffic::default(),
            may_write: MayWrite::default(),
            clock: None,
        }
    }
}

/// Why a client could not be made. Never holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig cannot be used.
    #[error("the kubeconfig cannot be used: {0}")]
    Kubeconfig(String),
    /// The API server's URL is none. It may hold a password, so it is not shown.
    #[error("the API server's address is not a URL like https://10.0.0.1:6443")]
    Server,
    /// TLS could not be set up: the CA or client certificate is bad.
    #[error(
        "TLS cannot be set up from the kubeconfig; check certificate-authority-data and client-certificate-data"
    )]
    Tls,
}

/// A client of the infra cluster of a spec's kubeconfig.
pub async fn infra_client(
    kubeconfig: &InfraKubeconfig,
    options: &ClientOptions,
) -> Result<Client, ClientError> {
    let breaker = Arc::new(Breaker::new(options.in_flight));
    infra_client_through(kubeconfig, options, &breaker).await
}

/// A client of the infra cluster of a spec's kubeconfig, which shares its limits and `breaker` with those of other
/// credentials.
pub async fn infra_client_through(
    kubeconfig: &InfraKubeconfig,
    options: &ClientOptions,
    breaker: &Arc<Breaker>,
) -> Result<Client, ClientError> {
    let config =
        Config::from_custom_kubeconfig(kubeconfig.config.clone(), &KubeConfigOptions::default()).await;
    let mut config = config.map_err(|_| ClientError::Tls)?;
    // Never from the environment.
    config.proxy_url = None;
    let resolver = Resolver {
        policy: Some(kubeconfig.policy),
    };
    build(
        config,
        resolver,
        options,
        breaker,
        AnswerLimits::infra(options.read, options.write),
    )
}

/// A client of the user cluster.
pub async fn user_cluster_client(
    cluster: UserCluster<'_>,
    options: &ClientOptions,
) -> Result<Client, ClientError> {
    let config = cluster.config().await?;
    // Nobody probes it, so it never opens: whoever cannot reach the user cluster has nothing else to do.
    let breaker = Arc::new(Breaker::new(options.in_flight));
    build(
        config,
        Resolver { policy: None },
        options,
        &breaker,
        AnswerLimits::user(options.read, options.write),
    )
}

/// A client of the cluster that kubectl would ask, and the URL of its API server.
pub async fn kubectl_client(
    cluster: KubectlCluster<'_>,
    options: &ClientOptions,
) -> Result<(Client, String), ClientError> {
    let config = cluster.config().await?;
    let server = shown(&config.cluster_url);
    let breaker = Arc::new(Breaker::new(options.in_flight));
    let client = build(
        config,
        Resolver { policy: None },
        options,
        &breaker,
        AnswerLimits::user(options.read, options.write),
    )?;
    Ok((client, server))
}

/// A URL without the password that may be in it.
fn shown(url: &http::Uri) -> String {
    let authority = url.authority().map_or("", |authority| authority.as_str());
    let (_, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let path = url.path().trim_end_matches('/');
    format!("{}://{host}{path}", url.scheme_str().unwrap_or("https"))
}

/// A connection that says nothing for this long is asked for a sign of life by the kernel, every 5 seconds, three times:
/// so a watch ends whose server is gone without a word.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// What a connection reads ahead, at most: there are many, to servers that anybody may have named.
const READ_BUFFER: usize = 64 * 1024;

fn build(
    mut config: Config,
    resolver: Resolver,
    options: &ClientOptions,
    breaker: &Arc<Breaker>,
    answers: AnswerLimits,
) -> Result<Client, ClientError> {
    config.default_retry = false;
    let server = config.cluster_url.host().unwrap_or_default().to_owned();
    let user_agent = http::HeaderValue::from_str(&options.user_agent).map_err(|_| ClientError::Tls)?;
    config.headers.push((http::header::USER_AGENT, user_agent));
    let mut connector = HttpConnector::new_with_resolver(resolver);
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(options.connect));
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_keepalive_interval(Some(Duration::from_secs(5)));
    connector.set_keepalive_retries(Some(3));
    let https = config
        .rustls_https_connector_with_connector(connector)
        .map_err(|_| ClientError::Tls)?;
    let client: hyper_util::client::legacy::Client<_, Body> =
        hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .http1_max_buf_size(READ_BUFFER)
            .build(https);
    let auth = config.auth_layer().map_err(|_| ClientError::Tls)?;
    let headers = config.extra_headers_layer().map_err(|_| ClientError::Tls)?;
    let service = ServiceBuilder::new()
        .layer(options.traffic.to(&server))
        .layer(GlobalConcurrencyLimitLayer::with_semaphore(Arc::clone(
            &breaker.in_flight,
        )))
        // Below the limit, where a write may have waited; above the breaker, whose server it says nothing of.
        .layer(options.may_write.clone())
        .layer(BreakerLayer(Arc::clone(breaker)))
        .layer(answers)
        .layer(Deadlines {
            read: options.read,
            write: options.write,
        })
        .option_layer(options.clock.clone())
        .layer(config.base_uri_layer())
        .option_layer(auth)
        .layer(headers)
        .map_err(BoxError::from)
        .service(client);
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}

/// Resolves names, and refuses addresses that a spec's kubeconfig may not lead to.
#[derive(Debug, Clone)]
struct Resolver {
    policy: Option<AddressPolicy>,
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let policy = self.policy;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let allowed = |address: IpAddr| policy.is_none_or(|policy| policy.allows(address));
            let (allowed, refused): (Vec<_>, Vec<_>) =
                found.into_iter().partition(|found| allowed(found.ip()));
            if allowed.is_empty() && !refused.is_empty() {
                let message = "the server's name resolves to a loopback or link-local address only";
                return Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, message));
            }
            Ok(allowed.into_iter())
        })
    }
}

/// A timeout on every request until its answer begins.
#[derive(Debug, Clone, Copy)]
struct Deadlines {
    read: Duration,
    write: Duration,
}

impl<S> Layer<S> for Deadlines {
    type Service = WithDeadline<S>;

    fn layer(&self, inner: S) -> Self::Service {
        WithDeadline {
            inner,
            deadlines: *self,
        }
    }
}

/// Whether an object can have that name. A request for another one would be a request for something else.
pub fn is_object_name(name: &str) -> bool {
    syntax::dns_subdomain(name).is_ok()
}

/// Whether a request's path is one of plain parts. Names are judged before they get here; this is for the one that was not.
fn is_sound(url: &http::Uri) -> bool {
    let plain = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte))
    };
    let path = url.path().strip_prefix('/').unwrap_or_default();
    (path.is_empty() || path.split('/').all(plain)) && !url.query().is_some_and(|query| query.contains('?'))
}

#[derive(Debug, Clone)]
struct WithDeadline<S> {
    inner: S,
    deadlines: Deadlines,
}

/// The request was not answered in time.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {0:?}")]
struct Elapsed(Duration);

impl<S, B> Service<Request<Body>> for WithDeadline<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if !is_sound(request.uri()) {
            let why = "a name in the request is not one that Kubernetes objects have";
            return Box::pin(async move { Err(Shown(why.to_owned()).into()) });
        }
        let limit = if request.method() == Method::GET {
            self.deadlines.read
        } else {
            self.deadlines.write
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            tokio::time::timeout(limit, answer)
                .await
                .map_err(|_| Elapsed(limit))?
        })
    }
}

/// What may be shown of a remote error: a decoded `Status`, or the kind of trouble; never a body or a header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct RemoteError {
    text: String,
    code: Option<u16>,
    lost: bool,
}

/// How much of a remote message is shown.
const MAX_MESSAGE: usize = 1024;

impl RemoteError {
    /// HTTP status code, where the API server answered at all.
    pub fn code(&self) -> Option<u16> {
        self.code
    }

    /// An error of our own words.
    pub fn other(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            code: None,
            lost: false,
        }
    }

    /// What may be shown of a request that got no answer.
    pub fn from_transport(error: &(dyn std::error::Error + 'static)) -> Self {
        Self {
            lost: true,
            ..Self::other(transport(error))
        }
    }

    /// Somebody else wrote first, or it is not what it was taken for: to be decided again.
    pub fn conflict(text: impl Into<String>) -> Self {
        Self {
            code: Some(409),
            ..Self::other(text)
        }
    }

    /// Whether a write met somebody else's.
    pub fn is_conflict(&self) -> bool {
        self.code == Some(409)
    }

    /// Whether there was no answer at all.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Whether the API server answered, but will not serve this credential.
    pub fn is_refusal(&self) -> bool {
        matches!(self.code, Some(401 | 403))
    }

    /// There was no answer for so long.
    pub(crate) fn no_answer(time: Duration) -> Self {
        Self {
            lost: true,
            ..Self::other(Elapsed(time).to_string())
        }
    }

    /// What may be shown of a `Status`.
    pub(crate) fn from_status(status: &kube::core::Status) -> Self {
        // The client's own reason where the answer was no Status: it is then of anybody, perhaps of a server that only this
        // process can reach, and nobody who wrote its address into a spec is to read it.
        let mut text = if status.message.is_empty() || status.reason == "Failed to parse error data" {
            format!("HTTP {}", status.code)
        } else {
            status.message.clone()
        };
        if text.len() > MAX_MESSAGE {
            let end = (0..=MAX_MESSAGE)
                .rev()
                .find(|i| text.is_char_boundary(*i))
                .unwrap_or(0);
            text.truncate(end);
            text.push('…');
        }
        Self {
            text,
            code: Some(status.code),
            lost: false,
        }
    }
}

impl From<&kube::Error> for RemoteError {
    fn from(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::from_status(status),
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => {
                Self::other("the answer is not what a Kubernetes API gives")
            }
            kube::Error::Auth(_) => Self::other("the kubeconfig's credential cannot be used"),
            other => match cause::<TooLarge>(other) {
                Some(too_large) => Self::other(too_large.to_string()),
                None => Self::from_transport(other),
            },
        }
    }
}

impl From<kube::Error> for RemoteError {
    fn from(error: kube::Error) -> Self {
        Self::from(&error)
    }
}

/// The innermost cause of that type.
fn cause<'a, E: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a E> {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.filter_map(|error| error.downcast_ref()).last()
}

/// The kind of a transport error, from the innermost cause that says something.
fn transport(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut text = "the API server cannot be reached".to_owned();
    while let Some(error) = cause {
        if let Some(elapsed) = error.downcast_ref::<Elapsed>() {
            return elapsed.to_string();
        }
        if let Some(slow) = error.downcast_ref::<TooSlow>() {
            return slow.to_string();
        }
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            text = match io.kind() {
                std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
                std::io::ErrorKind::TimedOut => "connecting timed out".to_owned(),
                std::io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
                std::io::ErrorKind::PermissionDenied => io.to_string(),
                _ => text,
            };
        }
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return format!("TLS: {tls}");
        }
        if let Some(own) = error.downcast_ref::<Shown>() {
            return own.0.clone();
        }
        cause = error.source();
    }
    text
}

/// An error whose text may be shown as it is.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Shown(pub String);

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use k8s_openapi::api::core::v1::Namespace;
    use kube::Api;
    use kube::client::Body;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("/api/v1/namespaces/a/secrets/b?", true)]
    #[case(
        "/apis/kubevirt.io/v1/namespaces/a/virtualmachines?limit=1&fieldSelector=a%3Db",
        true
    )]
    #[case("/api/v1/namespaces/kube-system/services/https:x:443/proxy?", true)]
    #[case("/version", true)]
    #[case("/", true)]
    #[case("/api/v1/namespaces/a/secrets/../../b/secrets/c?", false)]
    #[case("/api/v1/namespaces/a/secrets/./c?", false)]
    #[case("/api/v1/namespaces/a/secrets/%2e%2e/c?", false)]
    #[case("/api/v1/namespaces/a/secrets/..%2fc?", false)]
    #[case("/api/v1/namespaces//secrets?", false)]
    #[case("/api/v1/namespaces/a/secrets/b?x=y?", false)]
    fn only_paths_of_plain_parts_are_asked_for(#[case] url: &str, #[case] sound: bool) {
        assert_eq!(is_sound(&url.parse().unwrap()), sound);
    }

    #[tokio::test]
    async fn nothing_is_shown_of_an_answer_that_is_of_no_api_server() {
        let answer = |_: http::Request<Body>| async {
            let mut response = http::Response::new(Body::from(b"the metadata of another server".to_vec()));
            *response.status_mut() = http::StatusCode::NOT_FOUND;
            Ok::<_, Infallible>(response)
        };
        let client = Client::new(tower::service_fn(answer), "default");
        let error = Api::<Namespace>::all(client).get("default").await.unwrap_err();
        let shown = RemoteError::from(&error);
        assert_eq!((shown.to_string().as_str(), shown.code), ("HTTP 404", Some(404)));
    }
}
