//! Flags of the webhook. Names that machine-controller has keep its meaning.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use clap::{ArgAction, Parser, ValueEnum};
use machinist_shared::admission::{AdmissionSettings, parse_feature_gates};
use machinist_shared::kubelet_version::VersionConstraint;
use machinist_shared::kubevirt::resolved::Env;

/// Fills in the defaults of Machines and refuses those that cannot become Nodes.
#[derive(Debug, Clone, Parser)]
#[command(name = "machinist-webhook", version)]
pub struct Flags {
    /// Kubeconfig of the user cluster; without it, the ServiceAccount of the pod. Asked whether the names of
    /// new Machines are free, and what authors may read; with neither, nobody is asked.
    #[arg(long, default_value = "")]
    pub kubeconfig: String,
    /// Address of `/mutate` and `/validate`, with TLS: `host:port`, or `:port` for all addresses.
    #[arg(long, default_value = ":9876", value_parser = address)]
    pub listen_address: SocketAddr,
    /// Serving certificate, PEM. Reloaded when its directory changes.
    #[arg(long, default_value = "/tmp/cert/tls.crt")]
    pub tls_cert_path: PathBuf,
    /// Its private key, PEM.
    #[arg(long, default_value = "/tmp/cert/tls.key")]
    pub tls_key_path: PathBuf,
    /// Address of `/healthz`, `/readyz` and `/metrics`, without TLS.
    #[arg(long, default_value = "0.0.0.0:8081", value_parser = address)]
    pub ops_address: SocketAddr,
    /// User that our controller goes by; its Machines are refused only for what cannot be rendered. Repeatable.
    #[arg(
        long,
        default_value = "system:serviceaccount:machinist-system:machinist-controller"
    )]
    pub controller_user: Vec<String>,
    /// Which kubelet versions are allowed, like `>=1.32.0, <1.36.0`.
    #[arg(long, default_value = ">=0.0.0", value_parser = version_constraint)]
    pub kubernetes_version_constraints: VersionConstraint,
    /// An external cloud controller manager gives Nodes their providerID.
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub node_external_cloud_provider: bool,
    /// Feature gates of the kubelets, like `Gate=true,OtherGate=false`.
    #[arg(long, default_value = "RotateKubeletServerCertificate=true", value_parser = feature_gates)]
    pub node_kubelet_feature_gates: FeatureGates,
    /// What comes of authors who may not read the Secrets and ConfigMaps that they refer to.
    #[arg(long, default_value = "enforce", ignore_case = true)]
    pub reference_access_check: crate::access::Mode,
    /// What comes of an infra cluster that cannot be asked within 2 s whether a new Machine is to its liking.
    #[arg(long, default_value = "warn", ignore_case = true)]
    pub infra_unreachable: crate::infra::Unreachable,
    /// Kubeconfigs in specs may lead to loopback and link-local addresses.
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub infra_allow_loopback: bool,
    /// Form of the log lines.
    #[arg(long, default_value = "json", ignore_case = true)]
    pub log_format: LogFormat,
    /// Log every admission, too.
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
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

/// Kubelet feature gates by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureGates(std::collections::BTreeMap<String, bool>);

impl Flags {
    /// What the rules of admission need of the flags and of the environment.
    pub fn settings(&self, env: &Env) -> AdmissionSettings {
        AdmissionSettings {
            infra_namespace: env.infra_namespace.clone(),
            feature_gates: self.node_kubelet_feature_gates.0.clone(),
            external_cloud_provider: self.node_external_cloud_provider,
            version_constraint: self.kubernetes_version_constraints.clone(),
            controller_users: self.controller_user.clone(),
        }
    }
}

/// Parses `host:port`, and `:port` as Go programs take it: every address, IPv4 and IPv6.
fn address(text: &str) -> Result<SocketAddr, String> {
    if let Some(port) = text.strip_prefix(':') {
        let port = port.parse().map_err(|_| format!("{text:?} has no port number"))?;
        return Ok(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port));
    }
    text.parse()
        .map_err(|_| format!("{text:?} is no address like 0.0.0.0:9876 or :9876"))
}

fn version_constraint(text: &str) -> Result<VersionConstraint, String> {
    text.parse()
        .map_err(|error: machinist_shared::kubelet_version::VersionError| error.to_string())
}

fn feature_gates(text: &str) -> Result<FeatureGates, String> {
    parse_feature_gates(text)
        .map(FeatureGates)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(":9876", Ok("[::]:9876"))]
    #[case("127.0.0.1:0", Ok("127.0.0.1:0"))]
    #[case("[::1]:1", Ok("[::1]:1"))]
    #[case("localhost:1", Err(()))]
    #[case(":http", Err(()))]
    fn addresses_are_read_as_go_programs_take_them(#[case] text: &str, #[case] want: Result<&str, ()>) {
        assert_eq!(
            address(text).map(|a| a.to_string()).map_err(|_| ()),
            want.map(str::to_owned)
        );
    }

    #[test]
    fn the_defaults_are_those_of_the_rules() {
        let flags = Flags::parse_from(["machinist-webhook"]);
        let (settings, want) = (flags.settings(&Env::new(|_| None)), AdmissionSettings::default());
        assert_eq!(settings.infra_namespace, want.infra_namespace);
        assert_eq!(settings.feature_gates, want.feature_gates);
        assert_eq!(settings.external_cloud_provider, want.external_cloud_provider);
        assert_eq!(
            settings.version_constraint.to_string(),
            want.version_constraint.to_string()
        );
        assert_eq!(
            settings.controller_users,
            ["system:serviceaccount:machinist-system:machinist-controller"]
        );
    }

    #[test]
    fn booleans_are_taken_with_and_without_a_value() {
        for (arguments, want) in [
            (vec!["--infra-allow-loopback"], true),
            (vec!["--infra-allow-loopback=false"], false),
        ] {
            let flags = Flags::parse_from([vec!["machinist-webhook"], arguments].concat());
            assert_eq!(flags.infra_allow_loopback, want);
        }
    }

    #[test]
    fn users_of_several_controllers_may_be_named() {
        let flags = Flags::parse_from(["machinist-webhook", "--controller-user=a", "--controller-user=b"]);
        assert_eq!(flags.settings(&Env::new(|_| None)).controller_users, ["a", "b"]);
    }
}
