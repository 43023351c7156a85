//! Wires the webhook: certificate, the two servers, and graceful shutdown.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use kube::Client;
use machinist_certs::{Clients, server_config};
use machinist_infra::http_server::{self, NoDelayAcceptor};
use machinist_infra::kube::client::{ClientOptions, user_cluster_client};
use machinist_infra::kube::kubeconfig::AddressPolicy;
use machinist_infra::process::install_tls_provider;
use machinist_shared::provider::Env;
use tokio::task::JoinSet;

use crate::access::Access;
use crate::admit::{Admission, Cluster};
use crate::certificate::Source;
use crate::flags::Flags;
use crate::infra::{AskPolicy, Infra};
use crate::metrics::Metrics;
use crate::names::Names;
use crate::ops::Ops;
use crate::server::{self, Draining, Handle, Limits};
use crate::skew::Skew;
use crate::{handler, ops};

/// Timeout of the last requests after the shutdown delay.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of a request to the user cluster.
const USER_CLUSTER_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs the webhook until a signal stops it.
pub fn start(flags: &Flags) -> anyhow::Result<()> {
    install_tls_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        let env = Env::new(|name| std::env::var(name).ok());
        let (cluster, client) = connect(flags, &env).await?;
        let source = Source::new(flags, client)?;
        let webhook = Webhook::start(flags, &env, Limits::default(), cluster, source)?;
        tracing::info!(address = %webhook.address, ops = %webhook.ops_address, "serving");
        let delay = flags.shutdown_delay_duration.0.unwrap_or_default();
        webhook.run(signals.received(), delay).await
    })
}

/// The user cluster and a client for it: from the kubeconfig, or the pod's own. Outside a cluster and without a
/// kubeconfig, there is none.
async fn connect(flags: &Flags, env: &Env) -> anyhow::Result<(Cluster, Option<Client>)> {
    let in_cluster = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    let cluster = flags.user_cluster();
    if cluster.is_of_the_pod() && !in_cluster {
        tracing::warn!(
            "neither --kubeconfig nor a ServiceAccount: names and the permissions of authors are not checked"
        );
        return Ok((Cluster::default(), None));
    }
    let options = ClientOptions {
        connect: USER_CLUSTER_TIMEOUT,
        read: USER_CLUSTER_TIMEOUT,
        write: USER_CLUSTER_TIMEOUT,
        user_agent: concat!("machinist-webhook/", env!("CARGO_PKG_VERSION")).to_owned(),
        ..ClientOptions::default()
    };
    let client = user_cluster_client(cluster, &options).await?;
    let policy = address_policy(flags);
    let infra_options = ClientOptions {
        addresses: policy,
        read: flags.infra_timeout.0,
        ..options
    };
    let cluster = Cluster {
        infra: Infra::new(
            client.clone(),
            infra_options,
            env.clone(),
            policy,
            AskPolicy {
                timeout: flags.infra_timeout.0,
                unreachable: flags.infra_unreachable,
            },
        ),
        skew: Skew::new(client.clone(), flags.kubelet_skew_policy),
        names: Some(Names::new(client.clone())),
        access: Access::new(client.clone(), flags.reference_access_check),
    };
    Ok((cluster, Some(client)))
}

fn address_policy(flags: &Flags) -> AddressPolicy {
    AddressPolicy {
        allow_loopback: flags.infra_allow_loopback,
    }
}

/// A running webhook.
#[derive(Debug)]
pub struct Webhook {
    /// Address of `/mutate` and `/validate`, with TLS.
    pub address: SocketAddr,
    /// Address of `/healthz`, `/readyz` and `/metrics`.
    pub ops_address: SocketAddr,
    draining: Draining,
    handle: Handle,
    serving: JoinSet<io::Result<()>>,
    beside: JoinSet<io::Result<()>>,
}

impl Webhook {
    /// Starts both servers.
    pub fn start(
        flags: &Flags,
        env: &Env,
        limits: Limits,
        cluster: Cluster,
        source: Source,
    ) -> anyhow::Result<Self> {
        let (mut serving, mut beside) = (JoinSet::new(), JoinSet::new());
        let certificate = source.start(&mut beside)?;
        let registry = prometheus::Registry::new();
        machinist_infra::telemetry::metrics::register(&registry, env!("CARGO_PKG_VERSION"))?;
        let (metrics, draining) = (Metrics::new(&registry)?, Draining::default());
        let admission = Admission::new(
            flags.settings(env),
            address_policy(flags),
            !env.kubeconfig.is_empty(),
            cluster,
        );
        let (listener, address) = listen(flags.listen_address)?;
        let (ops_listener, ops_address) = listen(flags.ops_address)?;

        let handle = Handle::new();
        let tls = server_config(certificate.clone(), flags.tls_min_version.into(), clients(flags)?)?;
        let router = handler::router(admission, metrics.clone(), &limits);
        let router = server::limited(router, &limits.timeouts, draining.clone());
        let ops = ops::router(Ops {
            draining: draining.clone(),
            certificate,
            registry,
            metrics,
        });
        beside.spawn({
            let timeouts = limits.timeouts.clone();
            async move {
                http_server::serve(
                    ops_listener,
                    NoDelayAcceptor::new(),
                    ops,
                    &timeouts,
                    Handle::new(),
                )
                .await
            }
        });
        serving.spawn({
            let handle = handle.clone();
            async move { server::serve_tls(listener, tls, router, &limits.timeouts, handle).await }
        });
        Ok(Self {
            address,
            ops_address,
            draining,
            handle,
            serving,
            beside,
        })
    }

    /// Serves until `stop`, then for `notice` with failing readiness, then until the last request is answered.
    pub async fn run(mut self, stop: impl Future<Output = ()>, notice: Duration) -> anyhow::Result<()> {
        tokio::select! {
            () = stop => {}
            Some(ended) = self.serving.join_next() => return ended?.context("the server ended"),
            Some(ended) = self.beside.join_next() => return ended?.context("the probes' server or the certificate's watch ended"),
        }
        tracing::info!("shutting down");
        self.draining.begin();
        tokio::time::sleep(notice).await;
        self.handle.graceful_shutdown(Some(DRAIN_TIMEOUT));
        while let Some(ended) = self.serving.join_next().await {
            ended??;
        }
        tracing::info!("done");
        Ok(())
    }
}

/// The allowed clients.
fn clients(flags: &Flags) -> anyhow::Result<Clients> {
    let names: Vec<String> = flags
        .client_allowed_names
        .iter()
        .filter(|name| !name.is_empty())
        .cloned()
        .collect();
    match (flags.client_ca_file.is_empty(), names.is_empty()) {
        (true, true) => Ok(Clients::Any),
        (true, false) => bail!("--client-allowed-names needs --client-ca-file, the CAs of those clients"),
        (false, true) => bail!(
            "--client-ca-file alone would accept every client of these CAs, which may include kubelets: \
             --client-allowed-names says whose certificates count"
        ),
        (false, false) => Ok(Clients::of_file(flags.client_ca_file.as_ref(), &names)?),
    }
}

fn listen(address: SocketAddr) -> anyhow::Result<(std::net::TcpListener, SocketAddr)> {
    let listener = server::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
