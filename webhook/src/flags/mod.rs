//! Flags of the webhook. Flags with names of machine-controller keep their meaning: [`machine_controller`] has the
//! list.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{ArgAction, Parser, ValueEnum};
use machinist_certs::MinimumTls;
use machinist_command_line::value::{
    NonzeroDuration, OptionalDuration, OptionalName, address, address_with_port, boolean, duration,
    nonzero_duration, object_name,
};
use machinist_command_line::{Parsed, heading};
use machinist_infra::kube::user_cluster::UserCluster;
use machinist_infra::telemetry::{Endpoint, LogFormat};
use machinist_shared::admission::kubelet_version::VersionConstraint;
use machinist_shared::admission::{AdmissionSettings, parse_feature_gates};
use machinist_shared::api::bootstrap_mode::{BootstrapMode, ModeError};
use machinist_shared::provider::Env;

pub mod machine_controller;

/// Fills in the defaults of Machines and refuses those that cannot become Nodes.
#[derive(Debug, Clone, Parser)]
#[command(name = "machinist-webhook", version, args_override_self = true)]
pub struct Flags {
    /// Kubeconfig of the user cluster; the default is the ServiceAccount of the pod. The webhook checks the names of
    /// new Machines and the permissions of authors with this cluster. Without both, there are no such checks.
    #[arg(long, env = "MACHINIST_KUBECONFIG", help_heading = heading::CONNECTION)]
    #[arg(default_value = "")]
    pub kubeconfig: String,
    /// URL of the user cluster's API server, instead of the kubeconfig's.
    #[arg(long, env = "MACHINIST_MASTER", help_heading = heading::CONNECTION)]
    #[arg(default_value = "")]
    pub master: String,
    /// Same as `--kubeconfig`, and overrides it and `--master`: machine-controller's name for the cluster of the Machines and the
    /// Secrets and ConfigMaps that they reference.
    #[arg(long, env = "MACHINIST_WORKER_CLUSTER_KUBECONFIG", help_heading = heading::CONNECTION)]
    #[arg(default_value = "")]
    pub worker_cluster_kubeconfig: String,
    /// Address of `/mutate` and `/validate`, with TLS: `host:port`, or `:port` for all addresses. `host:` has port
    /// 9443.
    #[arg(long, env = "MACHINIST_LISTEN_ADDRESS", help_heading = heading::SERVING)]
    #[arg(default_value = ":9876", value_parser = listen_address)]
    pub listen_address: SocketAddr,
    /// Serving certificate, PEM. Reloaded when its directory changes.
    #[arg(long, env = "MACHINIST_TLS_CERT_PATH", help_heading = heading::SERVING)]
    #[arg(default_value = "/tmp/cert/tls.crt")]
    pub tls_cert_path: PathBuf,
    /// Its private key, PEM.
    #[arg(long, env = "MACHINIST_TLS_KEY_PATH", help_heading = heading::SERVING)]
    #[arg(default_value = "/tmp/cert/tls.key")]
    pub tls_key_path: PathBuf,
    /// Secret with the serving certificate, `namespace/name`, instead of the two files. The webhook watches it: it may
    /// be created later, and changes apply immediately.
    #[arg(long, env = "MACHINIST_TLS_SECRET", help_heading = heading::SERVING)]
    #[arg(default_value = "", value_parser = object_name)]
    pub tls_secret: OptionalName,
    /// The minimum TLS version.
    #[arg(long, env = "MACHINIST_TLS_MIN_VERSION", help_heading = heading::SERVING)]
    #[arg(default_value = "1.3")]
    pub tls_min_version: TlsVersion,
    /// CAs of clients, PEM, read at the start: only clients with a certificate of one of them, for one of
    /// `--client-allowed-names`, are accepted. Kubernetes API servers have one only if they are configured with one for
    /// this webhook.
    #[arg(long, env = "MACHINIST_CLIENT_CA_FILE", help_heading = heading::SERVING)]
    #[arg(default_value = "")]
    pub client_ca_file: String,
    /// Names of accepted clients, comma-separated: the common name, or a DNS name, of their certificates. Required with
    /// `--client-ca-file`, because the CA of a cluster issues certificates to every kubelet.
    #[arg(long, env = "MACHINIST_CLIENT_ALLOWED_NAMES", help_heading = heading::SERVING)]
    #[arg(value_delimiter = ',')]
    pub client_allowed_names: Vec<String>,
    /// User name of Machinist's controller, whose Machines are refused only if they cannot be rendered. Repeatable; the
    /// environment variable has one.
    #[arg(long, env = "MACHINIST_CONTROLLER_USER", help_heading = heading::ADMISSION)]
    #[arg(default_value = "system:serviceaccount:machinist-system:machinist-controller")]
    pub controller_user: Vec<String>,
    /// Allowed kubelet versions, like `>=1.32.0, <1.36.0`.
    #[arg(long, env = "MACHINIST_KUBERNETES_VERSION_CONSTRAINTS", help_heading = heading::ADMISSION)]
    #[arg(default_value = ">=0.0.0", value_parser = version_constraint)]
    pub kubernetes_version_constraints: VersionConstraint,
    /// What to do about kubelets that Kubernetes' version skew policy excludes: newer than the API server, or more than three minor
    /// versions older.
    #[arg(long, env = "MACHINIST_KUBELET_SKEW_POLICY", help_heading = heading::ADMISSION)]
    #[arg(default_value = "warn", ignore_case = true)]
    pub kubelet_skew_policy: crate::skew::SkewPolicy,
    /// Source of the user data, the same as of the controller: *osm*, *builtin* or *auto*. Where Machinist makes it, settings with
    /// which no node is made are refused.
    #[arg(long, env = "MACHINIST_BOOTSTRAP", help_heading = heading::BOOTSTRAP)]
    #[arg(default_value_t = BootstrapMode::Auto, value_parser = bootstrap_mode)]
    pub bootstrap: BootstrapMode,
    /// An external cloud controller manager sets the providerID of Nodes.
    #[arg(long, env = "MACHINIST_NODE_EXTERNAL_CLOUD_PROVIDER", help_heading = heading::BOOTSTRAP)]
    #[arg(default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    #[arg(value_parser = boolean, value_name = "BOOL")]
    pub node_external_cloud_provider: bool,
    /// Feature gates of the kubelets, like `Gate=true,OtherGate=false`.
    #[arg(long, env = "MACHINIST_NODE_KUBELET_FEATURE_GATES", help_heading = heading::BOOTSTRAP)]
    #[arg(default_value = "RotateKubeletServerCertificate=true", value_parser = feature_gates)]
    pub node_kubelet_feature_gates: FeatureGates,
    /// What to do when the requesting user cannot read a referenced Secret or ConfigMap.
    #[arg(long, env = "MACHINIST_REFERENCE_ACCESS_CHECK", help_heading = heading::ADMISSION)]
    #[arg(default_value = "enforce", ignore_case = true)]
    pub reference_access_check: crate::access::AccessMode,
    /// How long admission asks an infra cluster about a new Machine. The API server's timeout for this webhook must be longer, by
    /// a second at least.
    #[arg(long, env = "MACHINIST_INFRA_TIMEOUT", help_heading = heading::INFRA)]
    #[arg(default_value = "2s", value_parser = nonzero_duration)]
    pub infra_timeout: NonzeroDuration,
    /// What to do if an infra cluster does not answer within `--infra-timeout` whether it accepts a new Machine.
    #[arg(long, env = "MACHINIST_INFRA_UNREACHABLE", help_heading = heading::INFRA)]
    #[arg(default_value = "warn", ignore_case = true)]
    pub infra_unreachable: crate::infra::UnreachablePolicy,
    /// Allow loopback and link-local addresses in kubeconfigs in specs.
    #[arg(long, env = "MACHINIST_INFRA_ALLOW_LOOPBACK", help_heading = heading::INFRA)]
    #[arg(default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    #[arg(value_parser = boolean, value_name = "BOOL")]
    pub infra_allow_loopback: bool,
    /// How long to serve requests after SIGTERM, until endpoints and API servers notice the shutdown. The pod's
    /// `terminationGracePeriodSeconds` must be longer by at least 10 s.
    #[arg(long, env = "MACHINIST_SHUTDOWN_DELAY_DURATION", help_heading = heading::SERVING)]
    #[arg(default_value = "10s", value_parser = duration)]
    pub shutdown_delay_duration: OptionalDuration,
    /// Address of `/healthz`, `/readyz` and `/metrics`, without TLS.
    #[arg(long, env = "MACHINIST_OPS_ADDRESS", help_heading = heading::OBSERVABILITY)]
    #[arg(default_value = "0.0.0.0:8081", value_parser = address)]
    pub ops_address: SocketAddr,
    /// Format of the log lines.
    #[arg(long, env = "MACHINIST_LOG_FORMAT", help_heading = heading::OBSERVABILITY)]
    #[arg(default_value = "json", ignore_case = true)]
    pub log_format: LogFormat,
    /// Log every admission request.
    #[arg(long, env = "MACHINIST_LOG_DEBUG", help_heading = heading::OBSERVABILITY)]
    #[arg(default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    #[arg(value_parser = boolean, value_name = "BOOL")]
    pub log_debug: bool,
    /// URL of an OpenTelemetry collector for trace export (OTLP over HTTP), like `http://collector:4318`. Empty
    /// disables tracing.
    #[arg(long, env = "MACHINIST_OTLP_ENDPOINT", help_heading = heading::OBSERVABILITY)]
    #[arg(default_value = "")]
    pub otlp_endpoint: Endpoint,
}

/// The syntax of machine-controller, with its default port.
fn listen_address(text: &str) -> Result<SocketAddr, String> {
    address_with_port(text, 9443)
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TlsVersion {
    /// 1.2, with forward secrecy and authenticated encryption, and 1.3.
    #[value(name = "1.2")]
    Tls12,
    /// 1.3 only.
    #[value(name = "1.3")]
    Tls13,
}

impl From<TlsVersion> for MinimumTls {
    fn from(version: TlsVersion) -> Self {
        match version {
            TlsVersion::Tls12 => Self::Tls12,
            TlsVersion::Tls13 => Self::Tls13,
        }
    }
}

/// Kubelet feature gates by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureGates(std::collections::BTreeMap<String, bool>);

impl Flags {
    /// Parses the arguments of the process, in Go's syntax or Machinist's.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<Parsed<Self>, clap::Error> {
        machinist_command_line::parse(args, machine_controller::FLAGS)
    }

    /// The user cluster.
    pub fn user_cluster(&self) -> UserCluster<'_> {
        if self.worker_cluster_kubeconfig.is_empty() {
            return UserCluster {
                kubeconfig: &self.kubeconfig,
                server: &self.master,
            };
        }
        UserCluster {
            kubeconfig: &self.worker_cluster_kubeconfig,
            server: "",
        }
    }

    /// The settings of admission, from flags and environment.
    pub fn settings(&self, env: &Env) -> AdmissionSettings {
        AdmissionSettings {
            infra_namespace: env.infra_namespace.clone(),
            overridden: env.overridden(),
            feature_gates: self.node_kubelet_feature_gates.0.clone(),
            external_cloud_provider: self.node_external_cloud_provider,
            version_constraint: self.kubernetes_version_constraints.clone(),
            bootstrap: self.bootstrap,
            controller_users: self.controller_user.clone(),
        }
    }
}

fn bootstrap_mode(text: &str) -> Result<BootstrapMode, String> {
    text.parse().map_err(|error: ModeError| error.to_string())
}

fn version_constraint(text: &str) -> Result<VersionConstraint, String> {
    text.parse()
        .map_err(|error: machinist_shared::admission::kubelet_version::VersionError| error.to_string())
}

fn feature_gates(text: &str) -> Result<FeatureGates, String> {
    parse_feature_gates(text)
        .map(FeatureGates)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
