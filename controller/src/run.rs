//! Wires the controller: clients, stores, leadership, workers, and an orderly end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use machinist_infra::client::{ClientOptions, user_cluster_client};
use machinist_infra::kubeconfig::AddressPolicy;
use machinist_infra::pool::PoolOptions;
use machinist_infra::provider::{self, InfraEvent};
use machinist_infra::store::Key;
use machinist_shared::kubevirt::resolved::Env;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::bootstrap;
use crate::context::{Context, Failures};
use crate::csr::told::Told;
use crate::events::Events;
use crate::flags::Flags;
use crate::leader::{Elector, ElectorConfig, Fence};
use crate::machine::brake::Brakes;
use crate::machine::drain::Drains;
use crate::machine::drain::turns::Turns;
use crate::machine::observed::Settings;
use crate::machine_deployment::instancetypes::Instancetypes;
use crate::machine_deployment::memory::Memories as DeploymentMemories;
use crate::machine_set::memory::Memories;
use crate::metrics::Metrics;
use crate::orphans::Orphans;
use crate::server::{self, Health};
use crate::user::{CaughtUp, Queues, References, Stores};
use crate::{csr, machine_deployment, machine_set, reconcile};

/// How long the workers may take to finish their writes at the end.
const DRAIN: Duration = Duration::from_secs(5);

/// How often a Machine is looked at whose kubeconfig may not watch, if the flag is empty.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Runs the controller until it is told to stop or loses its leadership.
pub fn start(flags: Flags) -> anyhow::Result<()> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a TLS provider is installed already"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(flags))
}

async fn run(flags: Flags) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    stop_on_signal(&stop)?;
    let registry = prometheus::Registry::new();
    let metrics = Metrics::new(&registry)?;
    let health = Arc::new(Health::default());
    let mut tasks = JoinSet::new();
    tasks.spawn(server::probes(
        flags.health_probe_address,
        health.clone(),
        stop.clone(),
    ));
    tasks.spawn(server::metrics(
        flags.metrics_address,
        registry.clone(),
        stop.clone(),
    ));

    let client = user_cluster_client(flags.user_cluster(), &ClientOptions::default())
        .await
        .context("cannot make a client of the user cluster")?;
    let identity = identity();
    let elector = Elector::new(
        client.clone(),
        ElectorConfig::new(flags.lease_namespace(), identity.clone()),
    );
    let fence = if flags.enable_leader_election {
        elector.fence()
    } else {
        Fence::open()
    };
    let shared = prepare(&flags, client.clone(), metrics.clone(), fence, &identity).await?;
    registry.register(Box::new(Orphans::new(Arc::downgrade(&shared.context))?))?;
    let queues = shared.queues.clone();
    watch(&mut tasks, &shared.context, &client, &queues);
    tasks.spawn(forward(shared.context.clone(), shared.machines, shared.infra));
    tokio::select! {
        () = shared.context.stores.synced() => {}
        () = stop.cancelled() => return Ok(()),
    }
    health.set_ready(true);
    tracing::info!("caches are synced");

    let leadership = if flags.enable_leader_election {
        tokio::select! {
            leadership = elector.acquire() => Some(leadership),
            () = stop.cancelled() => return Ok(()),
        }
    } else {
        None
    };
    metrics.leader.set(1);
    tracing::info!(identity, "leading");
    let mut workers = JoinSet::new();
    workers.spawn(reconcile::work(shared.context.clone()));
    workers.spawn(machine_set::work(shared.context.clone()));
    workers.spawn(machine_deployment::work(shared.context.clone()));
    workers.spawn(csr::approve::work(
        shared.context.clone(),
        queues.requests.clone(),
    ));
    tasks.spawn({
        let context = shared.context.clone();
        async move {
            csr::bindings::check(&context).await;
            Ok(())
        }
    });
    // Whatever came in before is decided now.
    for machine in shared.context.stores.machines.all() {
        shared.context.queue.add(Key::of(machine.as_ref()));
    }
    for machine in shared.context.stores.lost.keys() {
        shared.context.queue.add(machine);
    }

    let lost = async {
        match &leadership {
            Some(leadership) => leadership.lost().await,
            None => std::future::pending().await,
        }
    };
    let lost = tokio::select! {
        () = stop.cancelled() => false,
        () = lost => true,
    };
    health.set_ready(false);
    queues.close();
    if lost {
        tracing::error!("leadership is lost; this process ends");
        return Ok(());
    }
    tracing::info!("stopping");
    // Writes that have started are finished; what is not is done by the next leader.
    let _ = tokio::time::timeout(DRAIN, async { while workers.join_next().await.is_some() {} }).await;
    workers.shutdown().await;
    if let Some(leadership) = leadership {
        leadership.release().await;
    }
    Ok(())
}

/// Watches whatever is watched in the user cluster for as long as the process lives.
fn watch(tasks: &mut JoinSet<std::io::Result<()>>, context: &Context, client: &Client, queues: &Queues) {
    let mut watches = context.stores.watches(client, queues);
    watches.push(Box::pin(context.drains.watch_budgets()));
    for watch in watches {
        tasks.spawn(async move {
            watch.await;
            Ok(())
        });
    }
}

struct Shared {
    context: Arc<Context>,
    queues: Queues,
    machines: mpsc::UnboundedReceiver<Key>,
    infra: mpsc::UnboundedReceiver<InfraEvent>,
}

async fn prepare(
    flags: &Flags,
    client: Client,
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
    let access = bootstrap::access::read(
        &client,
        &flags.override_bootstrap_kubelet_apiserver,
        flags.cluster_dns.clone(),
        flags.cluster_domain.clone(),
    )
    .await?;
    let (changed, machines) = mpsc::unbounded_channel();
    let (events, infra) = mpsc::unbounded_channel();
    let addresses = AddressPolicy {
        allow_loopback: flags.infra_allow_loopback,
    };
    let options = PoolOptions {
        client: ClientOptions {
            addresses,
            ..ClientOptions::default()
        },
        lane: flags.worker_count.max(1),
        look_every: flags.infra_look_every.0.unwrap_or(LOOK_EVERY),
    };
    let queues = Queues::default();
    let context = Context {
        references: References::new(client.clone(), changed.clone()),
        instancetypes: Instancetypes::new(options.client.clone()),
        evacuations: tokio::sync::Mutex::default(),
        turns: Turns::default(),
        drains: Drains::new(client.clone(), changed),
        infra: provider::shipped(options, events),
        brakes: Brakes::default(),
        antechamber: Arc::new(Semaphore::new(flags.worker_count.max(1))),
        stores: Arc::new(Stores::default()),
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
            bootstrap: flags.bootstrap,
            skip_eviction_after: flags.skip_eviction_after.0,
        }),
        env: Env::new(|name| std::env::var(name).ok()),
        access,
        events: Events::new(client.clone(), identity),
        metrics,
        fence,
        failures: Failures::default(),
        told: Told::default(),
        client,
    };
    Ok(Shared {
        context: Arc::new(context),
        queues,
        machines,
        infra,
    })
}

/// Turns changes of referenced objects and of infra clusters into Machines to look at.
async fn forward(
    context: Arc<Context>,
    mut machines: mpsc::UnboundedReceiver<Key>,
    mut infra: mpsc::UnboundedReceiver<InfraEvent>,
) -> std::io::Result<()> {
    loop {
        tokio::select! {
            Some(machine) = machines.recv() => context.queue.add(machine),
            Some(event) = infra.recv() => match event {
                InfraEvent::Vm { name } => {
                    for machine in context.stores.machines.by_index(&name) {
                        context.queue.add(Key::of(machine.as_ref()));
                    }
                    for machine in context.stores.lost.named(&name) {
                        context.queue.add(machine);
                    }
                }
                InfraEvent::State { machines } => {
                    context.count_infra();
                    for machine in machines {
                        context.queue.add(machine);
                    }
                }
            },
            else => return Ok(()),
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
