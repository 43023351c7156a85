//! Puts the process together: what all reconcilers have in common, and the reconcilers with what each remembers.

use std::sync::Arc;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use machinist_infra::kube::client::{ClientOptions, user_cluster_client};
use machinist_infra::kube::clock::ServerClock;
use machinist_infra::kube::fence::MayWrite;
use machinist_infra::kube::kubeconfig::AddressPolicy;
use machinist_infra::kube::traffic::Traffic;
use machinist_infra::kubevirt::pool::PoolOptions;
use machinist_infra::providers;
use machinist_shared::provider::Env;
use tokio::sync::mpsc;

use crate::app::changes::Changes;
use crate::app::reconcilers::Reconcilers;
use crate::autoscaler::NodeGroups;
use crate::bootstrap::Access;
use crate::cache::{CacheSync, References, Stores};
use crate::config::{Flags, Settings};
use crate::context::Context;
use crate::csr::reserved_addresses::Known;
use crate::csr::{ClientApprover, ClientRequestReconciler};
use crate::leader::Fence;
use crate::machine::drain::Drains;
use crate::machine::memory::Memory;
use crate::machine::reconcile::MachineReconciler;
use crate::machine::start_limiter::StartLimiter;
use crate::machine_deployment::MachineDeploymentReconciler;
use crate::machine_set::MachineSetReconciler;
use crate::runtime::queue::Queues;
use crate::telemetry::events::Events;
use crate::telemetry::metrics::Metrics;

/// The process, before it runs.
pub(super) struct Wired {
    pub(super) context: Arc<Context>,
    pub(super) reconcilers: Reconcilers,
    pub(super) changes: Changes,
}

/// Puts it together.
pub(super) async fn wire(
    flags: &Flags,
    (client, clock): (Client, ServerClock),
    infra_options: ClientOptions,
    metrics: Metrics,
    fence: Fence,
    identity: &str,
) -> anyhow::Result<Wired> {
    let settings = Settings::of(flags, cluster_uid(&client).await?);
    let (reference_changes, references) = mpsc::unbounded_channel();
    let (drained, pods) = mpsc::unbounded_channel();
    let (events, infra) = mpsc::unbounded_channel();
    let options = pool_options(flags, infra_options, &settings);
    let infra_client = options.client.clone();
    let own_server = flags.user_cluster().server_url().await.ok();
    let context = Arc::new(Context {
        references: References::new(client.clone(), reference_changes),
        infra: providers::shipped(options, events),
        stores: Arc::new(match flags.client_csr_approver {
            ClientApprover::Only => Stores::of_approver(),
            ClientApprover::Here | ClientApprover::Elsewhere => Stores::at(clock.clone()),
        }),
        clock,
        cache_sync: CacheSync::default(),
        queues: Queues::default(),
        settings: Arc::new(settings),
        env: Env::new(|name| std::env::var(name).ok()),
        access: Access::new(client.clone(), own_server, flags),
        events: Events::new(client.clone(), identity, metrics.clone()),
        metrics,
        fence,
        client: client.clone(),
    });
    let memory = Memory::new(
        StartLimiter::new(
            flags.max_starting_machines,
            // The others work on Machines that have their VMs.
            flags.worker_count * 3 / 4,
            flags.provisioning_timeout.0,
            flags.join_cluster_timeout.0,
        ),
        Drains::new(client, drained),
        Known::new(flags.service_cluster_ip_range.clone()),
    );
    let groups = NodeGroups::new(context.clone(), infra_client);
    let reconcilers = Reconcilers {
        machines: Arc::new(MachineReconciler::new(
            context.clone(),
            memory,
            flags.worker_count,
        )),
        sets: Arc::new(MachineSetReconciler::new(context.clone(), groups.clone())),
        deployments: Arc::new(MachineDeploymentReconciler::new(context.clone(), groups.clone())),
        groups,
        requests: Arc::new(ClientRequestReconciler::new(context.clone())),
        client_approver: flags.client_csr_approver,
        machine_sets: flags.machine_sets,
    };
    Ok(Wired {
        context,
        reconcilers,
        changes: Changes {
            references,
            pods,
            infra,
        },
    })
}

/// What tells this user cluster from others.
async fn cluster_uid(client: &Client) -> anyhow::Result<String> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let system = namespaces
        .get_metadata("kube-system")
        .await
        .context("cannot read the namespace kube-system")?;
    system
        .metadata
        .uid
        .context("the namespace kube-system has no UID")
}

fn pool_options(flags: &Flags, client: ClientOptions, settings: &Settings) -> PoolOptions {
    let addresses = AddressPolicy {
        allow_loopback: flags.infra_allow_loopback,
    };
    PoolOptions {
        client: ClientOptions { addresses, ..client },
        concurrency_limit: flags.worker_count.max(1),
        poll_interval: settings.poll_interval,
        facts_ttl: flags.infra_facts_ttl.0,
        cache_bytes: flags.infra_cache_mib.saturating_mul(1024 * 1024),
        cluster_uid: settings.cluster_uid.clone(),
    }
}

/// Makes a client of the user cluster.
pub(super) async fn user_cluster(flags: &Flags, options: &ClientOptions) -> anyhow::Result<Client> {
    user_cluster_client(flags.user_cluster(), options)
        .await
        .context("cannot make a client of the user cluster")
}

/// A client's options.
pub(super) fn counted(traffic: &Traffic) -> ClientOptions {
    ClientOptions {
        traffic: traffic.clone(),
        ..ClientOptions::default()
    }
}

/// The same of a client whose writes are the leader's.
pub(super) fn fenced(traffic: &Traffic, fence: &Fence) -> ClientOptions {
    let fence = fence.clone();
    ClientOptions {
        may_write: MayWrite::by(move || fence.may_write()),
        ..counted(traffic)
    }
}

/// The same of a client that tells the time.
pub(super) fn timed(options: ClientOptions, clock: &ServerClock) -> ClientOptions {
    ClientOptions {
        clock: Some(clock.clone()),
        ..options
    }
}
