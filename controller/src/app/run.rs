//! Runs the process: clients, leadership, reconcilers, and an orderly end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use kube::Client;
use machinist_infra::kube::clock::ServerClock;
use machinist_infra::kube::traffic::Traffic;
use machinist_infra::process::{bind, install_tls_provider};
use machinist_shared::api::names;
use tokio_util::sync::CancellationToken;

use crate::app::server::{self, Health};
use crate::app::tasks::Tasks;
use crate::app::wiring::{Wired, counted, fenced, timed, user_cluster, wire};
use crate::app::{changes, collectors};
use crate::certificates;
use crate::config::Flags;
use crate::csr::ClientApprover;
use crate::leader::{Elector, ElectorConfig, Fence, Leadership};
use crate::telemetry::events::Events;
use crate::telemetry::metrics::Metrics;

/// How long writes that have begun may take at the end: longer than any does.
const DRAIN: Duration = Duration::from_secs(5);

/// How long the start waits for what kubelets are reported the API server.
const LOOKED_UP: Duration = Duration::from_secs(3);

/// Runs the controller until it is reported to stop or loses its leadership.
pub fn start(flags: Flags) -> anyhow::Result<()> {
    install_tls_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(flags))
}

/// Why the process ends.
enum End {
    /// It was reported to.
    Stopped,
    /// Another leads, or it cannot be determined.
    Tombstones,
    /// Something does not run that has to.
    Failed(anyhow::Error),
}

async fn run(flags: Flags) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    stop_on_signal(&stop)?;
    let registry = prometheus::Registry::new();
    machinist_infra::telemetry::metrics::register(&registry, env!("CARGO_PKG_VERSION"))?;
    let metrics = Metrics::new(&registry)?;
    let health = Arc::new(Health::default());
    let mut tasks = Tasks::default();
    serve(&mut tasks, &flags, &registry, &health, &stop)?;

    let (traffic, infra_traffic) = (Traffic::default(), Traffic::default());
    // For the Leases and what has a Lease of its own: never behind the fence, nor behind many other requests.
    let own = user_cluster(&flags, &counted(&traffic)).await?;
    let identity = identity();
    let elector = flags.enable_leader_election.then(|| {
        let config = ElectorConfig::new(flags.lease(), flags.lease_namespace(), identity.clone());
        Elector::new(own.clone(), config)
    });
    let fence = elector
        .as_ref()
        .map_or_else(Fence::open, Elector::fence)
        .until(stop.clone());
    let clock = ServerClock::default();
    let client = user_cluster(&flags, &timed(fenced(&traffic, &fence), &clock)).await?;
    let infra_options = fenced(&infra_traffic, &fence);
    let Wired {
        context,
        reconcilers,
        changes,
    } = wire(
        &flags,
        (client.clone(), clock),
        infra_options,
        metrics.clone(),
        fence,
        &identity,
    )
    .await?;
    let queues = &context.queues;
    reconcilers.close_unused(queues);
    collectors::register(
        &registry,
        (&context, &reconcilers),
        flags.worker_count,
        [&traffic, &infra_traffic],
    )?;
    changes::watch(&mut tasks, &context, &reconcilers);
    tasks.run(
        "the forwarding of changes",
        changes.forward(reconcilers.machines.clone(), reconcilers.groups.clone()),
    );
    let certificates = keep_certificates(&mut tasks, &metrics, &own, &flags, &identity, &stop);

    let mut workers = Tasks::default();
    let leads = until_the_end(&stop, &mut tasks, async {
        context.stores.synced().await;
        if flags.client_csr_approver != ClientApprover::Only {
            // Only what is recreated needs it, and says so.
            let _ = tokio::time::timeout(LOOKED_UP, context.access.looked_up()).await;
        }
        health.set_ready(true);
        tracing::info!("caches are synced");
        match &elector {
            Some(elector) => Some(elector.acquire().await),
            None => None,
        }
    });
    let (leadership, end) = match leads.await {
        Err(end) => (None, end),
        Ok(leadership) => {
            metrics.leader.set(1);
            tracing::info!(identity, "leading");
            reconcilers.run(&mut workers, &context);
            let end = until_the_end(
                &stop,
                &mut tasks,
                while_leading(leadership.as_ref(), &mut workers),
            );
            let end = end.await.unwrap_or_else(|end| end);
            (leadership, end)
        }
    };
    health.set_ready(false);
    // From here on no write begins.
    stop.cancel();
    queues.close();
    if matches!(end, End::Tombstones) {
        tracing::error!("leadership is lost; this process ends");
        return Ok(());
    }
    tracing::info!("stopping");
    finish(&mut workers, [&traffic, &infra_traffic]).await;
    workers.shut_down().await;
    if let Some(leadership) = leadership {
        leadership.release().await;
    }
    let _ = tokio::time::timeout(DRAIN, certificates).await;
    match end {
        End::Failed(error) => Err(error),
        End::Stopped | End::Tombstones => Ok(()),
    }
}

/// Ends when leadership is lost, or a worker ends.
async fn while_leading(leadership: Option<&Leadership>, workers: &mut Tasks) -> End {
    let lost = async {
        match leadership {
            Some(leadership) => leadership.lost().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = lost => End::Tombstones,
        error = workers.ended() => End::Failed(error),
    }
}

/// Writes that have begun are finished. Who only reads is not waited for: the next leader begins again.
async fn finish(workers: &mut Tasks, [user, infra]: [&Traffic; 2]) {
    let quiet = async { tokio::join!(user.writes_done(), infra.writes_done()) };
    let done = async {
        tokio::select! {
            () = workers.all_ended() => {}
            ((), ()) = quiet => {}
        }
    };
    let _ = tokio::time::timeout(DRAIN, done).await;
}

/// Waits for `what`, unless the process has to end before.
async fn until_the_end<T>(
    stop: &CancellationToken,
    tasks: &mut Tasks,
    what: impl Future<Output = T>,
) -> Result<T, End> {
    tokio::select! {
        // Servers end when they are asked to stop: that is no failure.
        biased;
        () = stop.cancelled() => Err(End::Stopped),
        error = tasks.ended() => Err(End::Failed(error)),
        done = what => Ok(done),
    }
}

/// Listens for probes and metrics. A port that is taken is reported before anything else is done.
fn serve(
    tasks: &mut Tasks,
    flags: &Flags,
    registry: &prometheus::Registry,
    health: &Arc<Health>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let listen =
        |address, what: &str| bind(address).with_context(|| format!("cannot serve {what} on {address}"));
    let probes = listen(flags.health_probe_address, "the probes")?;
    let metrics = listen(flags.metrics_address, "the metrics")?;
    tasks.spawn(
        "the server of probes",
        server::probes(probes, health.clone(), stop.clone()),
    );
    tasks.spawn(
        "the server of metrics",
        server::metrics(metrics, registry.clone(), stop.clone()),
    );
    Ok(())
}

/// Keeps the webhook's certificates, if they are ours to keep: the leader, for the webhook has to serve anyway. What is
/// returned ends when all is written and handed over.
fn keep_certificates(
    tasks: &mut Tasks,
    metrics: &Metrics,
    client: &Client,
    flags: &Flags,
    identity: &str,
    stop: &CancellationToken,
) -> impl Future<Output = ()> + use<> {
    let (ended, end) = tokio::sync::oneshot::channel::<()>();
    if let Some(settings) = certificates::Settings::new(flags) {
        let elector = flags.enable_leader_election.then(|| {
            let namespace = settings.serving.namespace.clone();
            let config = ElectorConfig::new(
                names::CERTIFICATES_LEASE.to_owned(),
                namespace,
                identity.to_owned(),
            );
            Elector::new(client.clone(), config)
        });
        let hands = certificates::CertificateContext {
            metrics: metrics.clone(),
            client: client.clone(),
            events: Events::new(client.clone(), identity, metrics.clone()),
        };
        let work = Box::pin(certificates::work(hands, settings, elector, stop.clone()));
        tasks.run("the work on the webhook's certificates", async move {
            let _ended = ended;
            work.await;
        });
    }
    async move {
        // Dropped, it has ended.
        let _ = end.await;
    }
}

fn stop_on_signal(stop: &CancellationToken) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}

/// Unique for this process: the host's name and a random part.
fn identity() -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "machinist-controller".to_owned());
    format!("{host}_{:016x}", rand::random::<u64>())
}
