//! Flags of the controller. Names that machine-controller has keep its meaning: [`machine_controller`] has the list.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};

use clap::{ArgAction, Parser};
use machinist_command_line::value::{
    NonzeroDuration, OptionalName, address, boolean, nonzero_duration, object_name,
};
pub use machinist_command_line::value::{OptionalDuration, duration};
use machinist_command_line::{Parsed, heading};
use machinist_infra::kube::user_cluster::UserCluster;
use machinist_infra::telemetry::{Endpoint, LogFormat};
use machinist_shared::api::names;

use crate::bootstrap::Mode;
use crate::csr::range::Range;

pub mod machine_controller;
mod settings;

pub use settings::{ClientApprover, Settings};

/// Makes Kubernetes nodes out of Machines on KubeVirt.
#[derive(Debug, Clone, Parser)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
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
    /// Name of the Lease; empty is `machine-controller`, which machine-controller takes, too. Controllers with different `--name`s
    /// that are to run at once need a Lease each.
    #[arg(long, env = "MACHINIST_LEADER_ELECTION_LEASE", help_heading = heading::LEADER_ELECTION)]
    #[arg(default_value = "machine-controller")]
    pub leader_election_lease: String,
    /// Handle only Machines whose label `machine.k8s.io/controller` has this value.
    #[arg(long, env = "MACHINIST_NAME", help_heading = heading::MACHINES)]
    #[arg(default_value = "")]
    pub name: String,
    /// Work on MachineSets and MachineDeployments, whatever `--name` is, as machine-controller does. Of several controllers that
    /// run at once, one does, or each would make a set's Machines.
    #[arg(long, env = "MACHINIST_MACHINE_SETS", help_heading = heading::MACHINES)]
    #[arg(default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    #[arg(value_parser = boolean, value_name = "BOOL")]
    pub machine_sets: bool,
    /// How many Machines of one infra cluster are worked on at a time. Three quarters of them may be those whose VM is being
    /// created, fewer while the infra cluster answers slowly, two at least.
    #[arg(long, env = "MACHINIST_WORKER_COUNT", help_heading = heading::MACHINES)]
    #[arg(default_value_t = 16)]
    pub worker_count: usize,
    /// A Machine that has not joined after this long counts as failed and, in a MachineSet, is replaced; and so is one whose guest
    /// has ended, or whose Node has been deleted, for this long: `25m`, `1h30m`.
    #[arg(long, env = "MACHINIST_JOIN_CLUSTER_TIMEOUT", help_heading = heading::MACHINES)]
    #[arg(default_value = "", value_parser = duration)]
    pub join_cluster_timeout: OptionalDuration,
    /// A VM that does not run after this long, importing and scheduling included, counts as failed and, in a MachineSet,
    /// its Machine is replaced. The annotation `machinist.dev/provisioning-timeout` of a Machine goes before it.
    #[arg(long, env = "MACHINIST_PROVISIONING_TIMEOUT", help_heading = heading::MACHINES)]
    #[arg(default_value = "", value_parser = duration)]
    pub provisioning_timeout: OptionalDuration,
    /// Machines of one infra cluster that have a VM and have never been Ready, at most: more VMs are made when these are Ready, or
    /// over their timeout. One MachineSet alone gets three quarters of it, so that others can start. 0: no limit.
    #[arg(long, env = "MACHINIST_MAX_STARTING_MACHINES", help_heading = heading::MACHINES)]
    #[arg(default_value_t = 2000)]
    pub max_starting_machines: usize,
    /// A Machine whose deletion was asked for this long ago waits for no pod and no volume of its Node any more; empty for
    /// ever.
    #[arg(long, env = "MACHINIST_SKIP_EVICTION_AFTER", help_heading = heading::MACHINES)]
    #[arg(default_value = "2h", value_parser = duration)]
    pub skip_eviction_after: OptionalDuration,
    /// Progress alone, like the stage of a start, is written into a Machine's conditions this long after the last write; other
    /// words for the same stage, like the percentage of an import, after more than three times as long. Causes and results are
    /// written at once.
    #[arg(long, env = "MACHINIST_PROGRESS_REPORT_INTERVAL", help_heading = heading::MACHINES)]
    #[arg(default_value = "3s", value_parser = nonzero_duration)]
    pub progress_report_interval: NonzeroDuration,
    /// How long what was read of an infra cluster for a VM is used again: a StorageClass, StorageProfiles, the kind of an
    /// instancetype. Of an image's headers, which are credentials, it is 10 seconds at most.
    #[arg(long, env = "MACHINIST_INFRA_FACTS_TTL", help_heading = heading::MACHINES)]
    #[arg(default_value = "5m", value_parser = nonzero_duration)]
    pub infra_facts_ttl: NonzeroDuration,
    /// Secret that the webhook serves with, `namespace/name`: a controller makes it, signs it with a CA of its own, renews both,
    /// and has the webhook configurations trust them. Empty: another client does.
    #[arg(long, env = "MACHINIST_WEBHOOK_SERVING_SECRET", help_heading = heading::SERVING)]
    #[arg(default_value = "", value_parser = object_name)]
    pub webhook_serving_secret: OptionalName,
    /// Secret of that CA, in the same namespace.
    #[arg(long, env = "MACHINIST_WEBHOOK_CA_SECRET", help_heading = heading::SERVING)]
    #[arg(default_value = "machinist-webhook-ca")]
    pub webhook_ca_secret: String,
    /// Name of the mutating and of the validating webhook configuration.
    #[arg(long, env = "MACHINIST_WEBHOOK_CONFIGURATION", help_heading = heading::SERVING)]
    #[arg(default_value = "machinist")]
    pub webhook_configuration: String,
    /// Where the webhook's replicas are, which are asked by a handshake what they serve, before an old CA is given up: a Service
    /// of that namespace; or `host:port`, repeated or with commas between, with all addresses that a name has.
    #[arg(long, env = "MACHINIST_WEBHOOK_REPLICAS", help_heading = heading::SERVING)]
    #[arg(default_value = "machinist-webhook", value_delimiter = ',')]
    pub webhook_replicas: Vec<String>,
    /// DNS names and IP addresses by which API servers call the webhook, with commas between; empty: that of the Service.
    #[arg(long, env = "MACHINIST_WEBHOOK_CERTIFICATE_NAMES", help_heading = heading::SERVING)]
    #[arg(value_delimiter = ',', value_parser = server_name)]
    pub webhook_certificate_names: Vec<String>,
    /// How long a CA is valid. After two thirds of it another takes its place.
    #[arg(long, env = "MACHINIST_WEBHOOK_CA_LIFETIME", help_heading = heading::SERVING)]
    #[arg(default_value = "8760h", value_parser = nonzero_duration)]
    pub webhook_ca_lifetime: NonzeroDuration,
    /// How long a serving certificate is valid. After two thirds of it another takes its place.
    #[arg(long, env = "MACHINIST_WEBHOOK_CERTIFICATE_LIFETIME", help_heading = heading::SERVING)]
    #[arg(default_value = "2160h", value_parser = nonzero_duration)]
    pub webhook_certificate_lifetime: NonzeroDuration,
    /// How long API servers and the webhook's replicas may take to learn of what is new.
    #[arg(long, env = "MACHINIST_WEBHOOK_CERTIFICATE_OVERLAP", help_heading = heading::SERVING)]
    #[arg(default_value = "5m", value_parser = nonzero_duration)]
    pub webhook_certificate_overlap: NonzeroDuration,
    /// Approve the serving certificates of our Machines' kubelets, and have kubelets ask for them.
    #[arg(long, env = "MACHINIST_NODE_CSR_APPROVER", help_heading = heading::BOOTSTRAP)]
    #[arg(default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    #[arg(value_parser = boolean, value_name = "BOOL")]
    pub node_csr_approver: bool,
    /// Which process approves the first client certificates of our Machines' kubelets.
    #[arg(long, env = "MACHINIST_CLIENT_CSR_APPROVER", help_heading = heading::BOOTSTRAP)]
    #[arg(default_value = "here", ignore_case = true)]
    pub client_csr_approver: ClientApprover,
    /// Ranges that Services get their addresses from, as the API server's flag of that name has them, with commas between: no
    /// serving certificate is for one of those. Kubernetes from 1.33 on tells them itself; before, without this flag, no
    /// certificate is for an address of the largest range that there can be.
    #[arg(long, env = "MACHINIST_SERVICE_CLUSTER_IP_RANGE", help_heading = heading::BOOTSTRAP)]
    #[arg(value_delimiter = ',')]
    pub service_cluster_ip_range: Vec<Range>,
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
    /// URL of the API server for the kubelets; without it, that of `kube-public/cluster-info` or, where there is none, of the
    /// Service `default/kubernetes`.
    #[arg(long, env = "MACHINIST_OVERRIDE_BOOTSTRAP_KUBELET_APISERVER", help_heading = heading::BOOTSTRAP)]
    #[arg(default_value = "")]
    pub override_bootstrap_kubelet_apiserver: String,
    /// IP addresses of the cluster's DNS service for the kubelets, separated by commas, or each by a flag. Without one, that of
    /// the Service `kube-dns`, `rke2-coredns-rke2-coredns` or `coredns` in `kube-system`, or 10.96.0.10.
    #[arg(long, env = "MACHINIST_CLUSTER_DNS", help_heading = heading::BOOTSTRAP)]
    #[arg(default_value = "", value_delimiter = ',')]
    cluster_dns: Vec<String>,
    /// Domain of the cluster's DNS.
    #[arg(long, env = "MACHINIST_CLUSTER_DOMAIN", help_heading = heading::BOOTSTRAP)]
    #[arg(default_value = "cluster.local")]
    pub cluster_domain: String,
    /// How often a Machine is polled whose kubeconfig may not watch the infra cluster.
    #[arg(long, env = "MACHINIST_INFRA_LOOK_EVERY", help_heading = heading::INFRA)]
    #[arg(default_value = "30s", value_parser = duration)]
    pub infra_look_every: OptionalDuration,
    /// MiB that are held of the objects of all infra clusters together. Of one that is over its share, which grows with its
    /// Machines, nothing is held: its Machines are polled one by one.
    #[arg(long, env = "MACHINIST_INFRA_CACHE_MIB", help_heading = heading::INFRA)]
    #[arg(default_value_t = 192)]
    pub infra_cache_mib: usize,
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
    /// URL of an OpenTelemetry collector, like `http://collector:4318`: whereto spans go, as OTLP over HTTP. Empty: none are made.
    #[arg(long, env = "MACHINIST_OTLP_ENDPOINT", help_heading = heading::OBSERVABILITY)]
    #[arg(default_value = "")]
    pub otlp_endpoint: Endpoint,
}

impl Flags {
    /// Reads the arguments of the process, in Go's syntax or in ours.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<Parsed<Self>, clap::Error> {
        let mut parsed: Parsed<Self> = machinist_command_line::parse(args, machine_controller::FLAGS)?;
        parsed.notices.extend(parsed.flags.no_dns());
        Ok(parsed)
    }

    /// The user cluster.
    pub fn user_cluster(&self) -> UserCluster<'_> {
        UserCluster {
            kubeconfig: &self.kubeconfig,
            server: &self.master,
        }
    }

    /// Addresses of the cluster's DNS service; none if it is to be found.
    pub fn cluster_dns(&self) -> Vec<IpAddr> {
        self.cluster_dns.iter().flat_map(|text| text.parse()).collect()
    }

    /// What was given for one and is none. machine-controller takes any text, and does nothing with it.
    fn no_dns(&self) -> Option<String> {
        let given = self.cluster_dns.iter().filter(|text| !text.is_empty());
        let none: Vec<_> = given.filter(|text| text.parse::<IpAddr>().is_err()).collect();
        (!none.is_empty()).then(|| {
            let used = match self.cluster_dns().as_slice() {
                [] => "that of the cluster's DNS Service".to_owned(),
                used => format!("{used:?}"),
            };
            format!("--cluster-dns has {none:?}, which kubelets cannot use: it takes IP addresses. They get {used}")
        })
    }

    /// Namespace of the Lease.
    pub fn lease_namespace(&self) -> String {
        let named = Some(self.leader_election_namespace.as_str()).filter(|name| !name.is_empty());
        named.unwrap_or("kube-system").to_owned()
    }

    /// Name of the Lease.
    pub fn lease(&self) -> String {
        let named = Some(self.leader_election_lease.as_str()).filter(|name| !name.is_empty());
        named.unwrap_or(names::LEASE).to_owned()
    }
}

fn mode(text: &str) -> Result<Mode, String> {
    text.parse()
        .map_err(|error: crate::bootstrap::source::ModeError| error.to_string())
}

fn server_name(text: &str) -> Result<String, String> {
    match rustls::pki_types::ServerName::try_from(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(format!("{text:?} is neither a DNS name nor an IP address")),
    }
}

#[cfg(test)]
mod tests;
