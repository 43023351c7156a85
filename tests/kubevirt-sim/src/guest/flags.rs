//! Reads a kubelet command line as the kubelet does: unknown flags stop it, the last of repeated flags counts.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Taint;
use serde_json::Value;
use thiserror::Error;

/// The flags that decide how a kubelet joins.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Flags {
    /// `--bootstrap-kubeconfig`
    pub bootstrap_kubeconfig: Option<String>,
    /// `--kubeconfig`
    pub kubeconfig: Option<String>,
    /// `--config`
    pub config: Option<String>,
    /// `--hostname-override`
    pub hostname_override: Option<String>,
    /// `--provider-id`
    pub provider_id: Option<String>,
    /// `--node-labels`
    pub labels: BTreeMap<String, String>,
    /// `--register-with-taints`
    pub taints: Option<Vec<Taint>>,
    /// `--rotate-server-certificates`, the older name of `serverTLSBootstrap`.
    pub rotate_server_certificates: Option<bool>,
    /// `--client-ca-file`, the older name of `authentication.x509.clientCAFile`.
    pub client_ca_file: Option<String>,
    /// `--cloud-provider=external`
    pub external_cloud_provider: bool,
    /// `--register-node`; absent means yes.
    pub register_node: Option<bool>,
}

/// Why a kubelet does not start with such flags.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FlagError {
    /// Not a flag of kubelet 1.36.
    #[error("unknown flag: --{0}")]
    Unknown(String),
    /// A word that is neither a flag nor a flag's value.
    #[error("unknown command {0}")]
    Argument(String),
    /// The value cannot be read.
    #[error("invalid argument {value:?} for \"--{flag}\": {why}")]
    Value {
        /// The flag.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// Labels a kubelet may not give itself.
    #[error("unknown 'kubernetes.io' or 'k8s.io' labels specified with --node-labels: [{0}]")]
    Labels(String),
}

/// Flags of kubelet 1.36, those of its libraries included.
const KNOWN: &str = "address allowed-unsafe-sysctls anonymous-auth application_metrics_count_limit \
    authentication-token-webhook authentication-token-webhook-cache-ttl authorization-mode \
    authorization-webhook-cache-authorized-ttl authorization-webhook-cache-unauthorized-ttl boot_id_file \
    bootstrap-kubeconfig cert-dir cgroup-driver cgroup-root cgroups-per-qos client-ca-file cloud-provider \
    cluster-dns cluster-domain config config-dir container-log-max-files container-log-max-size \
    container-runtime-endpoint container_hints containerd containerd-namespace contention-profiling cpu-cfs-quota \
    cpu-cfs-quota-period cpu-manager-policy cpu-manager-policy-options cpu-manager-reconcile-period \
    enable-controller-attach-detach enable-debugging-handlers enable-server enable_load_reader \
    enforce-node-allocatable event-burst event-qps event_storage_age_limit event_storage_event_limit eviction-hard \
    eviction-max-pod-grace-period eviction-minimum-reclaim eviction-pressure-transition-period eviction-soft \
    eviction-soft-grace-period exit-on-lock-contention experimental-allocatable-ignore-eviction \
    experimental-mounter-path fail-cgroupv1 fail-swap-on feature-gates file-check-frequency \
    global_housekeeping_interval hairpin-mode healthz-bind-address healthz-port help hostname-override \
    housekeeping_interval http-check-frequency image-credential-provider-bin-dir image-credential-provider-config \
    image-gc-high-threshold image-gc-low-threshold image-service-endpoint kernel-memcg-notification kube-api-burst \
    kube-api-content-type kube-api-qps kube-reserved kube-reserved-cgroup kubeconfig kubelet-cgroups \
    local-storage-capacity-isolation lock-file log-flush-frequency log-json-info-buffer-size \
    log-json-split-stream log-text-info-buffer-size log-text-split-stream log_cadvisor_usage logging-format \
    machine_id_file make-iptables-util-chains manifest-url manifest-url-header max-open-files max-pods \
    maximum-dead-containers maximum-dead-containers-per-container memory-manager-policy \
    minimum-container-ttl-duration minimum-image-ttl-duration node-ip node-labels node-status-max-images \
    node-status-update-frequency oom-score-adj pod-cidr pod-manifest-path pod-max-pids pods-per-core port \
    protect-kernel-defaults provider-id qos-reserved read-only-port register-node register-with-taints \
    registry-burst registry-qps reserved-cpus reserved-memory resolv-conf root-dir rotate-certificates \
    rotate-server-certificates runonce runtime-cgroups runtime-request-timeout seccomp-default \
    serialize-image-pulls storage_driver_buffer_duration storage_driver_db storage_driver_host \
    storage_driver_password storage_driver_secure storage_driver_table storage_driver_user \
    streaming-connection-idle-timeout sync-frequency system-cgroups system-reserved system-reserved-cgroup \
    tls-cert-file tls-cipher-suites tls-min-version tls-private-key-file topology-manager-policy \
    topology-manager-policy-options topology-manager-scope v version vmodule volume-plugin-dir \
    volume-stats-agg-period";

/// Labels of the kubernetes.io and k8s.io name spaces that a kubelet may give itself.
const OWN_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

/// Parses the arguments after the program's name.
pub fn parse(arguments: &[String]) -> Result<Flags, FlagError> {
    let mut flags = Flags::default();
    let mut rest = arguments.iter().peekable();
    while let Some(word) = rest.next() {
        let name = match word.strip_prefix("--") {
            Some(name) => name,
            // The only one-letter flag of the kubelet: -v 2, -v=2, -v2.
            None if word.starts_with("-v") => {
                rest.next_if(|next| word == "-v" && !next.starts_with('-'));
                continue;
            }
            None => return Err(FlagError::Argument(word.clone())),
        };
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => (
                name,
                rest.next_if(|next| !next.starts_with('-'))
                    .cloned()
                    .unwrap_or("true".to_owned()),
            ),
        };
        // pflag takes - and _ for the same.
        let name = name.replace('_', "-");
        if !KNOWN
            .split_whitespace()
            .any(|known| known.replace('_', "-") == name)
        {
            return Err(FlagError::Unknown(name));
        }
        flags.assign(&name, &value)?;
    }
    flags.check_labels()?;
    Ok(flags)
}

impl Flags {
    fn assign(&mut self, name: &str, value: &str) -> Result<(), FlagError> {
        let text = Some(value.to_owned()).filter(|value| !value.is_empty());
        match name {
            "bootstrap-kubeconfig" => self.bootstrap_kubeconfig = text,
            "kubeconfig" => self.kubeconfig = text,
            "config" => self.config = text,
            "hostname-override" => self.hostname_override = text,
            "provider-id" => self.provider_id = text,
            "client-ca-file" => self.client_ca_file = text,
            "cloud-provider" => self.external_cloud_provider = value == "external",
            "rotate-server-certificates" => {
                self.rotate_server_certificates = Some(boolean("rotate-server-certificates", value)?);
            }
            "register-node" => self.register_node = Some(boolean("register-node", value)?),
            "node-labels" => self.labels.extend(labels(value)?),
            "register-with-taints" => self.taints = Some(taints(value)?),
            _ => {}
        }
        Ok(())
    }

    fn check_labels(&self) -> Result<(), FlagError> {
        let foreign: Vec<&str> = self
            .labels
            .keys()
            .map(String::as_str)
            .filter(|key| !may_label_itself(key))
            .collect();
        if foreign.is_empty() {
            Ok(())
        } else {
            Err(FlagError::Labels(foreign.join(" ")))
        }
    }
}

fn may_label_itself(key: &str) -> bool {
    let within = |domain: &str, space: &str| space == domain || space.ends_with(&format!(".{domain}"));
    let Some((space, _)) = key.split_once('/') else {
        return true;
    };
    let reserved = within("kubernetes.io", space) || within("k8s.io", space);
    !reserved
        || OWN_LABELS.contains(&key)
        || within("kubelet.kubernetes.io", space)
        || within("node.kubernetes.io", space)
}

fn boolean(flag: &'static str, value: &str) -> Result<bool, FlagError> {
    value.parse().map_err(|_| FlagError::Value {
        flag,
        value: value.to_owned(),
        why: "invalid syntax".to_owned(),
    })
}

fn labels(text: &str) -> Result<BTreeMap<String, String>, FlagError> {
    let pairs = text.split(',').filter(|pair| !pair.is_empty()).map(|pair| {
        pair.split_once('=')
            .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
            .ok_or_else(|| FlagError::Value {
                flag: "node-labels",
                value: text.to_owned(),
                why: "malformed pair, expect string=string".to_owned(),
            })
    });
    pairs.collect()
}

/// `key=value:Effect` or `key:Effect`, separated by commas.
fn taints(text: &str) -> Result<Vec<Taint>, FlagError> {
    text.split(',')
        .filter(|taint| !taint.is_empty())
        .map(|taint| self::taint(text, taint))
        .collect()
}

fn taint(text: &str, taint: &str) -> Result<Taint, FlagError> {
    let wrong = |why: &str| FlagError::Value {
        flag: "register-with-taints",
        value: text.to_owned(),
        why: format!("invalid taint spec: {taint}, {why}"),
    };
    let (head, effect) = taint.split_once(':').ok_or_else(|| wrong("no effect"))?;
    if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
        return Err(wrong("unsupported taint effect"));
    }
    let (key, value) = match head.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned()).filter(|value| !value.is_empty())),
        None => (head, None),
    };
    if key.is_empty() {
        return Err(wrong("no key"));
    }
    Ok(Taint {
        key: key.to_owned(),
        value,
        effect: effect.to_owned(),
        time_added: None,
    })
}

/// `registerWithTaints` of a KubeletConfiguration.
pub(super) fn taints_of_configuration(config: &Value) -> Option<Vec<Taint>> {
    serde_json::from_value(config.get("registerWithTaints")?.clone()).ok()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn parsed(line: &str) -> Result<Flags, FlagError> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    fn taint_of(key: &str, value: Option<&str>, effect: &str) -> Taint {
        Taint {
            key: key.to_owned(),
            value: value.map(str::to_owned),
            effect: effect.to_owned(),
            time_added: None,
        }
    }

    #[test]
    fn both_ways_to_give_a_value_are_read() {
        let flags = parsed("--bootstrap-kubeconfig=/b --kubeconfig /k --register-node --v=2 -v 3").unwrap();
        assert_eq!(flags.bootstrap_kubeconfig.as_deref(), Some("/b"));
        assert_eq!(flags.kubeconfig.as_deref(), Some("/k"));
        assert_eq!(flags.register_node, Some(true));
    }

    #[rstest]
    #[case::last_wins("--hostname-override=a --hostname-override=b", Some("b"))]
    #[case::empty_is_unset("--hostname-override=", None)]
    fn the_host_name(#[case] line: &str, #[case] expected: Option<&str>) {
        assert_eq!(parsed(line).unwrap().hostname_override.as_deref(), expected);
    }

    #[rstest]
    #[case::one("a=b:NoSchedule", vec![taint_of("a", Some("b"), "NoSchedule")])]
    #[case::no_value("a:NoExecute", vec![taint_of("a", None, "NoExecute")])]
    #[case::two("a=:NoSchedule,x.io/b=c:PreferNoSchedule", vec![taint_of("a", None, "NoSchedule"), taint_of("x.io/b", Some("c"), "PreferNoSchedule")])]
    fn taints_are_read(#[case] text: &str, #[case] expected: Vec<Taint>) {
        assert_eq!(
            parsed(&format!("--register-with-taints={text}")).unwrap().taints,
            Some(expected)
        );
    }

    #[rstest]
    #[case::unknown_flag("--container-runtime=remote", "unknown flag: --container-runtime")]
    #[case::stray_word("--v=2 stray", "unknown command stray")]
    #[case::taint_without_effect("--register-with-taints=a=b", "no effect")]
    #[case::taint_with_wrong_effect("--register-with-taints=a=b:Never", "unsupported taint effect")]
    #[case::label_without_value("--node-labels=a", "malformed pair")]
    #[case::reserved_label(
        "--node-labels=node-role.kubernetes.io/worker=",
        "unknown 'kubernetes.io' or 'k8s.io' labels"
    )]
    #[case::no_boolean("--register-node=perhaps", "invalid syntax")]
    fn what_the_kubelet_would_not_start_with_is_refused(#[case] line: &str, #[case] why: &str) {
        let error = parsed(line).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn labels_a_kubelet_may_give_itself_pass() {
        let line =
            "--node-labels=a=b,topology.kubernetes.io/zone=z --node-labels=x.node.kubernetes.io/c=d,e.io/f=";
        let labels = parsed(line).unwrap().labels;
        assert_eq!(labels.len(), 4, "{labels:?}");
        assert_eq!(labels["e.io/f"], "");
    }
}
