//! The whole simulator: starts the watches and the webhooks, and ends them.

use std::sync::{Arc, Mutex};

use futures::future::join_all;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::PostParams;
use kube::{Api, Client};
use tempfile::TempDir;
use thiserror::Error;
use tokio::sync::oneshot;

use crate::admission::{Admission, AdmissionError};
use crate::guest::GuestState;
use crate::guests::GuestManager;
use crate::hosts::Hosts;
use crate::objects::Kind;
use crate::options::{Options, Role};
use crate::real::{Host, HostError};
use crate::runner::Runner;
use crate::world::World;

/// Why a simulator does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// Its folder cannot be made.
    #[error("cannot make a folder for the guests' disks: {0}")]
    Disks(#[from] std::io::Error),
    /// Its namespace cannot be made.
    #[error("cannot create namespace {0}: {1}")]
    Namespace(String, #[source] kube::Error),
    /// The webhooks do not work.
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    /// Real guests cannot run.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The hosts cannot be made.
    #[error("cannot register the hosts: {0}")]
    Hosts(#[source] kube::Error),
    /// A watch ended before its first list was complete.
    #[error("cannot watch {0}")]
    Watch(String),
}

/// A running simulator. Dropped, it stops; [`Simulator::stop`] also takes the webhooks' registration back.
pub struct Simulator {
    runner: Arc<Runner>,
    admission: Option<Admission>,
    _disks: Option<TempDir>,
}

impl Simulator {
    /// Starts it in the namespace of the options, which is created if need be. Returns when all watches are in step
    /// and the API server asks the webhooks.
    pub async fn start(client: Client, options: Options) -> Result<Self, StartError> {
        // Someone else may have chosen one already, which is as good.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        ensure_namespace(&client, &options.namespace).await?;
        let temporary = match options.disks {
            Some(_) => None,
            None => Some(TempDir::with_prefix("kubevirt-sim-")?),
        };
        let folder = options
            .disks
            .clone()
            .or(temporary.as_ref().map(|folder| folder.path().to_owned()));
        // One of the two is there.
        let disks = folder.unwrap_or_default();
        let world = Arc::new(Mutex::new(World::default()));
        let host = match &options.real {
            Some(real) => Some(Arc::new(Host::start(real.clone()).await?)),
            None => None,
        };
        let guests = GuestManager::new(disks, options.kubelet, options.kubelet_version.clone(), host);
        let (kinds, hosts) = match &options.role {
            Role::All => (Kind::WATCHED, None),
            Role::Hosts(config) => (Kind::WATCHED_ON_HOSTS, Some(Hosts::start(&client, config).await?)),
        };
        let simulates_admission = hosts.is_none();
        let runner = Runner::new(client.clone(), options.clone(), Arc::clone(&world), guests, hosts);
        let mut simulator = Self {
            runner: Arc::clone(&runner),
            admission: None,
            _disks: temporary,
        };
        let watches = kinds.iter().map(|&kind| {
            let (synced, done) = oneshot::channel();
            tokio::spawn(Arc::clone(&runner).watch(kind, synced));
            async move { done.await.map_err(|_| StartError::Watch(kind.resource().plural)) }
        });
        for watch in join_all(watches).await {
            watch?;
        }
        if simulates_admission {
            let admission =
                Admission::start(client, &options.namespace, options.webhook_listen, world).await?;
            simulator.admission = Some(admission);
        }
        Ok(simulator)
    }

    /// Why the guest of a VM has not joined; nothing while it boots and once it has.
    pub fn guest_error(&self, vm: &str) -> Option<String> {
        match self.runner.guests.state(vm)? {
            GuestState::Failed(why) => Some(why),
            GuestState::Booting | GuestState::Joined(_) => None,
        }
    }

    /// The Node that the guest of a VM has registered.
    pub fn guest_node(&self, vm: &str) -> Option<String> {
        match self.runner.guests.state(vm)? {
            GuestState::Joined(node) => Some(node),
            GuestState::Booting | GuestState::Failed(_) => None,
        }
    }

    /// Ends every task, every guest and the webhooks; the cluster's objects stay as they are.
    pub async fn stop(mut self) {
        self.runner.stop.cancel();
        if let Some(admission) = self.admission.take() {
            admission.stop().await;
        }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.runner.stop.cancel();
    }
}

async fn ensure_namespace(client: &Client, name: &str) -> Result<(), StartError> {
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some(name.to_owned());
    let api: Api<Namespace> = Api::all(client.clone());
    match api.create(&PostParams::default(), &namespace).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(StartError::Namespace(name.to_owned(), error)),
    }
}
