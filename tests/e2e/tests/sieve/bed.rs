//! The clusters of a part: with a pool that is operated on, and a MachineSet that must not change.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use e2e::{Case, manifest, wait};
use futures::StreamExt as _;
use kube::{
    ResourceExt,
    api::ListParams,
    runtime::{WatchStreamExt as _, watcher},
};
use machinist_shared::api::{Machine, MachineDeployment};
use testbed::bed::{CONTROLLER, MACHINES, Options};
use tokio::task::JoinHandle;

use super::{
    oracle::Snapshot,
    trial::{Cluster, Watch},
};

/// The MachineDeployment that is operated on.
pub(crate) const POOL: &str = "pool";
/// The MachineSet that must not change.
pub(crate) const BYSTANDER: &str = "bystander";

/// The specs must be fulfilled so long after an interference has ended.
pub(crate) const WAIT_TIMEOUT: Duration = Duration::from_mins(1);

/// A case with the bystander in place.
pub(crate) struct Bed {
    pub(crate) case: Case,
    /// Every watch that the controller has ever opened.
    pub(crate) watches: Vec<Watch>,
    created: Arc<Mutex<BTreeMap<String, String>>>,
    recorder: JoinHandle<()>,
}

impl Bed {
    pub(crate) async fn start(two_clusters: bool) -> Result<Self> {
        // Without leader election, so that no Lease has to expire after each restart.
        let options = Options {
            controller_args: vec!["--enable-leader-election=false".to_owned()],
            one_cluster: !two_clusters,
            ..Options::default()
        };
        let case = Case::start_alone(options).await?;
        let created = Arc::<Mutex<BTreeMap<_, _>>>::default();
        let recorder = tokio::spawn(record(case.machines(), Arc::clone(&created)));
        let mut bed = Self {
            case,
            watches: Vec::new(),
            created,
            recorder,
        };
        bed.case.apply(&manifest::machine_set(BYSTANDER, 1)).await?;
        bed.obeyed(None).await?;
        bed.case.settled().await;
        bed.note_watches();
        Ok(bed)
    }

    /// Waits until the specs are fulfilled: the pool has so many Machines, all of its template and joined, or there is none.
    pub(crate) async fn obeyed(&self, size: Option<i32>) -> Result<()> {
        let fits = |pool: Option<&MachineDeployment>| match (pool, size) {
            (None, None) => true,
            (Some(pool), Some(size)) => is_obeyed(pool, size),
            _ => false,
        };
        wait::until(&self.case.deployments(), POOL, "obeyed", WAIT_TIMEOUT, fits).await?;
        let wanted = usize::try_from(size.unwrap_or_default())? + 1;
        let joined = |machines: &[&Machine]| {
            machines.len() == wanted
                && machines.iter().all(|machine| {
                    machine.metadata.deletion_timestamp.is_none()
                        && machine
                            .status
                            .as_ref()
                            .is_some_and(|status| status.node_ref.is_some())
                })
        };
        wait::for_all(&self.case.machines(), "joined", WAIT_TIMEOUT, joined)
            .await
            .with_context(|| format!("{wanted} Machines"))?;
        Ok(())
    }

    /// The current objects.
    pub(crate) async fn seen(&self) -> Result<Snapshot> {
        Snapshot::take(&self.case).await
    }

    /// UIDs of all Machines that ever existed, with their names.
    pub(crate) fn created(&self) -> BTreeMap<String, String> {
        self.created
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The controller's name at a cluster's proxy, and that proxy.
    pub(crate) fn proxy(&self, cluster: Cluster) -> (&testbed::FaultProxy, &'static str) {
        match cluster {
            Cluster::User => (self.case.bed.user().proxy(), CONTROLLER),
            Cluster::Infra => (self.case.bed.infra().proxy(), MACHINES),
        }
    }

    pub(crate) fn heal(&self) {
        for cluster in Cluster::ALL {
            let (proxy, client) = self.proxy(cluster);
            proxy.heal(client);
            proxy.disarm(client);
        }
    }

    /// Records the watches that have been opened since the requests were cleared.
    pub(crate) fn note_watches(&mut self) {
        for cluster in Cluster::ALL {
            let (proxy, client) = self.proxy(cluster);
            let requests = proxy.requests_of(client).into_iter();
            for request in requests.filter(|request| request.target.verb == "watch") {
                let watch = Watch {
                    cluster,
                    resource: request.target.resource,
                };
                if !self.watches.contains(&watch) {
                    self.watches.push(watch);
                }
            }
        }
    }

    pub(crate) async fn restart_controller(&self) -> Result<()> {
        // The kernel may still be ending it.
        self.case.bed.controller().kill();
        self.case.bed.controller().start().await
    }

    pub(crate) fn logs(&self) -> String {
        self.case.bed.dir().display().to_string()
    }

    pub(crate) async fn end(self) -> Result<()> {
        self.recorder.abort();
        self.case.end().await
    }
}

fn is_obeyed(pool: &MachineDeployment, size: i32) -> bool {
    let Some(status) = &pool.status else { return false };
    let counts = [
        status.replicas,
        status.updated_replicas,
        status.available_replicas,
    ];
    pool.spec.replicas == Some(size)
        && status.observed_generation == pool.metadata.generation
        && counts.iter().all(|count| count.unwrap_or_default() == size)
}

/// Machines of the pool and the bystander, by name.
pub(crate) async fn machines(case: &Case) -> Result<Vec<Machine>> {
    let mut machines = case.machines().list(&ListParams::default()).await?.items;
    machines.sort_by_key(ResourceExt::name_any);
    Ok(machines)
}

async fn record(machines: kube::Api<Machine>, created: Arc<Mutex<BTreeMap<String, String>>>) {
    let mut events = watcher(machines, watcher::Config::default())
        .default_backoff()
        .boxed();
    while let Some(event) = events.next().await {
        if let Ok(watcher::Event::Apply(machine) | watcher::Event::InitApply(machine)) = event {
            let mut created = created.lock().unwrap_or_else(PoisonError::into_inner);
            created.insert(machine.uid().unwrap_or_default(), machine.name_any());
        }
    }
}
