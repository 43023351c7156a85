use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Taint;
use machinist_shared::provider::Secret;
use machinist_shared::provider::machinist::Machinist;
use machinist_shared::provider_spec::network::Network;
use rstest::rstest;
use secrecy::SecretString;
use serde_json::json;

use super::super::kubelet::{BOOTSTRAP_KUBECONFIG, KUBELET_CONFIG, RESOLV_CONF};
use super::*;

mod scripts;

/// What every case starts from; leaked, so that inputs can borrow from it.
struct Base {
    token: SecretString,
    none: BTreeMap<String, String>,
    machinist: Machinist,
    secret: Secret,
    spec: Value,
}

impl Base {
    fn new() -> Self {
        Self {
            token: SecretString::from("abcdef.0123456789abcdef"),
            none: BTreeMap::new(),
            machinist: Machinist::default(),
            secret: Secret::default(),
            spec: json!({}),
        }
    }

    fn input(&self) -> UserDataInput<'_> {
        UserDataInput {
            operating_system: OperatingSystem::Ubuntu,
            operating_system_spec: &self.spec,
            node_name: "web-1",
            kubelet_version: "1.33.4",
            server: "https://api:6443",
            ca_pem: "CA",
            token: &self.token,
            cluster_dns: &[],
            cluster_domain: "cluster.local",
            taints: &[],
            labels: &self.none,
            provider_id: Some("kubermatic://kubevirt/u"),
            serving_certificate: true,
            ssh_keys: &[],
            ssh_ca: "",
            annotations: &self.none,
            network: None,
            overwrite_cloud_config: None,
            machinist: &self.machinist,
            registry_credentials: &self.secret,
            ca_bundle: &self.secret,
        }
    }
}

/// The files that a guest finds, by path.
fn files_of(input: &UserDataInput<'_>) -> BTreeMap<String, (u32, String)> {
    let user_data = render(input).unwrap();
    let text = std::str::from_utf8(user_data.bytes()).unwrap().to_owned();
    if let Some(ignition) = user_data.ignition() {
        let config: Value = serde_json::from_str(ignition).unwrap();
        let files = config["storage"]["files"].as_array().unwrap().iter();
        return files.map(ignition_file).collect();
    }
    let config: Value = serde_json::from_str(text.strip_prefix("#cloud-config\n").unwrap()).unwrap();
    let files = config["write_files"].as_array().unwrap().iter();
    files
        .map(|file| {
            let mode = u32::from_str_radix(file["permissions"].as_str().unwrap(), 8).unwrap();
            let content = STANDARD.decode(file["content"].as_str().unwrap()).unwrap();
            let path = file["path"].as_str().unwrap().to_owned();
            (path, (mode, String::from_utf8(content).unwrap()))
        })
        .collect()
}

fn ignition_file(file: &Value) -> (String, (u32, String)) {
    use std::io::Read as _;
    let source = file["contents"]["source"].as_str().unwrap();
    let bytes = STANDARD
        .decode(source.strip_prefix("data:;base64,").unwrap())
        .unwrap();
    let mut content = String::new();
    if file["contents"]["compression"] == "gzip" {
        let mut decoder = flate2::read::GzDecoder::new(bytes.as_slice());
        decoder.read_to_string(&mut content).unwrap();
    } else {
        content = String::from_utf8(bytes).unwrap();
    }
    let mode = u32::try_from(file["mode"].as_u64().unwrap()).unwrap();
    (file["path"].as_str().unwrap().to_owned(), (mode, content))
}

fn file(input: &UserDataInput<'_>, path: &str) -> String {
    files_of(input)
        .remove(path)
        .unwrap_or_else(|| panic!("no {path}"))
        .1
}

fn kubelet_config(input: &UserDataInput<'_>) -> Value {
    serde_json::from_str(&file(input, KUBELET_CONFIG)).unwrap()
}

fn taint(value: &str) -> Taint {
    Taint {
        key: "dedicated".into(),
        value: Some(value.into()),
        effect: "NoSchedule".into(),
        time_added: None,
    }
}

#[rstest]
#[case(OperatingSystem::Ubuntu)]
#[case(OperatingSystem::Flatcar)]
fn the_guest_finds_server_ca_token_name_and_taints(#[case] os: OperatingSystem) {
    let base = Base::new();
    let labels: BTreeMap<String, String> = [("pool", "a"), ("node-role.kubernetes.io/worker", "")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
    let taints = [taint("gpu")];
    let input = UserDataInput {
        operating_system: os,
        labels: &labels,
        taints: &taints,
        ..base.input()
    };
    let kubeconfig: Value = serde_json::from_str(&file(&input, BOOTSTRAP_KUBECONFIG)).unwrap();
    assert_eq!(kubeconfig["users"][0]["user"]["token"], "abcdef.0123456789abcdef");
    assert_eq!(kubeconfig["clusters"][0]["cluster"]["server"], "https://api:6443");
    assert_eq!(files_of(&input)[BOOTSTRAP_KUBECONFIG].0, 0o600);
    insta::assert_snapshot!(
        format!("unit_{}", os.as_str()),
        file(&input, "/etc/systemd/system/kubelet.service")
    );
}

#[rstest]
#[case(OperatingSystem::Ubuntu, "/usr/bin/kubelet")]
#[case(OperatingSystem::Flatcar, "/opt/bin/kubelet")]
fn a_unit_runs_the_script_with_version_and_place_of_the_kubelet(
    #[case] os: OperatingSystem,
    #[case] program: &str,
) {
    let base = Base::new();
    let input = UserDataInput {
        operating_system: os,
        kubelet_version: "v1.33.4",
        ..base.input()
    };
    let unit = file(&input, &format!("/etc/systemd/system/{INSTALL_SERVICE}"));
    assert!(
        unit.contains(&format!("\nExecStart={SCRIPT} \"1.33.4\" {program}\n")),
        "{unit}"
    );
    let mark = unit
        .lines()
        .find_map(|line| line.strip_prefix("ConditionPathExists=!"))
        .unwrap();
    assert!(file(&input, SCRIPT).contains(&format!("\ndone_mark={mark}\n")));
}

#[rstest]
#[case::cloud_init(OperatingSystem::Ubuntu, json!({}), "/runcmd/0", json!(["systemctl", "enable", "--now", "--no-block", INSTALL_SERVICE]))]
#[case::ignition(OperatingSystem::Flatcar, json!({}), "/systemd/units", json!([{"name": INSTALL_SERVICE, "enabled": true}]))]
#[case::coreos_cloudinit(OperatingSystem::Flatcar, json!({"provisioningUtility": "cloud-init"}), "/coreos/units", json!([{"name": INSTALL_SERVICE, "enable": true, "command": "start"}]))]
fn the_unit_is_started_by_the_one_that_reads_the_user_data(
    #[case] os: OperatingSystem,
    #[case] spec: Value,
    #[case] pointer: &str,
    #[case] want: Value,
) {
    let base = Base::new();
    let input = UserDataInput {
        operating_system: os,
        operating_system_spec: &spec,
        ..base.input()
    };
    let user_data = render(&input).unwrap();
    let text = std::str::from_utf8(user_data.bytes()).unwrap();
    let config: Value = serde_json::from_str(text.trim_start_matches("#cloud-config\n")).unwrap();
    assert_eq!(config.pointer(pointer), Some(&want));
    assert_eq!(user_data.ignition().is_some(), pointer.starts_with("/systemd"));
}

#[test]
fn the_kubelet_reads_the_name_servers_that_the_script_links() {
    let base = Base::new();
    assert_eq!(kubelet_config(&base.input())["resolvConf"], RESOLV_CONF);
    let script = file(&base.input(), SCRIPT);
    for target in ["/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"] {
        assert!(
            script.contains(&format!("ln -sfn {target} {RESOLV_CONF}\n")),
            "{target}"
        );
    }
}

#[test]
fn annotations_win_over_defaults_and_extra_settings_over_both() {
    let mut base = Base::new();
    let annotations: BTreeMap<String, String> = [
        (
            "v1.kubelet-config.machine-controller.kubermatic.io/EvictionHard",
            "memory.available<5%",
        ),
        ("v1.kubelet-config.machine-controller.kubermatic.io/MaxPods", "50"),
        (
            "v1.kubelet-featuregates.machine-controller.kubermatic.io/SomeGate",
            "true",
        ),
        (
            "v1.kubelet-featuregates.machine-controller.kubermatic.io/RotateKubeletServerCertificate",
            "true",
        ),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into();
    let extra = json!({"maxPods": 60, "kubeReserved": {"cpu": "1"}, "staticPodPath": null});
    base.machinist.kubelet.extra_config = extra.as_object().unwrap().clone();
    let input = UserDataInput {
        annotations: &annotations,
        ..base.input()
    };
    let config = kubelet_config(&input);
    assert_eq!(config["evictionHard"], json!({"memory.available": "5%"}));
    assert_eq!(config["maxPods"], 60);
    assert_eq!(config["featureGates"], json!({"SomeGate": true}));
    assert_eq!(
        config["kubeReserved"],
        json!({"cpu": "1", "memory": "200Mi", "ephemeral-storage": "1Gi"})
    );
    assert_eq!(config.get("staticPodPath"), None);
}

#[test]
fn an_annotation_that_would_keep_the_kubelet_from_starting_is_reported_instead() {
    let base = Base::new();
    let key = "v1.kubelet-config.machine-controller.kubermatic.io/MaxPods";
    let annotations = BTreeMap::from([(key.to_owned(), "many".to_owned())]);
    let input = UserDataInput {
        annotations: &annotations,
        ..base.input()
    };
    let error = render(&input).unwrap_err().to_string();
    assert!(error.contains(key) && error.contains("many"), "{error}");
}

#[rstest]
#[case("", &[])]
#[case("IPv6", &["  \"--node-ip=::\""])]
#[case("IPv4+IPv6", &["ExecStartPre=/bin/bash /opt/machinist/node-ip.sh -4", "  \"--node-ip=${NODE_IP}\""])]
#[case("IPv6+IPv4", &["ExecStartPre=/bin/bash /opt/machinist/node-ip.sh -6", "EnvironmentFile=-/run/machinist/node-ip", "  \"--node-ip=${NODE_IP}\""])]
fn the_node_has_the_families_that_are_asked_for(#[case] family: &str, #[case] lines: &[&str]) {
    let base = Base::new();
    let network = Network {
        ip_family: family.to_owned(),
        ..Network::default()
    };
    let input = UserDataInput {
        network: Some(&network),
        ..base.input()
    };
    let unit = file(&input, "/etc/systemd/system/kubelet.service");
    assert_eq!(unit.contains("node-ip"), !lines.is_empty(), "{unit}");
    for line in lines {
        assert!(unit.lines().any(|found| found == *line), "{line} in {unit}");
    }
    assert_eq!(
        files_of(&input).contains_key("/opt/machinist/node-ip.sh"),
        lines.len() > 1
    );
}

#[test]
fn files_commands_and_flags_of_a_person_are_there() {
    let mut base = Base::new();
    base.machinist
        .files
        .push(machinist_shared::provider::machinist::GuestFile {
            path: "/etc/motd".into(),
            permissions: "0640".into(),
            content: "hello\n".into(),
        });
    base.machinist.commands.pre_install = vec!["a".into(), "b".into()];
    base.machinist.kubelet.extra_args = BTreeMap::from([("v".to_owned(), "4 %n".to_owned())]);
    let files = files_of(&base.input());
    assert_eq!(files["/etc/motd"], (0o640, "hello\n".to_owned()));
    assert_eq!(
        files[PRE_INSTALL],
        (0o600, "#!/bin/bash\nset -e\na\nb\n".to_owned())
    );
    assert!(!files.contains_key(POST_INSTALL));
    let unit = &files["/etc/systemd/system/kubelet.service"].1;
    assert!(unit.contains("\n  \"--v=4 %%n\"\n"), "{unit}");
    assert!(files[SCRIPT].1.contains(&format!("\n  hook {PRE_INSTALL}\n")));
}

#[rstest]
#[case::cloud_init(OperatingSystem::RockyLinux, None)]
#[case::flatcar(OperatingSystem::Flatcar, Some("[Time]\nNTP=a b\n"))]
fn time_servers_are_reported_to_who_keeps_the_time(#[case] os: OperatingSystem, #[case] want: Option<&str>) {
    let mut base = Base::new();
    base.machinist.time_servers = vec!["a".into(), "b".into()];
    let input = UserDataInput {
        operating_system: os,
        ..base.input()
    };
    let files = files_of(&input);
    let found = files.get("/etc/systemd/timesyncd.conf.d/machinist.conf");
    assert_eq!(found.map(|(_, text)| text.as_str()), want);
    if want.is_none() {
        let user_data = render(&input).unwrap();
        let text = std::str::from_utf8(user_data.bytes()).unwrap();
        let config: Value = serde_json::from_str(text.strip_prefix("#cloud-config\n").unwrap()).unwrap();
        assert_eq!(config["ntp"]["servers"], json!(["a", "b"]));
    }
}

#[test]
fn flatcar_masks_the_services_that_are_turned_off() {
    let base = Base::new();
    let of = |spec: Value| {
        let input = UserDataInput {
            operating_system: OperatingSystem::Flatcar,
            operating_system_spec: &spec,
            ..base.input()
        };
        let found = files_of(&input).remove("/opt/machinist/masked-units");
        found.map(|(_, text)| text)
    };
    assert_eq!(of(json!({"disableLocksmithD": false})), None);
    assert_eq!(
        of(json!({"disableLocksmithD": true})),
        Some("locksmithd.service\n".into())
    );
    assert_eq!(
        of(json!({"disableAutoUpdate": true})),
        Some("update-engine.service\nlocksmithd.service\n".into())
    );
}

#[test]
fn taints_and_labels_that_keep_a_kubelet_from_starting_are_left_out() {
    let base = Base::new();
    let never = Taint {
        effect: "Never".into(),
        ..taint("a")
    };
    let taints = [taint("gpu"), taint("v\nExecStartPost=/bin/sh"), never];
    let labels: BTreeMap<String, String> = [("a", "b"), ("pool", "a b"), ("x y", "")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
    let input = UserDataInput {
        taints: &taints,
        labels: &labels,
        ..base.input()
    };
    let unit = file(&input, "/etc/systemd/system/kubelet.service");
    assert!(
        unit.contains("\n  \"--register-with-taints=dedicated=gpu:NoSchedule\" \\\n"),
        "{unit}"
    );
    assert!(unit.contains("\n  \"--node-labels=a=b\" \\\n"), "{unit}");
}

#[test]
fn a_line_break_in_a_version_is_refused() {
    let base = Base::new();
    let input = UserDataInput {
        kubelet_version: "1.33.4\nExecStartPost=/bin/sh",
        ..base.input()
    };
    assert!(matches!(
        render(&input),
        Err(UserDataError::ControlCharacter { .. })
    ));
}

#[test]
fn what_cannot_be_bootstrapped_is_refused_with_what_to_use_and_nothing_is_shown() {
    let base = Base::new();
    let input = UserDataInput {
        operating_system: OperatingSystem::AmazonLinux2,
        ..base.input()
    };
    assert!(render(&input).unwrap_err().to_string().contains("ubuntu"));
    assert!(!format!("{input:?} {:?}", render(&base.input())).contains("abcdef"));
}

#[rstest]
#[case::cloud_config(OperatingSystem::Ubuntu, "a Secret")]
#[case::ignition(OperatingSystem::Flatcar, "the annotation")]
fn too_much_is_refused_before_anything_is_made(#[case] os: OperatingSystem, #[case] place: &str) {
    let mut base = Base::new();
    // Base64 of what looks random.
    let mut state = 1_u32;
    let bytes = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    });
    let noise = STANDARD.encode(bytes.take(1_200_000).collect::<Vec<_>>());
    base.machinist
        .files
        .push(machinist_shared::provider::machinist::GuestFile {
            path: "/big".into(),
            permissions: "0644".into(),
            content: noise,
        });
    let input = UserDataInput {
        operating_system: os,
        ..base.input()
    };
    let error = render(&input).unwrap_err().to_string();
    assert!(error.contains(place) && error.contains("bytes"), "{error}");
}
