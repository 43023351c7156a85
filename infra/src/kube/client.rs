//! Clients that cannot hang: no retries inside the client, a timeout on everything but watches, a limit of requests in
//! flight, no redirects, no proxy, and no connection to a forbidden address.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::config::KubeConfigOptions;
use kube::{Client, Config};
use machinist_shared::api::syntax;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::{BoxError, Service, ServiceBuilder};

use crate::kube::answer::AnswerLimits;
use crate::kube::breaker::{Breaker, BreakerLayer};
use crate::kube::clock::ServerClock;
use crate::kube::deadline::Deadlines;
use crate::kube::error::ClientError;
use crate::kube::fence::MayWrite;
use crate::kube::kubeconfig::{AddressPolicy, InfraKubeconfig};
use crate::kube::traffic::Traffic;
use crate::kube::user_cluster::{KubectlCluster, UserCluster};

/// Limits of a client.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Timeout for connecting.
    pub connect: Duration,
    /// Timeout for a read other than a watch.
    pub read: Duration,
    /// Timeout for a write: shorter than the time between the last renewal of the Lease and its loss.
    pub write: Duration,
    /// Maximum number of requests in flight.
    pub in_flight: usize,
    /// Allowed addresses.
    pub addresses: AddressPolicy,
    /// `User-Agent`.
    pub user_agent: String,
    /// Counts requests.
    pub traffic: Traffic,
    /// Checked right before each write is sent.
    pub may_write: MayWrite,
    /// Updated by every response of its API server.
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

/// A client of the infra cluster of a spec's kubeconfig.
pub async fn infra_client(
    kubeconfig: &InfraKubeconfig,
    options: &ClientOptions,
) -> Result<Client, ClientError> {
    let breaker = Arc::new(Breaker::new(options.in_flight));
    infra_client_through(kubeconfig, options, &breaker).await
}

/// A client of the infra cluster of a spec's kubeconfig, with limits and `breaker` shared with other credentials.
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
    // It has no probe and never opens: without the user cluster, there is no other work.
    let breaker = Arc::new(Breaker::new(options.in_flight));
    build(
        config,
        Resolver { policy: None },
        options,
        &breaker,
        AnswerLimits::user(options.read, options.write),
    )
}

/// A client of the cluster that kubectl uses, and the URL of its API server.
pub async fn kubectl_client(
    cluster: KubectlCluster<'_>,
    options: &ClientOptions,
) -> Result<(Client, String), ClientError> {
    let config = cluster.config().await?;
    let server = redacted(&config.cluster_url);
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

/// A URL without its password, if any.
fn redacted(url: &http::Uri) -> String {
    let authority = url.authority().map_or("", |authority| authority.as_str());
    let (_, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let path = url.path().trim_end_matches('/');
    format!("{}://{host}{path}", url.scheme_str().unwrap_or("https"))
}

/// TCP keepalive: the kernel probes a connection that is idle for this long, every 5 seconds, three times. So a watch
/// ends if its server disappears.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Maximum read buffer of a connection: there are many, to servers that authors of Machines choose.
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
        // Inside the limit, where a write may have waited; outside the breaker, because it says nothing about the
        // server.
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

/// Resolves names, and refuses addresses that a spec's kubeconfig must not use.
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

/// Whether an object can have that name. Any other name could change the meaning of a request's path.
pub fn is_object_name(name: &str) -> bool {
    syntax::dns_subdomain(name).is_ok()
}
