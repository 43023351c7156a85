//! Wires the controller: clients, stores, leadership, workers, and an orderly end.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use machinist_infra::client::{ClientOptions, user_cluster_client};
use machinist_infra::clock::ServerClock;
use machinist_infra::fence::MayWrite;
use machinist_infra::kubeconfig::AddressPolicy;
use machinist_infra::lane::Lane;
use machinist_infra::pool::PoolOptions;
use machinist_infra::process::{bind, install_tls_provider};
use machinist_infra::provider::{self, InfraEvent};
use machinist_infra::store::Key;
use machinist_infra::traffic::Traffic;
use machinist_shared::kubevirt::resolved::Env;
use machinist_shared::names;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::app::server::{self, Health};
use crate::app::tasks::Tasks;
use crate::autoscaler::Instancetypes;
use crate::bootstrap::Access;
use crate::cache::{CaughtUp, References, Stores};
use crate::config::Flags;
use crate::context::{Context, Failures};
use crate::csr::ClientApprover;
use crate::csr::reserved::Known;
use crate::csr::told::Told;
use crate::leader::{Elector, ElectorConfig, Fence};
use crate::machine::brake::Brakes;
use crate::machine::conditions::ProgressInterval;
use crate::machine::contests::Contests;
use crate::machine::drain::Drains;
use crate::machine::drain::turns::Turns;
use crate::machine::evacuation::Surges;
use crate::machine::observed::Settings;
use crate::machine::reconcile;
use crate::machine::starts::Starts;
use crate::machine::times::Times;
use crate::machine_deployment::memory::Memories as DeploymentMemories;
use crate::machine_set::memory::Memories;
use crate::runtime::queue::Queues;
use crate::runtime::recreation::Recreations;
use crate::telemetry::collectors::{
    Blocked, ByState, ClockSkew, Depths, MachineController, Requests, Unreadable,
};
use crate::telemetry::events::Events;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::orphans::Orphans;
use crate::{certificates, csr, machine_deployment, machine_set, routing};

/// How long writes that have begun may take at the end: longer than any does.
const DRAIN: Duration = Duration::from_secs(5);

/// How long the start waits for what kubelets are told of the API server.
const LOOKED_UP: Duration = Duration::from_secs(3);

/// How often a Machine is looked at whose kubeconfig may not watch, if the flag is empty.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Runs the controller until it is told to stop or loses its leadership.
pub fn start(flags: Flags) -> anyhow::Result<()> {
    install_tls_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(flags))
}

/// Why the process ends.
enum End {
    /// It was told to.
    Stopped,
    /// Another leads, or nobody can tell.
    Lost,
    /// Something does not run that has to.
    Failed(anyhow::Error),
}

async fn run(flags: Flags) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    stop_on_signal(&stop)?;
    let registry = prometheus::Registry::new();
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
    let shared = prepare(
        &flags,
        (client.clone(), clock),
        infra_options,
        metrics.clone(),
        fence,
        &identity,
    )
    .await?;
    let (context, queues) = (shared.context, shared.queues);
    let client_approver = flags.client_csr_approver;
    close_unused(&queues, &flags);
    register(
        &registry,
        &context,
        flags.worker_count,
        [&traffic, &infra_traffic],
    )?;
    watch(&mut tasks, &context, &client, &queues);
    tasks.run(
        "the forwarding of changes",
        forward(context.clone(), shared.machines, shared.infra),
    );
    let certificates = keep_certificates(&mut tasks, &context, &own, &flags, &identity, &stop);

    let mut workers = Tasks::default();
    let leads = until_the_end(&stop, &mut tasks, async {
        context.stores.synced().await;
        if client_approver != ClientApprover::Only {
            // Only what is made anew needs it, and says so.
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
            lead(&mut workers, &context, &queues, flags.machine_sets);
            let end = until_the_end(&stop, &mut tasks, async {
                let lost = async {
                    match &leadership {
                        Some(leadership) => leadership.lost().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = lost => End::Lost,
                    error = workers.ended() => End::Failed(error),
                }
            });
            let end = end.await.unwrap_or_else(|end| end);
            (leadership, end)
        }
    };
    health.set_ready(false);
    // From here on no write begins.
    stop.cancel();
    queues.close();
    if matches!(end, End::Lost) {
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
        End::Stopped | End::Lost => Ok(()),
    }
}

/// Closes the queues that nobody takes from.
fn close_unused(queues: &Queues, flags: &Flags) {
    let approver = flags.client_csr_approver;
    if !flags.machine_sets || approver == ClientApprover::Only {
        queues.sets.close();
        queues.deployments.close();
    }
    match approver {
        ClientApprover::Here => {}
        ClientApprover::Elsewhere => queues.requests.close(),
        ClientApprover::Only => queues.machines.close(),
    }
}

async fn user_cluster(flags: &Flags, options: &ClientOptions) -> anyhow::Result<Client> {
    user_cluster_client(flags.user_cluster(), options)
        .await
        .context("cannot make a client of the user cluster")
}

/// A client's options.
fn counted(traffic: &Traffic) -> ClientOptions {
    ClientOptions {
        traffic: traffic.clone(),
        ..ClientOptions::default()
    }
}

/// The same of a client whose writes are the leader's.
fn fenced(traffic: &Traffic, fence: &Fence) -> ClientOptions {
    let fence = fence.clone();
    ClientOptions {
        may_write: MayWrite::by(move || fence.may_write()),
        ..counted(traffic)
    }
}

/// The same of a client that tells the time.
fn timed(options: ClientOptions, clock: &ServerClock) -> ClientOptions {
    ClientOptions {
        clock: Some(clock.clone()),
        ..options
    }
}

/// Writes that have begun are finished. Whoever only reads is not waited for: the next leader begins anew.
async fn finish(workers: &mut Tasks, [user, infra]: [&Traffic; 2]) {
    let quiet = async { tokio::join!(user.quiet(), infra.quiet()) };
    let done = async {
        tokio::select! {
            () = workers.all_ended() => {}
            ((), ()) = quiet => {}
        }
    };
    let _ = tokio::time::timeout(DRAIN, done).await;
}

/// Metrics that are read off when somebody asks for them.
fn register(
    registry: &prometheus::Registry,
    context: &Arc<Context>,
    worker_count: usize,
    [user, infra]: [&Traffic; 2],
) -> anyhow::Result<()> {
    registry.register(Box::new(Depths::new(Arc::downgrade(context))?))?;
    registry.register(Box::new(Requests::new(user.clone(), infra.clone())?))?;
    registry.register(Box::new(Unreadable::new()?))?;
    if context.settings.client_approver == ClientApprover::Only {
        // The other controller counts Machines.
        return Ok(());
    }
    registry.register(Box::new(Orphans::new(Arc::downgrade(context))?))?;
    registry.register(Box::new(Blocked::new(Arc::downgrade(context))?))?;
    registry.register(Box::new(ClockSkew::new(Arc::downgrade(context))?))?;
    registry.register(Box::new(ByState::infra_clusters(Arc::downgrade(context))?))?;
    registry.register(Box::new(ByState::starts(Arc::downgrade(context))?))?;
    registry.register(Box::new(MachineController::new(context, worker_count)?))?;
    Ok(())
}

/// Waits for `what`, unless the process has to end before.
async fn until_the_end<T>(
    stop: &CancellationToken,
    tasks: &mut Tasks,
    what: impl Future<Output = T>,
) -> Result<T, End> {
    tokio::select! {
        // Told to stop, servers end: that is no failure.
        biased;
        () = stop.cancelled() => Err(End::Stopped),
        error = tasks.ended() => Err(End::Failed(error)),
        done = what => Ok(done),
    }
}

/// Begins with what only the leader does.
fn lead(workers: &mut Tasks, context: &Arc<Context>, queues: &Queues, machine_sets: bool) {
    let client_approver = context.settings.client_approver;
    if client_approver != ClientApprover::Elsewhere {
        let approve = csr::approve::work(context.clone(), queues.requests.clone());
        workers.run("the work on signing requests", approve);
        tokio::spawn({
            let context = context.clone();
            async move { csr::bindings::check(&context).await }
        });
    }
    if client_approver == ClientApprover::Only {
        return;
    }
    if context.settings.approves_serving {
        tokio::spawn({
            let context = context.clone();
            async move { csr::approve::read_own_addresses(&context).await }
        });
    }
    workers.run("the work on Machines", reconcile::work(context.clone()));
    if machine_sets {
        workers.run("the work on MachineSets", machine_set::work(context.clone()));
        workers.run(
            "the work on MachineDeployments",
            machine_deployment::work(context.clone()),
        );
    }
    // Whatever came in before is decided now.
    for machine in context.stores.machines.all() {
        context.queue.add(Key::of(machine.as_ref()));
    }
    for machine in context.stores.lost.keys() {
        context.queue.add(machine);
    }
}

/// Listens for probes and metrics. A port that is taken is told before anything else is done.
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

/// Keeps the webhook's certificates, if they are ours to keep: whoever leads, for the webhook has to serve anyway. What is
/// returned ends when all is written and handed over.
fn keep_certificates(
    tasks: &mut Tasks,
    context: &Arc<Context>,
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
        let hands = certificates::Hands {
            context: context.clone(),
            client: client.clone(),
            events: Events::new(client.clone(), identity),
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

/// Watches whatever is watched in the user cluster for as long as the process lives.
fn watch(tasks: &mut Tasks, context: &Arc<Context>, client: &Client, queues: &Queues) {
    for watch in routing::watches(&context.stores, client, queues) {
        tasks.run("a watch of the user cluster", watch);
    }
    if context.settings.client_approver == ClientApprover::Only {
        return;
    }
    let budgets = Box::pin(context.drains.watch_budgets());
    tasks.run("a watch of the user cluster", budgets);
    let context = context.clone();
    tasks.run("the watch of how kubelets reach the API server", async move {
        let on_change = || {
            let without_vm = context.stores.machines.all().into_iter().filter(|machine| {
                let record = machine.record.as_ref();
                record.is_none_or(|record| record.vm_uid.is_none())
            });
            for machine in without_vm {
                context.queue.add(Key::of(machine.as_ref()));
            }
        };
        Box::pin(context.access.keep(on_change)).await;
    });
}

struct Shared {
    context: Arc<Context>,
    queues: Queues,
    /// Machines whose referenced objects have changed, and others to look at.
    machines: [mpsc::UnboundedReceiver<Key>; 2],
    infra: mpsc::UnboundedReceiver<InfraEvent>,
}

async fn prepare(
    flags: &Flags,
    (client, clock): (Client, ServerClock),
    infra_options: ClientOptions,
    metrics: Metrics,
    fence: Fence,
    identity: &str,
) -> anyhow::Result<Shared> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let system = namespaces
        .get_metadata("kube-system")
        .await
        .context("cannot read the namespace kube-system")?;
    let cluster_uid = system
        .metadata
        .uid
        .context("the namespace kube-system has no UID")?;
    let (referenced, of_references) = mpsc::unbounded_channel();
    let (changed, machines) = mpsc::unbounded_channel();
    let (events, infra) = mpsc::unbounded_channel();
    let addresses = AddressPolicy {
        allow_loopback: flags.infra_allow_loopback,
    };
    let options = PoolOptions {
        client: ClientOptions {
            addresses,
            ..infra_options
        },
        lane: flags.worker_count.max(1),
        look_every: flags.infra_look_every.0.unwrap_or(LOOK_EVERY),
        facts_ttl: flags.infra_facts_ttl.0,
        cache_bytes: flags.infra_cache_mib.saturating_mul(1024 * 1024),
        cluster_uid: cluster_uid.clone(),
    };
    let queues = Queues::default();
    let own_server = flags.user_cluster().server_url().await.ok();
    let context = Context {
        references: References::new(client.clone(), referenced),
        instancetypes: Instancetypes::new(options.client.clone()),
        evacuations: tokio::sync::Mutex::default(),
        surges: Surges::default(),
        starts: Starts::new(
            flags.max_starting_machines,
            flags.provisioning_timeout.0,
            flags.join_cluster_timeout.0,
        ),
        turns: Turns::default(),
        drains: Drains::new(client.clone(), changed),
        contests: Contests::default(),
        infra: provider::shipped(options, events),
        brakes: Brakes::default(),
        antechamber: Lane::new(flags.worker_count),
        stores: Arc::new(match flags.client_csr_approver {
            ClientApprover::Only => Stores::of_approver(),
            ClientApprover::Here | ClientApprover::Elsewhere => Stores::at(clock.clone()),
        }),
        clock,
        caught_up: CaughtUp::default(),
        queue: queues.machines.clone(),
        sets: queues.sets.clone(),
        set_memories: Memories::default(),
        deployments: queues.deployments.clone(),
        deployment_memories: DeploymentMemories::default(),
        settings: Arc::new(Settings {
            name: flags.name.clone(),
            join_timeout: flags.join_cluster_timeout.0,
            external_cloud_provider: flags.node_external_cloud_provider,
            cluster_uid,
            look_every: flags.infra_look_every.0.unwrap_or(LOOK_EVERY),
            provisioning_timeout: flags.provisioning_timeout.0,
            approves_serving: flags.node_csr_approver,
            client_approver: flags.client_csr_approver,
            bootstrap: flags.bootstrap,
            skip_eviction_after: flags.skip_eviction_after.0,
            progress: ProgressInterval::new(flags.progress_report_interval.0),
        }),
        env: Env::new(|name| std::env::var(name).ok()),
        access: Access::new(client.clone(), own_server, flags),
        reserved: Known::new(flags.service_cluster_ip_range.clone()),
        events: Events::new(client.clone(), identity),
        metrics,
        times: Times::default(),
        fence,
        leading_since: OnceLock::new(),
        failures: Failures::default(),
        recreations: Recreations::default(),
        told: Told::default(),
        client,
    };
    Ok(Shared {
        context: Arc::new(context),
        queues,
        machines: [of_references, machines],
        infra,
    })
}

/// Turns changes of referenced objects and of infra clusters into Machines to look at.
async fn forward(
    context: Arc<Context>,
    [mut references, mut machines]: [mpsc::UnboundedReceiver<Key>; 2],
    mut infra: mpsc::UnboundedReceiver<InfraEvent>,
) {
    loop {
        tokio::select! {
            Some(machine) = references.recv() => {
                context.failures.release(&machine);
                context.queue.add(machine);
            }
            Some(machine) = machines.recv() => context.queue.add(machine),
            Some(event) = infra.recv() => match event {
                InfraEvent::Vm { name } => {
                    for machine in context.stores.machines.by_index(&name) {
                        // Whoever does not lead has no passes that would see it.
                        if context.may_write() {
                            context.times.heard(&machine, Instant::now());
                        }
                        context.queue.add(Key::of(machine.as_ref()));
                    }
                    for machine in context.stores.lost.named(&name) {
                        context.queue.add(machine);
                    }
                }
                InfraEvent::State { machines } => {
                    for machine in machines {
                        context.failures.release(&machine);
                        context.queue.add(machine);
                    }
                }
            },
            else => return,
        }
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
