//! Flags of the controller. Names that machine-controller has keep its meaning: [`machine_controller`] has the list.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Duration;

use clap::{ArgAction, Parser, ValueEnum};
use machinist_infra::user_cluster::UserCluster;
use machinist_shared::command_line::value::{address, boolean};
use machinist_shared::command_line::{self, Told, heading};

use crate::bootstrap::Mode;

pub mod machine_controller;

/// Makes Kubernetes nodes out of Machines on KubeVirt.
#[derive(Debug, Clone, Parser)]
#[allow(clippy::struct_excessive_bools)] // Each is a flag of its own.
#[command(name = "machinist-controller", version, args_override_self = true)]
pub struct Flags {
    /// Kubeconfig of the user cluster; without it, the ServiceAccount of the pod.
    #[arg(long, env = "MACHINIST_KUBECONFIG", help_heading = heading::CONNECTION)]
    #[arg(default_value = "")]
    pub kubeconfig: String,
    /// URL of the user cluster's API server, instead of the kubeconfig's.
    #[arg(long, env = "MACHINIST_MASTER", help_heading = heading::CONNECTION)]
    #[arg(default_value = "")]
    pub master: String,
    /// Take the Lease before acting, so that only one controller acts.
    #[arg(long, env = "MACHINIST_ENABLE_LEADER_ELECTION", help_heading = heading::LEADER_ELECTION)]
    #[arg(default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    #[arg(value_parser = boolean, value_name = "BOOL")]
    pub enable_leader_election: bool,
    /// Namespace of the Lease; empty is `kube-system`.
    #[arg(long, env = "MACHINIST_LEADER_ELECTION_NAMESPACE", help_heading = heading::LEADER_ELECTION)]
    #[arg(default_value = "kube-system")]
    pub leader_election_namespace: String,
    /// Handle only Machines whose label `machine.k8s.io/controller` has this value.
    #[arg(long, env = "MACHINIST_NAME", help_heading = heading::MACHINES)]
    #[arg(default_value = "")]
    pub name: String,
    /// How many Machines of one infra cluster are worked on at a time.
    #[arg(long, env = "MACHINIST_WORKER_COUNT", help_heading = heading::MACHINES)]
    #[arg(default_value_t = 16)]
    pub worker_count: usize,
    /// A Machine that has not joined after this long counts as failed and, in a MachineSet, is replaced: `25m`, `1h30m`.
    #[arg(long, env = "MACHINIST_JOIN_CLUSTER_TIMEOUT", help_heading = heading::MACHINES)]
    #[arg(default_value = "", value_parser = duration)]
    pub join_cluster_timeout: OptionalDuration,
    /// A VM that does not run after this long, importing and scheduling included, counts as failed and, in a MachineSet,
    /// its Machine is replaced. The annotation `machinist.dev/provisioning-timeout` of a Machine goes before it.
    #[arg(long, env = "MACHINIST_PROVISIONING_TIMEOUT", help_heading = heading::MACHINES)]
    #[arg(default_value = "", value_parser = duration)]
    pub provisioning_timeout: OptionalDuration,
    /// A Machine whose deletion was asked for this long ago waits for no pod and no volume of its Node any more; empty for
    /// ever.
    #[arg(long, env = "MACHINIST_SKIP_EVICTION_AFTER", help_heading = heading::MACHINES)]
    #[arg(default_value = "2h", value_parser = duration)]
    pub skip_eviction_after: OptionalDuration,
    /// Approve the serving certificates of our Machines' kubelets, and have kubelets ask for them.
    #[arg(long, env = "MACHINIST_NODE_CSR_APPROVER", help_heading = heading::BOOTSTRAP)]
    #[arg(default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    #[arg(value_parser = boolean, value_name = "BOOL")]
    pub node_csr_approver: bool,
    /// An external cloud controller manager gives Nodes their providerID.
    #[arg(long, env = "MACHINIST_NODE_EXTERNAL_CLOUD_PROVIDER", help_heading = heading::BOOTSTRAP)]
    #[arg(default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    #[arg(value_parser = boolean, value_name = "BOOL")]
    pub node_external_cloud_provider: bool,
    /// Where user data comes from: *osm*, operating-system-manager's Secrets; *builtin*, Machinist; *auto*, osm if and only
    /// if the MachineDeployment has the annotation `k8c.io/operating-system-profile`. A Machine's annotation
    /// `machinist.dev/bootstrap` wins.
    #[arg(long, env = "MACHINIST_BOOTSTRAP", help_heading = heading::BOOTSTRAP)]
    #[arg(default_value_t = Mode::Auto, value_parser = mode)]
    pub bootstrap: Mode,
    /// URL of the API server for the kubelets; without it, that of `kube-public/cluster-info`.
    #[arg(long, env = "MACHINIST_OVERRIDE_BOOTSTRAP_KUBELET_APISERVER", help_heading = heading::BOOTSTRAP)]
    #[arg(default_value = "")]
    pub override_bootstrap_kubelet_apiserver: String,
    /// Addresses of the cluster's DNS service for the kubelets, separated by commas, or each by a flag.
    #[arg(long, env = "MACHINIST_CLUSTER_DNS", help_heading = heading::BOOTSTRAP)]
    #[arg(default_value = "10.96.0.10", value_delimiter = ',')]
    pub cluster_dns: Vec<std::net::IpAddr>,
    /// Domain of the cluster's DNS.
    #[arg(long, env = "MACHINIST_CLUSTER_DOMAIN", help_heading = heading::BOOTSTRAP)]
    #[arg(default_value = "cluster.local")]
    pub cluster_domain: String,
    /// How often a Machine is looked at whose kubeconfig may not watch the infra cluster.
    #[arg(long, env = "MACHINIST_INFRA_LOOK_EVERY", help_heading = heading::INFRA)]
    #[arg(default_value = "30s", value_parser = duration)]
    pub infra_look_every: OptionalDuration,
    /// Kubeconfigs in specs may lead to loopback and link-local addresses.
    #[arg(long, env = "MACHINIST_INFRA_ALLOW_LOOPBACK", help_heading = heading::INFRA)]
    #[arg(default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    #[arg(value_parser = boolean, value_name = "BOOL")]
    pub infra_allow_loopback: bool,
    /// Address of `/metrics`: `host:port`, or `:port` for all addresses.
    #[arg(long, env = "MACHINIST_METRICS_ADDRESS", help_heading = heading::OBSERVABILITY)]
    #[arg(default_value = "127.0.0.1:8080", value_parser = address)]
    pub metrics_address: SocketAddr,
    /// Address of `/healthz` and `/readyz`, likewise.
    #[arg(long, env = "MACHINIST_HEALTH_PROBE_ADDRESS", help_heading = heading::OBSERVABILITY)]
    #[arg(default_value = "127.0.0.1:8085", value_parser = address)]
    pub health_probe_address: SocketAddr,
    /// Form of the log lines.
    #[arg(long, env = "MACHINIST_LOG_FORMAT", help_heading = heading::OBSERVABILITY)]
    #[arg(default_value = "json", ignore_case = true)]
    pub log_format: LogFormat,
    /// Log what is decided, too.
    #[arg(long, env = "MACHINIST_LOG_DEBUG", help_heading = heading::OBSERVABILITY)]
    #[arg(default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    #[arg(value_parser = boolean, value_name = "BOOL")]
    pub log_debug: bool,
}

/// Form of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Console,
}

impl Flags {
    /// Reads the arguments of the process, in Go's syntax or in ours.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<Told<Self>, clap::Error> {
        command_line::parse(args, machine_controller::FLAGS)
    }

    /// The user cluster.
    pub fn user_cluster(&self) -> UserCluster<'_> {
        UserCluster {
            kubeconfig: &self.kubeconfig,
            server: &self.master,
        }
    }

    /// Namespace of the Lease.
    pub fn lease_namespace(&self) -> String {
        let named = Some(self.leader_election_namespace.as_str()).filter(|name| !name.is_empty());
        named.unwrap_or("kube-system").to_owned()
    }
}

/// A duration, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OptionalDuration(pub Option<Duration>);

fn mode(text: &str) -> Result<Mode, String> {
    text.parse()
        .map_err(|error: crate::bootstrap::source::ModeError| error.to_string())
}

/// Parses Go's durations (`25m`, `1h30m`, `90s`); the empty text is none.
pub(crate) fn duration(text: &str) -> Result<OptionalDuration, String> {
    if text.is_empty() {
        return Ok(OptionalDuration(None));
    }
    // Go's only duration without a unit.
    if text == "0" {
        return Ok(OptionalDuration(Some(Duration::ZERO)));
    }
    let span: jiff::SignedDuration = text
        .parse()
        .map_err(|_| format!("{text:?} is no duration like 25m or 1h30m"))?;
    let duration = Duration::try_from(span).map_err(|_| format!("{text:?} is negative"))?;
    Ok(OptionalDuration(Some(duration)))
}

#[cfg(test)]
mod tests;
