//! A further infra cluster beside that of a bed, with its own control plane, proxy and simulated KubeVirt.

use std::ops::Deref;

use anyhow::Result;

use crate::{
    Testbed,
    bed::{Cluster, MACHINES},
    control_plane::Options,
    process::Process,
    seed::{self, INFRA_ACCOUNT, INFRA_NAMESPACE},
};

/// A separate infra cluster. It is stopped when this is dropped.
pub struct AnotherInfra {
    // Dropped in this order: clients before servers.
    _simulator: Process,
    cluster: Cluster,
}

impl AnotherInfra {
    /// Starts one for the Machines of that bed, and returns when it is ready.
    pub async fn start(bed: &Testbed, name: &str) -> Result<Self> {
        let cluster = Cluster::start(Options {
            name: name.to_owned(),
            dir: Some(bed.dir().join(name)),
            ..Options::infra()
        })
        .await?;
        seed::infra(&cluster).await?;
        let simulator = bed.simulate(&cluster, &format!("kubevirt-sim-{name}")).await?;
        Ok(Self {
            _simulator: simulator,
            cluster,
        })
    }

    /// The kubeconfig for Machines, through the proxy.
    pub async fn kubeconfig(&self) -> Result<String> {
        let server = self.cluster.proxy().listen_as(MACHINES)?;
        self.cluster
            .service_account_kubeconfig(INFRA_NAMESPACE, INFRA_ACCOUNT, &server)
            .await
    }
}

impl Deref for AnotherInfra {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}
