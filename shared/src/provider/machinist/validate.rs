//! Validation of the object: values that do not work in the guest, or would keep it from joining.

use std::net::IpAddr;

use super::{GuestFile, Machinist};
use crate::api::config_var::ConfigVarString;
use crate::api::did_you_mean::did_you_mean;
use crate::api::field::{FieldPath, Report};
use crate::api::syntax;

/// Kubelet flags that Machinist sets, and those that identify a node.
pub const MANAGED_FLAGS: [&str; 11] = [
    "bootstrap-kubeconfig",
    "cert-dir",
    "cloud-provider",
    "config",
    "hostname-override",
    "kubeconfig",
    "node-ip",
    "node-labels",
    "provider-id",
    "register-node",
    "register-with-taints",
];

/// Fields of the KubeletConfiguration that a node cannot join without.
const MANAGED_SETTINGS: [&str; 10] = [
    "apiVersion",
    "authentication",
    "authorization",
    "containerRuntimeEndpoint",
    "kind",
    "providerID",
    "registerNode",
    "registerWithTaints",
    "rotateCertificates",
    "serverTLSBootstrap",
];

/// Files that Machinist writes.
const MANAGED_PATHS: [&str; 20] = [
    "/etc/containerd/config.toml",
    "/etc/hostname",
    "/etc/kubernetes/bootstrap-kubelet.conf",
    "/etc/kubernetes/cloud-config",
    "/etc/kubernetes/kubelet-config.yaml",
    "/etc/kubernetes/resolv.conf",
    "/etc/modules-load.d/kubernetes.conf",
    "/etc/ssh/sshd_config.d/40-machinist.conf",
    "/etc/ssh/trusted-user-ca-keys.pem",
    "/etc/sysctl.d/99-kubernetes.conf",
    "/etc/systemd/network/05-machinist.network",
    "/etc/systemd/system/containerd.service.d/10-machinist.conf",
    "/etc/systemd/system/containerd.service.d/20-proxy.conf",
    "/etc/systemd/system/kubelet.service",
    "/etc/systemd/system/kubelet.service.d/10-kubeadm.conf",
    "/etc/systemd/system/kubelet.service.d/20-proxy.conf",
    "/etc/systemd/system/machinist-install.service",
    "/etc/systemd/system/machinist-install.service.d/20-proxy.conf",
    "/etc/systemd/timesyncd.conf.d/machinist.conf",
    "/etc/NetworkManager/system-connections/machinist.nmconnection",
];

/// Prefix and suffix around the number in the name of a file with a certificate of `caBundle`.
const MANAGED_CERTIFICATES: [(&str, &str); 3] = [
    ("/etc/pki/ca-trust/source/anchors/machinist-", ".pem"),
    ("/etc/ssl/certs/machinist-", ".pem"),
    ("/usr/local/share/ca-certificates/machinist-", ".crt"),
];

/// Directories that belong to Machinist or the kubelet.
const MANAGED_FOLDERS: [&str; 8] = [
    "/dev",
    "/etc/containerd/certs.d",
    "/etc/kubernetes/pki",
    "/opt/machinist",
    "/proc",
    "/sys",
    "/var/lib/kubelet/pki",
    "/var/lib/machinist",
];

/// Whether Machinist may write a file at this path: Ignition rejects duplicate paths, and the node could not join with
/// different content.
pub fn is_reserved(path: &str) -> bool {
    let is_certificate = MANAGED_CERTIFICATES.iter().any(|(before, after)| {
        let number = path
            .strip_prefix(before)
            .and_then(|rest| rest.strip_suffix(after));
        number.is_some_and(|number| number.parse::<usize>().is_ok())
    });
    MANAGED_PATHS.contains(&path)
        || is_certificate
        || path == "/var/lib/kubelet/kubeconfig"
        || MANAGED_FOLDERS.iter().any(|folder| {
            path == *folder
                || path
                    .strip_prefix(folder)
                    .is_some_and(|rest| rest.starts_with('/'))
        })
}

/// Validates the object at `path`.
pub fn validate(machinist: &Machinist, path: &FieldPath, report: &mut Report) {
    let mut paths = Vec::new();
    for (index, file) in machinist.files.iter().enumerate() {
        let at = path.child("files").index(index);
        self::file(file, &at, report);
        if paths.contains(&&file.path) {
            report.invalid(&at.child("path"), format!("{:?} is written twice", file.path));
        }
        paths.push(&file.path);
    }
    let commands = path.child("commands");
    for (key, list) in [
        ("preInstall", &machinist.commands.pre_install),
        ("postInstall", &machinist.commands.post_install),
    ] {
        for (index, command) in list.iter().enumerate() {
            if command.trim().is_empty() || command.contains('\0') {
                report.invalid(&commands.child(key).index(index), "is not a shell command");
            }
        }
    }
    kubelet(machinist, &path.child("kubelet"), report);
    for (index, server) in machinist.time_servers.iter().enumerate() {
        if !is_host(server) {
            report.invalid(
                &path.child("timeServers").index(index),
                format!("{server:?} is not a host name or IP address"),
            );
        }
    }
    registries(machinist, &path.child("registries"), report);
    proxy(machinist, &path.child("proxy"), report);
    if let Some(text) = literal(&machinist.ca_bundle)
        && !text.contains("-----BEGIN CERTIFICATE-----")
    {
        report.invalid(&path.child("caBundle"), "contains no PEM certificate");
    }
}

fn file(file: &GuestFile, path: &FieldPath, report: &mut Report) {
    let at = path.child("path");
    let text = file.path.as_str();
    let clean = text
        .split('/')
        .skip(1)
        .all(|part| !matches!(part, "" | "." | ".."));
    if text.is_empty() {
        report.required(&at, "is required, like /etc/motd");
    } else if !text.starts_with('/') || !clean || text.chars().any(char::is_control) {
        report.invalid(
            &at,
            format!("{text:?} is not an absolute path without empty parts, . and .."),
        );
    } else if is_reserved(text) {
        report.forbidden(
            &at,
            format!("{text:?} is written by Machinist; the node could not join with a different one"),
        );
    }
    let octal = (3..=4).contains(&file.permissions.len())
        && file
            .permissions
            .bytes()
            .all(|digit| (b'0'..=b'7').contains(&digit));
    if !octal {
        report.invalid(
            &path.child("permissions"),
            format!(
                "{:?} are not permissions; write them in octal, like 0644",
                file.permissions
            ),
        );
    }
}

fn kubelet(machinist: &Machinist, path: &FieldPath, report: &mut Report) {
    for (name, value) in &machinist.kubelet.extra_args {
        let path = path.child("extraArgs").child(name);
        let well_formed = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !well_formed {
            report.invalid(&path, "is not a flag; write it without leading dashes, like v");
        } else if MANAGED_FLAGS.contains(&name.as_str()) {
            report.forbidden(
                &path,
                "is set by Machinist; the node could not join with a different value",
            );
        } else if value.chars().any(char::is_control) {
            report.invalid(
                &path,
                "contains a control character, which kubelet flags cannot have",
            );
        }
    }
    for name in machinist.kubelet.extra_config.keys() {
        let path = path.child("extraConfig").child(name);
        if MANAGED_SETTINGS.contains(&name.as_str()) {
            report.forbidden(
                &path,
                "is set by Machinist; the node could not join with a different value",
            );
        } else if !KUBELET_SETTINGS.contains(&name.as_str()) {
            let hint = did_you_mean(name, KUBELET_SETTINGS.iter().copied());
            report.warn(
                &path,
                format!("is not a known field of the KubeletConfiguration; a kubelet does not start with an unknown field{hint}"),
            );
        }
    }
}

fn registries(machinist: &Machinist, path: &FieldPath, report: &mut Report) {
    for (registry, mirrors) in &machinist.registries.mirrors {
        let path = path.child("mirrors").child(registry);
        let host = registry
            .rsplit_once(':')
            .map_or(registry.as_str(), |(host, _)| host);
        if registry != "*" && !is_host(host) {
            report.invalid(&path, "is not a registry host, like docker.io, or *");
        }
        if mirrors.is_empty() {
            report.required(&path, "names no mirror, like https://mirror.example.com");
        }
        for (index, mirror) in mirrors.iter().enumerate() {
            if !is_url(mirror) {
                report.invalid(
                    &path.index(index),
                    format!("{mirror:?} is not a URL like https://mirror.example.com/v2"),
                );
            }
        }
    }
    if let Some(text) = literal(&machinist.registries.credentials)
        && serde_json::from_str::<serde_json::Value>(text)
            .ok()
            .is_none_or(|config| !config["auths"].is_object())
    {
        report.invalid(
            &path.child("credentials"),
            "is not a Docker configuration with auths, as in .dockerconfigjson; refer to a Secret by secretKeyRef",
        );
    }
}

fn proxy(machinist: &Machinist, path: &FieldPath, report: &mut Report) {
    for (key, url) in [("http", &machinist.proxy.http), ("https", &machinist.proxy.https)] {
        if !url.is_empty() && !is_url(url) {
            // It may contain a password.
            report.invalid(
                &path.child(key),
                "is not a URL like http://proxy.example.com:3128",
            );
        }
    }
    if !machinist.proxy.no.is_empty() && !machinist.proxy.is_set() {
        report.warn(&path.child("no"), "has no effect without http or https");
    }
    for (index, host) in machinist.proxy.no.iter().enumerate() {
        if host.is_empty()
            || host
                .chars()
                .any(|c| c.is_whitespace() || c.is_control() || c == ',')
        {
            report.invalid(
                &path.child("no").index(index),
                format!("{host:?} is not a host, domain or network"),
            );
        }
    }
}

/// The literal text, if no reference overrides it.
fn literal(var: &ConfigVarString) -> Option<&str> {
    let text = if var.reference().is_some() {
        None
    } else {
        var.value.as_deref()
    };
    text.filter(|text| !text.is_empty())
}

fn is_host(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok() || syntax::dns_subdomain(&text.to_lowercase()).is_ok()
}

/// `http` or `https`, a host, and no character that could end a line or a word of a configuration.
fn is_url(text: &str) -> bool {
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"));
    rest.is_some_and(|rest| {
        !rest.is_empty()
            && !rest.starts_with('/')
            && rest
                .chars()
                .all(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\'' | '\\' | '`' | '<' | '>'))
    })
}

/// Fields of `kubelet.config.k8s.io/v1beta1` KubeletConfiguration, as of Kubernetes 1.36.
const KUBELET_SETTINGS: [&str; 127] = [
    "address",
    "allowedUnsafeSysctls",
    "apiVersion",
    "authentication",
    "authorization",
    "cgroupDriver",
    "cgroupRoot",
    "cgroupsPerQOS",
    "clusterDNS",
    "clusterDomain",
    "configMapAndSecretChangeDetectionStrategy",
    "containerLogMaxFiles",
    "containerLogMaxSize",
    "containerLogMaxWorkers",
    "containerLogMonitorInterval",
    "containerRuntimeEndpoint",
    "contentType",
    "cpuCFSQuota",
    "cpuCFSQuotaPeriod",
    "cpuManagerPolicy",
    "cpuManagerPolicyOptions",
    "cpuManagerReconcilePeriod",
    "crashLoopBackOff",
    "enableContentionProfiling",
    "enableControllerAttachDetach",
    "enableDebugFlagsHandler",
    "enableDebuggingHandlers",
    "enableProfilingHandler",
    "enableServer",
    "enableSystemLogHandler",
    "enableSystemLogQuery",
    "enforceNodeAllocatable",
    "eventBurst",
    "eventRecordQPS",
    "evictionHard",
    "evictionMaxPodGracePeriod",
    "evictionMinimumReclaim",
    "evictionPressureTransitionPeriod",
    "evictionSoft",
    "evictionSoftGracePeriod",
    "failCgroupV1",
    "failSwapOn",
    "featureGates",
    "fileCheckFrequency",
    "hairpinMode",
    "healthzBindAddress",
    "healthzPort",
    "httpCheckFrequency",
    "imageGCHighThresholdPercent",
    "imageGCLowThresholdPercent",
    "imageMaximumGCAge",
    "imageMinimumGCAge",
    "imagePullCredentialsVerificationPolicy",
    "imageServiceEndpoint",
    "iptablesDropBit",
    "iptablesMasqueradeBit",
    "kernelMemcgNotification",
    "kind",
    "kubeAPIBurst",
    "kubeAPIQPS",
    "kubeReserved",
    "kubeReservedCgroup",
    "kubeletCgroups",
    "localStorageCapacityIsolation",
    "logging",
    "makeIPTablesUtilChains",
    "maxOpenFiles",
    "maxParallelImagePulls",
    "maxPods",
    "memoryManagerPolicy",
    "memoryReservationPolicy",
    "memorySwap",
    "memoryThrottlingFactor",
    "mergeDefaultEvictionSettings",
    "nodeLeaseDurationSeconds",
    "nodeStatusMaxImages",
    "nodeStatusReportFrequency",
    "nodeStatusUpdateFrequency",
    "oomScoreAdj",
    "podCIDR",
    "podLogsDir",
    "podPidsLimit",
    "podsPerCore",
    "port",
    "preloadedImagesVerificationAllowlist",
    "protectKernelDefaults",
    "providerID",
    "qosReserved",
    "readOnlyPort",
    "registerNode",
    "registerWithTaints",
    "registryBurst",
    "registryPullQPS",
    "reservedMemory",
    "reservedSystemCPUs",
    "resolvConf",
    "rotateCertificates",
    "runOnce",
    "runtimeRequestTimeout",
    "seccompDefault",
    "serializeImagePulls",
    "serverTLSBootstrap",
    "showHiddenMetricsForVersion",
    "shutdownGracePeriod",
    "shutdownGracePeriodByPodPriority",
    "shutdownGracePeriodCriticalPods",
    "singleProcessOOMKill",
    "staticPodPath",
    "staticPodURL",
    "staticPodURLHeader",
    "streamingConnectionIdleTimeout",
    "syncFrequency",
    "systemCgroups",
    "systemReserved",
    "systemReservedCgroup",
    "tlsCertFile",
    "tlsCipherSuites",
    "tlsCurvePreferences",
    "tlsMinVersion",
    "tlsPrivateKeyFile",
    "topologyManagerPolicy",
    "topologyManagerPolicyOptions",
    "topologyManagerScope",
    "tracing",
    "userNamespaces",
    "volumePluginDir",
    "volumeStatsAggPeriod",
];

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::decode::Fields;

    fn check(object: &Value) -> Report {
        let (outer, mut report) = (json!({"m": object}), Report::new());
        if let Some(mut fields) = Fields::of(&outer, FieldPath::default(), &mut report) {
            let machinist = super::super::decode(&fields.take("m"), &mut report);
            validate(&machinist, &FieldPath::new("m"), &mut report);
        }
        report
    }

    #[test]
    fn everything_at_once_is_well() {
        let report = check(&json!({
            "files": [
                {"path": "/etc/motd", "content": "hello\n", "permissions": "0600"},
                {"path": "/a"},
                {"path": "/etc/ssl/certs/machinist-own.pem"},
                {"path": "/etc/systemd/system/kubelet.service.d/50-own.conf"},
            ],
            "commands": {"preInstall": ["true"], "postInstall": ["uname -a"]},
            "kubelet": {"extraArgs": {"v": 4, "seccomp-default": true}, "extraConfig": {"maxPods": 50}},
            "timeServers": ["ntp.example.com", "fd00::1"],
            "registries": {
                "mirrors": {"docker.io": ["https://mirror.example.com"], "*": ["http://10.0.0.1:5000/v2"]},
                "credentials": {"secretKeyRef": {"namespace": "a", "name": "b", "key": ".dockerconfigjson"}},
            },
            "proxy": {"http": "http://proxy:3128", "https": "http://proxy:3128", "no": [".svc", "10.0.0.0/8"]},
            "caBundle": "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n",
        }));
        assert_eq!(report, Report::new());
    }

    #[rstest]
    #[case::no_object(json!([]), "m")]
    #[case::unknown(json!({"fils": []}), "m.fils")]
    #[case::unknown_in_a_file(json!({"files": [{"path": "/a", "mode": "0600"}]}), "m.files[0].mode")]
    #[case::unknown_in_commands(json!({"commands": {"pre": []}}), "m.commands.pre")]
    #[case::unknown_in_kubelet(json!({"kubelet": {"args": {}}}), "m.kubelet.args")]
    #[case::unknown_in_registries(json!({"registries": {"mirror": {}}}), "m.registries.mirror")]
    #[case::unknown_in_proxy(json!({"proxy": {"ftp": "x"}}), "m.proxy.ftp")]
    #[case::no_path(json!({"files": [null]}), "m.files[0].path")]
    #[case::a_relative_path(json!({"files": [{"path": "etc/motd"}]}), "m.files[0].path")]
    #[case::a_path_that_climbs(json!({"files": [{"path": "/etc/../opt/machinist/x"}]}), "m.files[0].path")]
    #[case::a_folder(json!({"files": [{"path": "/etc/"}]}), "m.files[0].path")]
    #[case::our_unit(json!({"files": [{"path": "/etc/systemd/system/kubelet.service"}]}), "m.files[0].path")]
    #[case::our_folder(json!({"files": [{"path": "/opt/machinist/install.sh"}]}), "m.files[0].path")]
    #[case::our_drop_in(
        json!({"files": [{"path": "/etc/systemd/system/kubelet.service.d/10-kubeadm.conf"}]}), "m.files[0].path"
    )]
    #[case::our_certificate(json!({"files": [{"path": "/etc/ssl/certs/machinist-12.pem"}]}), "m.files[0].path")]
    #[case::twice(json!({"files": [{"path": "/a"}, {"path": "/a"}]}), "m.files[1].path")]
    #[case::permissions(json!({"files": [{"path": "/a", "permissions": "rw"}]}), "m.files[0].permissions")]
    #[case::a_number_of_permissions(json!({"files": [{"path": "/a", "permissions": 420}]}), "m.files[0].permissions")]
    #[case::an_empty_command(json!({"commands": {"postInstall": ["true", " "]}}), "m.commands.postInstall[1]")]
    #[case::a_dashed_flag(json!({"kubelet": {"extraArgs": {"--v": "4"}}}), "m.kubelet.extraArgs.--v")]
    #[case::our_flag(json!({"kubelet": {"extraArgs": {"hostname-override": "x"}}}), "m.kubelet.extraArgs.hostname-override")]
    #[case::a_flag_of_two_lines(json!({"kubelet": {"extraArgs": {"v": "4\nx"}}}), "m.kubelet.extraArgs.v")]
    #[case::a_flag_that_is_a_list(json!({"kubelet": {"extraArgs": {"v": []}}}), "m.kubelet.extraArgs.v")]
    #[case::our_setting(json!({"kubelet": {"extraConfig": {"serverTLSBootstrap": false}}}), "m.kubelet.extraConfig.serverTLSBootstrap")]
    #[case::a_time_server(json!({"timeServers": ["a b"]}), "m.timeServers[0]")]
    #[case::a_registry(json!({"registries": {"mirrors": {"../x": ["https://m"]}}}), "m.registries.mirrors[../x]")]
    #[case::no_mirror(json!({"registries": {"mirrors": {"docker.io": []}}}), "m.registries.mirrors[docker.io]")]
    #[case::a_mirror(json!({"registries": {"mirrors": {"a": ["mirror"]}}}), "m.registries.mirrors.a[0]")]
    #[case::credentials(json!({"registries": {"credentials": "sesame"}}), "m.registries.credentials")]
    #[case::a_proxy(json!({"proxy": {"http": "proxy"}}), "m.proxy.http")]
    #[case::no_proxy(json!({"proxy": {"https": "http://p", "no": ["a,b"]}}), "m.proxy.no[0]")]
    #[case::a_bundle(json!({"caBundle": "sesame"}), "m.caBundle")]
    fn each_error_is_reported_with_its_field(#[case] object: Value, #[case] path: &str) {
        let report = check(&object);
        let paths: Vec<String> = report.errors.iter().map(|error| error.path.to_string()).collect();
        assert_eq!(paths, [path], "{:?}", report.errors);
        assert!(!format!("{report:?}").contains("sesame"));
    }

    #[test]
    fn an_unknown_setting_of_the_kubelet_is_a_warning() {
        let report = check(&json!({"kubelet": {"extraConfig": {"maxPodz": 50}}}));
        assert!(report.is_ok());
        assert!(
            report.warnings[0].contains("did you mean \"maxPods\"?"),
            "{:?}",
            report.warnings
        );
    }

    #[test]
    fn what_may_be_secret_is_not_shown() {
        let object = json!({"m": {
            "files": [{"path": "/a", "content": "sesame"}],
            "commands": {"preInstall": ["echo sesame"]},
            "proxy": {"http": "http://me:sesame@proxy"},
            "registries": {"credentials": "{\"auths\": {\"a\": {\"auth\": \"sesame\"}}}"},
            "caBundle": "sesame",
        }});
        let mut report = Report::new();
        let mut fields = Fields::of(&object, FieldPath::default(), &mut report).unwrap();
        let machinist = super::super::decode(&fields.take("m"), &mut report);
        assert!(!format!("{machinist:?}").contains("sesame"));
    }
}
