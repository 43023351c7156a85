//! User data of every operating system in every setting that matters, for snapshots and for the tools that read user data.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Taint;
use machinist_shared::api::decode::Fields;
use machinist_shared::api::field::{FieldPath, Report};
use machinist_shared::provider::Secret;
use machinist_shared::provider::machinist::{self, Machinist};
use machinist_shared::provider_spec::network::Network;
use machinist_shared::provider_spec::operating_system::OperatingSystem;
use secrecy::SecretString;
use serde_json::{Value, json};

use machinist_controller::bootstrap::user_data::{
    self, OPERATING_SYSTEMS, UserData, UserDataError, UserDataInput,
};

/// One sample.
#[derive(Debug)]
pub(crate) struct Sample {
    /// `<operating system>-<setting>`.
    pub(crate) name: String,
    /// Its user data.
    pub(crate) user_data: UserData,
}

/// What differs between settings.
#[derive(Default)]
struct Setting {
    os_spec: Value,
    taints: Vec<Taint>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    ssh_keys: Vec<String>,
    ssh_ca: &'static str,
    network: Option<Network>,
    machinist: Value,
    credentials: String,
    ca_bundle: &'static str,
    cloud_config: Option<&'static str>,
    external: bool,
    dns: Vec<std::net::IpAddr>,
}

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";
const CONFIG: &str = "v1.kubelet-config.machine-controller.kubermatic.io/";
const GATES: &str = "v1.kubelet-featuregates.machine-controller.kubermatic.io/";

/// All samples.
pub(crate) fn all() -> Result<Vec<Sample>, UserDataError> {
    let mut samples = Vec::new();
    for os in OPERATING_SYSTEMS {
        for (name, setting) in settings(os) {
            samples.push(Sample {
                name: format!("{os}-{name}"),
                user_data: render(os, &setting)?,
            });
        }
    }
    Ok(samples)
}

fn render(os: OperatingSystem, setting: &Setting) -> Result<UserData, UserDataError> {
    let token = SecretString::from("abcdef.0123456789abcdef");
    user_data::render(&UserDataInput {
        operating_system: os,
        operating_system_spec: &setting.os_spec,
        node_name: "pool-a.web-1",
        kubelet_version: "v1.36.3",
        server: "https://api.example.com:6443",
        ca_pem: CERTIFICATE,
        token: &token,
        cluster_dns: &setting.dns,
        cluster_domain: "cluster.local",
        taints: &setting.taints,
        labels: &setting.labels,
        provider_id: (!setting.external)
            .then_some("kubermatic://kubevirt/6ee4b1a0-30a9-4d4c-a9a7-1f6f9c2f6d51"),
        serving_certificate: true,
        ssh_keys: &setting.ssh_keys,
        ssh_ca: setting.ssh_ca,
        annotations: &setting.annotations,
        network: setting.network.as_ref(),
        overwrite_cloud_config: setting.cloud_config,
        machinist: &extras(&setting.machinist),
        registry_credentials: &Secret::new(setting.credentials.clone()),
        ca_bundle: &Secret::new(setting.ca_bundle.to_owned()),
    })
}

/// The object `machinist`, as a manifest has it.
fn extras(value: &Value) -> Machinist {
    let (object, mut report) = (json!({"machinist": value}), Report::new());
    Fields::of(&object, FieldPath::default(), &mut report)
        .map(|mut fields| machinist::decode(&fields.take("machinist"), &mut report))
        .unwrap_or_default()
}

fn settings(os: OperatingSystem) -> Vec<(&'static str, Setting)> {
    let network = |cidr: &str, gateway: &str, servers: &[&str], family: &str| Setting {
        network: Some(Network {
            cidr: cidr.to_owned(),
            gateway: gateway.to_owned(),
            dns_servers: servers.iter().map(|&server| server.to_owned()).collect(),
            ip_family: family.to_owned(),
        }),
        ..Setting::default()
    };
    let with = |machinist: Value| Setting {
        machinist,
        ..Setting::default()
    };
    let mut settings = vec![
        ("plain", Setting::default()),
        ("tainted-and-labelled", tainted()),
        ("kubelet-settings", kubelet_settings()),
        ("mirrors", mirrors()),
        (
            "proxies",
            with(
                json!({"proxy": {"http": "http://me:pa%24s@proxy:3128", "https": "http://proxy:3128", "no": ["10.0.0.0/8"]}}),
            ),
        ),
        (
            "static-network",
            network("10.0.0.5/24", "10.0.0.1", &["10.0.0.2", "fd00::2"], ""),
        ),
        ("ipv6", network("fd00::5/64", "fd00::1", &["fd00::2"], "IPv6")),
        ("dual-stack", network("", "", &[], "IPv4+IPv6")),
        (
            "external-cloud-provider",
            Setting {
                external: true,
                cloud_config: Some("global: {}\n"),
                ..Setting::default()
            },
        ),
        (
            "pre-baked-image",
            with(
                json!({"commands": {"preInstall": ["systemctl enable --now my-agent", "test -x /usr/bin/kubelet"]}}),
            ),
        ),
        ("extras", people()),
    ];
    match os {
        OperatingSystem::Rhel => settings.push(("subscription", subscribed())),
        OperatingSystem::Flatcar => {
            settings.push(("without-updates", of_os(json!({"disableAutoUpdate": true}))));
            let utility = json!({"provisioningUtility": "cloud-init"});
            settings.push(("by-coreos-cloudinit", of_os(utility)));
        }
        OperatingSystem::Ubuntu | OperatingSystem::RockyLinux | OperatingSystem::AmazonLinux2 => {}
    }
    if os != OperatingSystem::Flatcar {
        settings.push(("upgraded", of_os(json!({"distUpgradeOnBoot": true}))));
    }
    settings
}

fn of_os(os_spec: Value) -> Setting {
    Setting {
        os_spec,
        ..Setting::default()
    }
}

fn tainted() -> Setting {
    let taint = |effect: &str| Taint {
        key: "example.com/dedicated".to_owned(),
        value: (effect == "NoExecute").then(|| "gpu".to_owned()),
        effect: effect.to_owned(),
        time_added: None,
    };
    let labels = [
        ("team", "a"),
        ("broken", "a\"b %n $HOME"),
        ("node-role.kubernetes.io/worker", ""),
    ];
    Setting {
        taints: ["NoSchedule", "NoExecute"].map(taint).into(),
        labels: owned(&labels),
        dns: ["10.96.0.10", "fd00::a"]
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect(),
        ..Setting::default()
    }
}

fn kubelet_settings() -> Setting {
    let config = [
        ("SystemReserved", "cpu=100m,memory=300Mi"),
        (
            "KubeReserved",
            "cpu=100m,memory=300Mi,ephemeral-storage=2Gi,pid=1000",
        ),
        ("EvictionHard", "memory.available<5%,nodefs.available<10%"),
        ("ContainerLogMaxSize", "50Mi"),
        ("ContainerLogMaxFiles", "3"),
        ("MaxPods", "60"),
        ("ImageGCHighThresholdPercent", "75"),
        ("ImageGCLowThresholdPercent", "60"),
        ("ImageMinimumGCAge", "5m"),
        ("ImageMaximumGCAge", "168h"),
    ];
    let mut annotations: BTreeMap<String, String> = config
        .iter()
        .map(|(key, value)| (format!("{CONFIG}{key}"), (*value).to_owned()))
        .collect();
    annotations.insert(
        format!("{GATES}RotateKubeletServerCertificate"),
        "true".to_owned(),
    );
    annotations.insert(format!("{GATES}GracefulNodeShutdown"), "true".to_owned());
    Setting {
        annotations,
        machinist: json!({"kubelet": {
            "extraArgs": {"v": 2},
            "extraConfig": {"podPidsLimit": 4096, "shutdownGracePeriod": "60s", "shutdownGracePeriodCriticalPods": "20s"},
        }}),
        ..Setting::default()
    }
}

fn mirrors() -> Setting {
    let auths = json!({"auths": {"mirror.example.com": {"username": "me", "password": "a\"b\\c"}}});
    Setting {
        machinist: json!({"registries": {"mirrors": {
            "docker.io": ["https://mirror.example.com", "https://other.example.com/v2/docker"],
            "*": ["http://10.0.0.1:5000"],
        }}}),
        credentials: auths.to_string(),
        ..Setting::default()
    }
}

fn people() -> Setting {
    Setting {
        ssh_keys: vec![
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJq8T3vXcY1Jt0l6m3n9vBqUQ1c2m0m1yq0m6Q4v0b1S admin: \"it's\" # me".to_owned(),
        ],
        ssh_ca: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJq8T3vXcY1Jt0l6m3n9vBqUQ1c2m0m1yq0m6Q4v0b1S ca",
        machinist: json!({
            "files": [{"path": "/etc/motd", "permissions": "0600", "content": "{{ hello }}: \"$HOME\" `id`\n"}],
            "commands": {"postInstall": ["echo \"joined as $(hostname)\""]},
            "timeServers": ["ntp.example.com", "fd00::1"],
        }),
        ca_bundle: CERTIFICATE,
        ..Setting::default()
    }
}

fn subscribed() -> Setting {
    of_os(json!({
        "attachSubscription": true, "rhelUseSatelliteServer": true, "rhelSatelliteServer": "satellite.example.com",
        "rhelOrganizationName": "an \"org\"", "rhelActivationKey": "key",
    }))
}

fn owned(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    /// Everything but the files that are the same everywhere, with the files' contents readable.
    fn readable(user_data: &UserData) -> Value {
        let text = std::str::from_utf8(user_data.bytes()).unwrap();
        let mut config: Value = serde_json::from_str(text.trim_start_matches("#cloud-config\n")).unwrap();
        let everywhere = [
            "install.sh",
            "node-ip.sh",
            "subscribe.py",
            "sysctl.d",
            "modules-load.d",
            "10-kubeadm.conf",
        ];
        let files = if user_data.ignition().is_some() {
            config.pointer_mut("/storage/files")
        } else {
            config.pointer_mut("/write_files")
        };
        let files = files.and_then(Value::as_array_mut).unwrap();
        for file in files.iter_mut() {
            let path = file["path"].as_str().unwrap().to_owned();
            let content = content(file);
            let shown = if everywhere.iter().any(|part| path.contains(part)) {
                json!("…")
            } else {
                json!(content.lines().collect::<Vec<_>>())
            };
            let target = if file.get("contents").is_some() {
                "contents"
            } else {
                "content"
            };
            file[target] = shown;
        }
        config
    }

    fn content(file: &Value) -> String {
        use std::io::Read as _;
        let Some(text) = file["contents"]["source"].as_str() else {
            return String::from_utf8(STANDARD.decode(file["content"].as_str().unwrap()).unwrap()).unwrap();
        };
        let bytes = STANDARD
            .decode(text.strip_prefix("data:;base64,").unwrap())
            .unwrap();
        let mut content = String::new();
        if file["contents"]["compression"] == "gzip" {
            let mut decoder = flate2::read::GzDecoder::new(bytes.as_slice());
            decoder.read_to_string(&mut content).unwrap();
        } else {
            content = String::from_utf8(bytes).unwrap();
        }
        content
    }

    #[test]
    fn each_operating_system_in_each_setting() {
        let samples = all().unwrap();
        assert_eq!(samples.len(), 4 * 11 + 6);
        for sample in samples {
            insta::with_settings!({snapshot_path => "snapshots/user-data", prepend_module_to_snapshot => false}, {
                insta::assert_json_snapshot!(sample.name.as_str(), readable(&sample.user_data));
            });
        }
    }

    #[test]
    fn no_file_of_ours_can_be_a_persons() {
        for os in OPERATING_SYSTEMS {
            for (name, setting) in settings(os) {
                let config = readable(&render(os, &setting).unwrap());
                let files = config
                    .pointer("/storage/files")
                    .or_else(|| config.get("write_files"));
                let paths = files.and_then(Value::as_array).unwrap().iter();
                let theirs = extras(&setting.machinist).files;
                for path in paths.map(|file| file["path"].as_str().unwrap()) {
                    assert_ne!(
                        machinist::is_reserved(path),
                        theirs.iter().any(|file| file.path == path),
                        "{path} of {os} {name}"
                    );
                }
            }
        }
    }

    #[test]
    fn manifests_of_samples_are_ones_that_admission_takes() {
        for os in OPERATING_SYSTEMS {
            for (name, setting) in settings(os) {
                let mut report = Report::new();
                let path = FieldPath::new("machinist");
                machinist::validate(&extras(&setting.machinist), &path, &mut report);
                assert_eq!(report, Report::new(), "{os} {name}");
            }
        }
    }
}
