//! The options of a simulator.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What a simulator plays.
#[derive(Debug, Clone)]
pub enum Role {
    /// All of KubeVirt and CDI.
    All,
    /// The hosts under KubeVirt's and CDI's own controllers; how their virt-handlers reach the cluster.
    Hosts(Box<kube::Config>),
}

/// Timing and addresses of a simulator.
#[derive(Debug, Clone)]
pub struct Options {
    /// The namespace whose VMs it runs.
    pub namespace: String,
    /// From the creation of a VMI to Running.
    pub boot: Duration,
    /// From a bound claim to a DataVolume that has Succeeded.
    pub import: Duration,
    /// From Running to the start of the guest's kubelet.
    pub kubelet: Duration,
    /// How long a guest takes to shut down.
    pub shutdown: Duration,
    /// Where the admission webhook listens; port 0 means any free one.
    pub webhook_listen: SocketAddr,
    /// Folder of the guests' disks; a temporary one if absent. Guests survive a restart of the simulator only with
    /// a folder that does.
    pub disks: Option<PathBuf>,
    /// What the guests' kubelets call their version.
    pub kubelet_version: String,
    /// What it plays.
    pub role: Role,
    /// The options of real guests; without them, a VM with a real guest crashes at once.
    pub real: Option<crate::real::Options>,
}

impl Options {
    /// Fast enough for tests, slow enough for every intermediate state to be seen.
    pub fn new(namespace: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            boot: Duration::from_millis(400),
            import: Duration::from_millis(200),
            kubelet: Duration::from_millis(100),
            shutdown: Duration::from_millis(200),
            webhook_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            disks: None,
            kubelet_version: "v1.36.3".to_owned(),
            role: Role::All,
            real: None,
        }
    }
}
