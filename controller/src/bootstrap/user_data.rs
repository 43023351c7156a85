//! User data that turns a plain cloud image into a node: a cloud-config that finds or installs containerd and the
//! kubelet, and joins with the Machine's own token.
//!
//! Files are carried as base64, so that nothing a person wrote into a Machine can end a YAML string or a shell word;
//! the one unit file that holds such text quotes it for systemd.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Taint;
use minijinja::{Environment, UndefinedBehavior, context};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

/// The script that finds or installs containerd and the kubelet.
pub const INSTALL_SCRIPT: &str = include_str!("../../templates/install.sh");
const UNIT: &str = include_str!("../../templates/kubelet.service.j2");
const INSTALL_UNIT: &str = include_str!("../../templates/install.service.j2");
const CONTAINERD: &str = include_str!("../../templates/containerd.toml");
const MODULES: &str = "overlay\nbr_netfilter\n";
const SYSCTL: &str = include_str!("../../templates/sysctl.conf");
const NO_KUBEADM: &str =
    "# Hides the drop-in of kubeadm's package, which would replace the flags of kubelet.service.\n";

/// The operating systems whose images take a cloud-config and have apt-get or dnf.
pub const OPERATING_SYSTEMS: [&str; 3] = ["ubuntu", "rockylinux", "rhel"];

/// Paths in the guest.
const BOOTSTRAP_KUBECONFIG: &str = "/etc/kubernetes/bootstrap-kubelet.conf";
const KUBECONFIG: &str = "/var/lib/kubelet/kubeconfig";
const KUBELET_CONFIG: &str = "/etc/kubernetes/kubelet-config.yaml";
const CA: &str = "/etc/kubernetes/pki/ca.crt";
const SCRIPT: &str = "/opt/machinist/install.sh";
/// Its unit: cloud-init runs commands once, whether they succeed or not; systemd runs it until it has succeeded.
const INSTALL_SERVICE: &str = "machinist-install.service";
/// Link made by the script, for only the guest knows which file has the real name servers.
const RESOLV_CONF: &str = "/etc/kubernetes/resolv.conf";

/// What user data is made from.
#[derive(Clone, Copy)]
pub struct UserDataInput<'a> {
    /// Operating system of the image.
    pub operating_system: &'a str,
    /// Name of the node, and of the guest.
    pub node_name: &'a str,
    /// Version of the kubelet, without a leading `v`.
    pub kubelet_version: &'a str,
    /// URL of the API server.
    pub server: &'a str,
    /// Its CA, PEM.
    pub ca_pem: &'a str,
    /// `id.secret`.
    pub token: &'a SecretString,
    /// Addresses of the cluster's DNS.
    pub cluster_dns: &'a [IpAddr],
    /// Domain of the cluster's DNS.
    pub cluster_domain: &'a str,
    /// Taints that the node registers with.
    pub taints: &'a [Taint],
    /// Labels that the node registers with; those that a kubelet may not set itself are left out.
    pub labels: &'a BTreeMap<String, String>,
    /// providerID that the node registers with; `None` where an external CCM gives it.
    pub provider_id: Option<&'a str>,
    /// Have the kubelet ask for a serving certificate of the cluster's: somebody approves them.
    pub serving_certificate: bool,
    /// SSH keys of the image's default user.
    pub ssh_keys: &'a [String],
    /// Upgrade all packages at the first boot.
    pub upgrade: bool,
}

impl fmt::Debug for UserDataInput<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserDataInput")
            .field("node_name", &self.node_name)
            .finish_non_exhaustive()
    }
}

/// Why there is no user data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserDataError {
    /// The operating system does not take a cloud-config.
    #[error(
        "the operating system {0:?} cannot be bootstrapped by Machinist itself yet; use ubuntu, rockylinux or rhel"
    )]
    UnsupportedOperatingSystem(String),
    /// A text cannot be passed to the kubelet.
    #[error("{field} {text:?} holds a control character, which no kubelet flag can")]
    ControlCharacter {
        /// Which text.
        field: &'static str,
        /// The text.
        text: String,
    },
    /// The template failed.
    #[error("the template of the user data failed: {0}")]
    Template(String),
}

/// Renders the cloud-config.
pub fn render(input: &UserDataInput<'_>) -> Result<String, UserDataError> {
    if !OPERATING_SYSTEMS.contains(&input.operating_system) {
        return Err(UserDataError::UnsupportedOperatingSystem(
            input.operating_system.to_owned(),
        ));
    }
    let json = |value: &Value| format!("{value:#}\n");
    let install_path = format!("/etc/systemd/system/{INSTALL_SERVICE}");
    let files = [
        ("/etc/modules-load.d/kubernetes.conf", "0644", MODULES.to_owned()),
        ("/etc/sysctl.d/99-kubernetes.conf", "0644", SYSCTL.to_owned()),
        ("/etc/containerd/config.toml", "0644", CONTAINERD.to_owned()),
        (CA, "0644", input.ca_pem.to_owned()),
        (BOOTSTRAP_KUBECONFIG, "0600", json(&bootstrap_kubeconfig(input))),
        (KUBELET_CONFIG, "0644", json(&kubelet_config(input))),
        ("/etc/systemd/system/kubelet.service", "0644", unit(input)?),
        (
            "/etc/systemd/system/kubelet.service.d/10-kubeadm.conf",
            "0644",
            NO_KUBEADM.to_owned(),
        ),
        (SCRIPT, "0755", INSTALL_SCRIPT.to_owned()),
        (&install_path, "0644", install_unit(input)?),
    ];
    let write_files: Vec<Value> = files
        .into_iter()
        .map(|(path, permissions, content)| {
            json!({"path": path, "permissions": permissions, "owner": "root:root", "encoding": "b64", "content": STANDARD.encode(content)})
        })
        .collect();
    let mut config = json!({
        "hostname": input.node_name,
        "fqdn": input.node_name,
        "preserve_hostname": false,
        "manage_etc_hosts": true,
        "ssh_pwauth": false,
        "write_files": write_files,
        "runcmd": [["systemctl", "enable", "--now", "--no-block", INSTALL_SERVICE]],
    });
    if !input.ssh_keys.is_empty() {
        config["ssh_authorized_keys"] = json!(input.ssh_keys);
    }
    if input.upgrade {
        config["package_upgrade"] = json!(true);
        config["package_reboot_if_required"] = json!(true);
    }
    // JSON is YAML, so no quoting rule of YAML can go wrong.
    Ok(format!("#cloud-config\n{config:#}\n"))
}

fn bootstrap_kubeconfig(input: &UserDataInput<'_>) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "bootstrap",
        "clusters": [{"name": "cluster", "cluster": {
            "server": input.server,
            "certificate-authority-data": STANDARD.encode(input.ca_pem),
        }}],
        "users": [{"name": "bootstrap", "user": {"token": input.token.expose_secret()}}],
        "contexts": [{"name": "bootstrap", "context": {"cluster": "cluster", "user": "bootstrap"}}],
    })
}

fn kubelet_config(input: &UserDataInput<'_>) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true}, "x509": {"clientCAFile": CA}},
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "systemd",
        "clusterDNS": input.cluster_dns,
        "clusterDomain": input.cluster_domain,
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "failSwapOn": false,
        "rotateCertificates": true,
        "serverTLSBootstrap": input.serving_certificate,
        "resolvConf": RESOLV_CONF,
        "staticPodPath": "/etc/kubernetes/manifests",
    })
}

fn unit(input: &UserDataInput<'_>) -> Result<String, UserDataError> {
    let mut flags = vec![
        format!("--bootstrap-kubeconfig={BOOTSTRAP_KUBECONFIG}"),
        format!("--kubeconfig={KUBECONFIG}"),
        format!("--config={KUBELET_CONFIG}"),
        "--cert-dir=/var/lib/kubelet/pki".to_owned(),
        format!("--hostname-override={}", input.node_name),
    ];
    if !input.taints.is_empty() {
        let taint = |t: &Taint| {
            format!(
                "{}={}:{}",
                t.key,
                t.value.as_deref().unwrap_or_default(),
                t.effect
            )
        };
        flags.push(format!(
            "--register-with-taints={}",
            list(input.taints.iter().map(taint))
        ));
    }
    let labels = input
        .labels
        .iter()
        .filter(|(key, _)| may_set_itself(key))
        .map(|(key, value)| format!("{key}={value}"));
    let labels = list(labels);
    if !labels.is_empty() {
        flags.push(format!("--node-labels={labels}"));
    }
    if let Some(provider_id) = input.provider_id {
        flags.push(format!("--provider-id={provider_id}"));
    } else {
        flags.push("--cloud-provider=external".to_owned());
    }
    let flags: Vec<String> = flags
        .iter()
        .map(|flag| systemd_word(flag))
        .collect::<Result<_, _>>()?;
    fill(UNIT, &context! { flags })
}

fn install_unit(input: &UserDataInput<'_>) -> Result<String, UserDataError> {
    let version = systemd_word(input.kubelet_version.trim_start_matches('v'))?;
    fill(INSTALL_UNIT, &context! { version })
}

fn fill(template: &str, values: &minijinja::Value) -> Result<String, UserDataError> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    let text = environment.render_str(template, values);
    // The engine drops the template's last line break.
    text.map(|text| text + "\n")
        .map_err(|error| UserDataError::Template(error.to_string()))
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
    let kubernetes = ["kubernetes.io", "k8s.io"]
        .iter()
        .any(|d| domain == *d || domain.ends_with(&format!(".{d}")));
    let allowed = ["node.kubernetes.io", "kubelet.kubernetes.io"]
        .iter()
        .any(|d| domain == *d || domain.ends_with(&format!(".{d}")));
    let topology = [
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
        "kubernetes.io/arch",
        "kubernetes.io/os",
    ];
    !kubernetes || allowed || topology.contains(&key)
}

/// One word of an `ExecStart=` line: quoted, with `%`, `$`, `"` and `\` escaped.
fn systemd_word(text: &str) -> Result<String, UserDataError> {
    if text.chars().any(char::is_control) {
        return Err(UserDataError::ControlCharacter {
            field: "a kubelet flag",
            text: text.to_owned(),
        });
    }
    let mut word = String::with_capacity(text.len() + 2);
    word.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => word.extend(['\\', c]),
            '%' | '$' => word.extend([c, c]),
            c => word.push(c),
        }
    }
    word.push('"');
    Ok(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn input<'a>(
        token: &'a SecretString,
        taints: &'a [Taint],
        labels: &'a BTreeMap<String, String>,
    ) -> UserDataInput<'a> {
        UserDataInput {
            operating_system: "ubuntu",
            node_name: "web-1",
            kubelet_version: "1.33.4",
            server: "https://api:6443",
            ca_pem: "CA",
            token,
            cluster_dns: &[],
            cluster_domain: "cluster.local",
            taints,
            labels,
            provider_id: Some("kubermatic://kubevirt/m1"),
            serving_certificate: true,
            ssh_keys: &[],
            upgrade: false,
        }
    }

    fn file(user_data: &str, path: &str) -> String {
        let config: Value = serde_json::from_str(user_data.strip_prefix("#cloud-config\n").unwrap()).unwrap();
        let files = config["write_files"].as_array().unwrap();
        let file = files.iter().find(|f| f["path"] == path).unwrap();
        String::from_utf8(STANDARD.decode(file["content"].as_str().unwrap()).unwrap()).unwrap()
    }

    #[test]
    fn the_guest_finds_server_ca_token_name_and_taints() {
        let (token, labels) = (
            SecretString::from("abcdef.0123456789abcdef"),
            BTreeMap::from([
                ("a".into(), "b".into()),
                ("node-role.kubernetes.io/x".into(), String::new()),
            ]),
        );
        let taints = [Taint {
            key: "k".into(),
            value: Some("v".into()),
            effect: "NoSchedule".into(),
            time_added: None,
        }];
        let user_data = render(&input(&token, &taints, &labels)).unwrap();
        let kubeconfig: Value = serde_json::from_str(&file(&user_data, BOOTSTRAP_KUBECONFIG)).unwrap();
        assert_eq!(kubeconfig["users"][0]["user"]["token"], "abcdef.0123456789abcdef");
        assert_eq!(kubeconfig["clusters"][0]["cluster"]["server"], "https://api:6443");
        insta::assert_snapshot!(file(&user_data, "/etc/systemd/system/kubelet.service"));
    }

    #[test]
    fn cloud_init_starts_a_unit_that_runs_the_script_with_the_version() {
        let (token, labels) = (SecretString::from("t"), BTreeMap::new());
        let mut input = input(&token, &[], &labels);
        input.kubelet_version = "v1.33.4";
        let user_data = render(&input).unwrap();
        let config: Value = serde_json::from_str(user_data.strip_prefix("#cloud-config\n").unwrap()).unwrap();
        let service = config["runcmd"][0].as_array().unwrap().last().unwrap();
        let unit = file(
            &user_data,
            &format!("/etc/systemd/system/{}", service.as_str().unwrap()),
        );
        assert!(
            unit.contains(&format!("\nExecStart={SCRIPT} \"1.33.4\"\n")),
            "{unit}"
        );
        let mark = unit
            .lines()
            .find_map(|line| line.strip_prefix("ConditionPathExists=!"))
            .unwrap();
        assert!(file(&user_data, SCRIPT).contains(&format!("\ndone_mark={mark}\n")));
    }

    #[test]
    fn the_kubelet_reads_the_name_servers_that_the_script_links() {
        let (token, labels) = (SecretString::from("t"), BTreeMap::new());
        let user_data = render(&input(&token, &[], &labels)).unwrap();
        let config: Value = serde_json::from_str(&file(&user_data, KUBELET_CONFIG)).unwrap();
        assert_eq!(config["resolvConf"], RESOLV_CONF);
        let script = file(&user_data, SCRIPT);
        let link = |target: &str| format!("ln -sfn {target} {RESOLV_CONF}\n");
        for target in ["/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"] {
            assert!(script.contains(&link(target)), "{target}");
        }
    }

    #[rstest]
    #[case("a b", "\"a b\"")]
    #[case("100%", "\"100%%\"")]
    #[case("$HOME", "\"$$HOME\"")]
    #[case("\"; rm -rf /", "\"\\\"; rm -rf /\"")]
    #[case("back\\slash", "\"back\\\\slash\"")]
    fn no_text_can_leave_its_word(#[case] text: &str, #[case] word: &str) {
        assert_eq!(systemd_word(text).unwrap(), word);
    }

    #[test]
    fn a_line_break_in_a_taint_is_refused() {
        let (token, labels) = (SecretString::from("t"), BTreeMap::new());
        let taints = [Taint {
            key: "k".into(),
            value: Some("v\nExecStartPost=/bin/sh".into()),
            effect: "NoSchedule".into(),
            time_added: None,
        }];
        assert!(matches!(
            render(&input(&token, &taints, &labels)),
            Err(UserDataError::ControlCharacter { .. })
        ));
    }

    #[test]
    fn flatcar_is_refused_with_what_to_use() {
        let (token, labels) = (SecretString::from("t"), BTreeMap::new());
        let mut input = input(&token, &[], &labels);
        input.operating_system = "flatcar";
        assert!(render(&input).unwrap_err().to_string().contains("ubuntu"));
        assert!(!format!("{input:?}").contains("token"));
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
