//! Flags of the controller. Names that machine-controller has keep its meaning.

use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::bootstrap::Mode;

/// Makes Kubernetes nodes out of Machines on KubeVirt.
#[derive(Debug, Clone, Parser)]
#[allow(clippy::struct_excessive_bools)] // Each is a flag of its own.
#[command(name = "machinist-controller", version)]
pub struct Flags {
    /// Kubeconfig of the user cluster; without it, the ServiceAccount of the pod.
    #[arg(long, default_value = "")]
    pub kubeconfig: String,
    /// Take the Lease before acting, so that only one controller acts.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub enable_leader_election: bool,
    /// Namespace of the Lease.
    #[arg(long, default_value = "kube-system")]
    pub leader_election_namespace: String,
    /// Address of `/metrics`.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub metrics_address: String,
    /// Address of `/healthz` and `/readyz`.
    #[arg(long, default_value = "127.0.0.1:8085")]
    pub health_probe_address: String,
    /// Handle only Machines whose label `machine.k8s.io/controller` has this value.
    #[arg(long, default_value = "")]
    pub name: String,
    /// How many Machines of one infra cluster are worked on at a time.
    #[arg(long, default_value_t = 16)]
    pub worker_count: usize,
    /// A Machine that has not joined after this long counts as failed and, in a MachineSet, is replaced: `25m`, `1h30m`.
    #[arg(long, default_value = "", value_parser = duration)]
    pub join_cluster_timeout: OptionalDuration,
    /// A VM that does not run after this long, importing and scheduling included, counts as failed and, in a MachineSet,
    /// its Machine is replaced. The annotation `machinist.dev/provisioning-timeout` of a Machine goes before it.
    #[arg(long, default_value = "", value_parser = duration)]
    pub provisioning_timeout: OptionalDuration,
    /// A Machine whose deletion was asked for this long ago waits for no pod and no volume of its Node any more; empty for
    /// ever.
    #[arg(long, default_value = "2h", value_parser = duration)]
    pub skip_eviction_after: OptionalDuration,
    /// Approve the serving certificates of our Machines' kubelets, and have kubelets ask for them.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub node_csr_approver: bool,
    /// An external cloud controller manager gives Nodes their providerID.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set)]
    pub node_external_cloud_provider: bool,
    /// Where user data comes from: *osm*, operating-system-manager's Secrets; *builtin*, Machinist; *auto*, osm if and only
    /// if the MachineDeployment has the annotation `k8c.io/operating-system-profile`. A Machine's annotation
    /// `machinist.dev/bootstrap` wins.
    #[arg(long, default_value_t = Mode::Auto, value_parser = mode)]
    pub bootstrap: Mode,
    /// URL of the API server for the kubelets; without it, that of `kube-public/cluster-info`.
    #[arg(long, default_value = "")]
    pub override_bootstrap_kubelet_apiserver: String,
    /// Addresses of the cluster's DNS service for the kubelets, separated by commas.
    #[arg(long, default_value = "10.96.0.10", value_delimiter = ',')]
    pub cluster_dns: Vec<std::net::IpAddr>,
    /// Domain of the cluster's DNS.
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// How often a Machine is looked at whose kubeconfig may not watch the infra cluster.
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub infra_look_every: OptionalDuration,
    /// Kubeconfigs in specs may lead to loopback and link-local addresses.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set)]
    pub infra_allow_loopback: bool,
    /// Form of the log lines.
    #[arg(long, default_value = "json", ignore_case = true)]
    pub log_format: LogFormat,
    /// Log what is decided, too.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set)]
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
    let span: jiff::SignedDuration = text
        .parse()
        .map_err(|_| format!("{text:?} is no duration like 25m or 1h30m"))?;
    let duration = Duration::try_from(span).map_err(|_| format!("{text:?} is negative"))?;
    Ok(OptionalDuration(Some(duration)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        assert_eq!(
            duration("25m"),
            Ok(OptionalDuration(Some(Duration::from_mins(25))))
        );
        assert_eq!(
            duration("1h30m"),
            Ok(OptionalDuration(Some(Duration::from_mins(90))))
        );
        assert_eq!(duration(""), Ok(OptionalDuration(None)));
        assert!(duration("soon").unwrap_err().contains("25m"));
        assert!(duration("-5m").is_err());
    }

    #[test]
    fn the_flags_of_the_shipped_manifest_are_taken() {
        let flags = Flags::parse_from([
            "x",
            "--join-cluster-timeout=25m",
            "--cluster-dns=10.10.10.10",
            "--log-format=JSON",
        ]);
        assert_eq!(flags.join_cluster_timeout.0, Some(Duration::from_mins(25)));
        assert_eq!(flags.log_format, LogFormat::Json);
    }
}
