//! The kubelet: its configuration, its flags and its unit.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Taint;
use machinist_shared::admission::kubelet_settings;
use machinist_shared::api::syntax;
use minijinja::context;
use serde_json::{Value, json};

use super::guest::{File, mode};
use super::input::{UserDataError, UserDataInput};
use super::network::Families;
use super::{network, systemd};

/// Paths in the guest.
pub(super) const BOOTSTRAP_KUBECONFIG: &str = "/etc/kubernetes/bootstrap-kubelet.conf";
const KUBECONFIG: &str = "/var/lib/kubelet/kubeconfig";
pub(super) const KUBELET_CONFIG: &str = "/etc/kubernetes/kubelet-config.yaml";
pub(super) const CA: &str = "/etc/kubernetes/pki/ca.crt";
const CLOUD_CONFIG: &str = "/etc/kubernetes/cloud-config";
/// Link made by the script, for only the guest knows which file has the real name servers.
pub(super) const RESOLV_CONF: &str = "/etc/kubernetes/resolv.conf";

const UNIT: &str = include_str!("../../templates/kubelet.service.j2");
const NO_KUBEADM: &str =
    "# Hides the drop-in of kubeadm's package, which would replace the flags of kubelet.service.\n";

/// All files of the kubelet.
pub(super) fn files(input: &UserDataInput<'_>, program: &str) -> Result<Vec<File>, UserDataError> {
    let mut files = vec![
        File::new(CA, mode::PUBLIC, input.ca_pem),
        File::json(BOOTSTRAP_KUBECONFIG, mode::SECRET, &bootstrap_kubeconfig(input)),
        File::json(KUBELET_CONFIG, mode::PUBLIC, &configuration(input)?),
        File::new(
            "/etc/systemd/system/kubelet.service",
            mode::PUBLIC,
            unit(input, program)?,
        ),
        File::new(
            "/etc/systemd/system/kubelet.service.d/10-kubeadm.conf",
            mode::PUBLIC,
            NO_KUBEADM,
        ),
    ];
    if let Some(config) = input.overwrite_cloud_config {
        files.push(File::new(CLOUD_CONFIG, mode::SECRET, config));
    }
    if network::families(input.network).both().is_some() {
        files.push(network::node_ip_script());
    }
    Ok(files)
}

fn bootstrap_kubeconfig(input: &UserDataInput<'_>) -> Value {
    use base64::Engine as _;
    use secrecy::ExposeSecret as _;
    let ca = base64::engine::general_purpose::STANDARD.encode(input.ca_pem);
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "bootstrap",
        "clusters": [{"name": "cluster", "cluster": {"server": input.server, "certificate-authority-data": ca}}],
        "users": [{"name": "bootstrap", "user": {"token": input.token.expose_secret()}}],
        "contexts": [{"name": "bootstrap", "context": {"cluster": "cluster", "user": "bootstrap"}}],
    })
}

fn configuration(input: &UserDataInput<'_>) -> Result<Value, UserDataError> {
    let (settings, errors) = kubelet_settings::read(input.annotations);
    if !errors.is_empty() {
        return Err(UserDataError::Settings(errors));
    }
    let of_cluster = json!({
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true}, "x509": {"clientCAFile": CA}},
        "clusterDNS": input.cluster_dns,
        "clusterDomain": input.cluster_domain,
        "serverTLSBootstrap": input.serving_certificate,
        "resolvConf": RESOLV_CONF,
    });
    Ok(input.machinist.kubelet_configuration(&of_cluster, settings))
}

fn unit(input: &UserDataInput<'_>, program: &str) -> Result<String, UserDataError> {
    let mut flags = vec![
        format!("--bootstrap-kubeconfig={BOOTSTRAP_KUBECONFIG}"),
        format!("--kubeconfig={KUBECONFIG}"),
        format!("--config={KUBELET_CONFIG}"),
        "--cert-dir=/var/lib/kubelet/pki".to_owned(),
        format!("--hostname-override={}", input.node_name),
    ];
    // A kubelet does not start with a taint or a label that no Node takes, nor with one taint twice; of those, admission
    // has warned.
    let taints = list(distinct(input.taints).map(taint));
    if !taints.is_empty() {
        flags.push(format!("--register-with-taints={taints}"));
    }
    let labels = input.labels.iter();
    let labels = labels.filter(|(key, value)| is_label(key, value) && may_set_itself(key));
    let labels = list(labels.map(|(key, value)| format!("{key}={value}")));
    if !labels.is_empty() {
        flags.push(format!("--node-labels={labels}"));
    }
    if let Some(provider_id) = input.provider_id {
        flags.push(format!("--provider-id={provider_id}"));
    } else {
        flags.push("--cloud-provider=external".to_owned());
    }
    flags.extend(extra_flags(&input.machinist.kubelet.extra_args));
    let mut words = flags
        .iter()
        .map(|flag| systemd::word(flag))
        .collect::<Result<Vec<_>, _>>()?;
    let families = network::families(input.network);
    match families {
        Families::Ipv4 => {}
        Families::Ipv6 => words.push("\"--node-ip=::\"".to_owned()),
        Families::Ipv4First | Families::Ipv6First => {
            words.push(format!("\"--node-ip=${{{}}}\"", network::NODE_IP));
        }
    }
    systemd::fill(
        UNIT,
        &context! {
            program,
            flags => words,
            node_ip_script => families.both().map(|first| format!("{} {first}", network::NODE_IP_SCRIPT)),
            node_ip_file => network::NODE_IP_FILE,
        },
    )
}

fn is_label(key: &str, value: &str) -> bool {
    syntax::qualified_name(key).is_ok() && syntax::label_value(value).is_ok()
}

fn is_taint(taint: &Taint) -> bool {
    is_label(&taint.key, taint.value.as_deref().unwrap_or_default())
        && ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&taint.effect.as_str())
}

/// Taints that a Node takes; of several with one key and effect the first, as the controller gives a Node.
fn distinct(taints: &[Taint]) -> impl Iterator<Item = &Taint> {
    let is_first = |(n, taint): &(usize, &Taint)| {
        let same = |other: &Taint| other.key == taint.key && other.effect == taint.effect;
        !taints[..*n].iter().any(|other| is_taint(other) && same(other))
    };
    let taints = taints.iter().enumerate().filter(|(_, taint)| is_taint(taint));
    taints.filter(is_first).map(|(_, taint)| taint)
}

fn taint(taint: &Taint) -> String {
    let value = taint.value.as_deref().unwrap_or_default();
    format!("{}={value}:{}", taint.key, taint.effect)
}

fn extra_flags(arguments: &BTreeMap<String, String>) -> impl Iterator<Item = String> + '_ {
    arguments.iter().map(|(name, value)| format!("--{name}={value}"))
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(",")
}

/// Labels that the admission plugin NodeRestriction lets a kubelet set on its own Node; the others are added by the
/// controller once the Node has joined.
fn may_set_itself(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else {
        return true;
    };
    let within = |parents: [&str; 2]| {
        parents
            .iter()
            .any(|d| domain == *d || domain.ends_with(&format!(".{d}")))
    };
    let topology = [
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
        "kubernetes.io/arch",
        "kubernetes.io/os",
    ];
    !within(["kubernetes.io", "k8s.io"])
        || within(["node.kubernetes.io", "kubelet.kubernetes.io"])
        || topology.contains(&key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[test]
    fn a_taint_of_one_key_and_effect_is_registered_once() {
        let taint = |text: &str| {
            let (key, rest) = text.split_once('=').unwrap();
            let (value, effect) = rest.split_once(':').unwrap();
            Taint {
                key: key.to_owned(),
                value: Some(value.to_owned()),
                effect: effect.to_owned(),
                time_added: None,
            }
        };
        let taints = [
            "a=b c:NoSchedule",
            "a=1:NoSchedule",
            "a=2:NoSchedule",
            "a=3:NoExecute",
            "b=1:NoSchedule",
        ]
        .map(taint);
        let registered: Vec<String> = distinct(&taints).map(self::taint).collect();
        assert_eq!(
            registered,
            ["a=1:NoSchedule", "a=3:NoExecute", "b=1:NoSchedule"],
            "the first that a Node takes"
        );
    }

    #[rstest]
    #[case("team", true)]
    #[case("example.com/team", true)]
    #[case("node.kubernetes.io/instance-type", true)]
    #[case("topology.kubernetes.io/zone", true)]
    #[case("node-role.kubernetes.io/worker", false)]
    #[case("node-restriction.kubernetes.io/x", false)]
    fn only_labels_that_a_kubelet_may_set_are_passed(#[case] key: &str, #[case] may: bool) {
        assert_eq!(may_set_itself(key), may);
    }
}
