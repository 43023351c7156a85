//! What the kubelet of a guest would do, read from nothing but the guest's files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use k8s_openapi::api::core::v1::Taint;
use kube::config::{AuthInfo, Kubeconfig};
use secrecy::SecretString;
use serde_json::Value;
use thiserror::Error;

use super::cloud_config::inside;
use super::flags::{self, FlagError, Flags};
use super::unit::{self, UnitError};

/// Where systemd looks for the unit, first found first.
const UNIT_FOLDERS: [&str; 3] = [
    "/etc/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
const UNIT: &str = "kubelet.service";
/// The kubelet's default of `--kubeconfig` when it has `--bootstrap-kubeconfig`.
const KUBECONFIG: &str = "/var/lib/kubelet/kubeconfig";

/// How the kubelet of this guest joins its cluster.
#[derive(Debug, Clone)]
pub struct Kubelet {
    /// Name of the Node: `--hostname-override`, else the host name.
    pub node_name: String,
    /// How it reaches the API server.
    pub access: Access,
    /// Where in the guest the kubeconfig with the issued certificate goes.
    pub kubeconfig_path: String,
    /// Labels the Node registers with, besides the kubelet's own.
    pub labels: BTreeMap<String, String>,
    /// Taints the Node registers with.
    pub taints: Vec<Taint>,
    /// `spec.providerID`.
    pub provider_id: Option<String>,
    /// Whether it asks for a serving certificate.
    pub serving_certificate: bool,
    /// `nodeLeaseDurationSeconds`.
    pub lease_seconds: i32,
    /// `--cloud-provider=external`: registers with the uninitialized taint.
    pub external_cloud_provider: bool,
}

/// Credentials on the guest's disk.
#[derive(Debug, Clone)]
pub enum Access {
    /// A kubeconfig with a bootstrap token.
    Bootstrap(Box<Kubeconfig>),
    /// The kubeconfig of an earlier boot.
    Joined(Box<Kubeconfig>),
}

/// Why the kubelet does not come up.
#[derive(Debug, Error)]
pub enum KubeletError {
    /// No unit file.
    #[error("Unit kubelet.service not found: none of the write_files is {0}/{UNIT}", UNIT_FOLDERS[0])]
    NoUnit,
    /// systemd refuses the unit.
    #[error("kubelet.service: {0}")]
    Unit(#[from] UnitError),
    /// The unit runs something else.
    #[error("kubelet.service runs {0:?}, not the kubelet")]
    NotKubelet(String),
    /// The kubelet refuses its flags.
    #[error("kubelet: {0}")]
    Flags(#[from] FlagError),
    /// A file that a flag or the configuration names is missing.
    #[error("kubelet: {flag}: open {path}: no such file or directory")]
    MissingFile {
        /// What names the file.
        flag: &'static str,
        /// Its path in the guest.
        path: String,
    },
    /// A file cannot be understood.
    #[error("kubelet: {path}: {why}")]
    BadFile {
        /// Its path in the guest.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// Neither a kubeconfig on disk nor the means to get one: a standalone kubelet registers nothing.
    #[error(
        "kubelet: no --bootstrap-kubeconfig, and the file of --kubeconfig does not exist: it runs standalone"
    )]
    Standalone,
    /// `--register-node=false`
    #[error("kubelet: --register-node=false")]
    NotRegistering,
}

impl Kubelet {
    /// Reads the unit, its drop-ins and every file its flags name, all below `root`.
    pub fn read(root: &Path, hostname: &str) -> Result<Self, KubeletError> {
        let files = Guest(root);
        let command = unit::parse(files.unit()?.iter().map(String::as_str))?
            .command(hostname, |path| files.text(path))?;
        let (program, arguments) = command
            .split_first()
            .ok_or_else(|| KubeletError::NotKubelet(String::new()))?;
        if !program.starts_with('/') || !program.ends_with("/kubelet") {
            return Err(KubeletError::NotKubelet(program.clone()));
        }
        let flags = flags::parse(arguments)?;
        if flags.register_node == Some(false) {
            return Err(KubeletError::NotRegistering);
        }
        let config = files.configuration(&flags)?;
        files.check_client_ca(&flags, &config)?;
        let kubeconfig_path = flags.kubeconfig.clone().unwrap_or_else(|| KUBECONFIG.to_owned());
        let access = files.access(&flags, &kubeconfig_path)?;
        let registers = |name: &str| config.get(name).and_then(Value::as_bool);
        if flags.register_node.or(registers("registerNode")) == Some(false) {
            return Err(KubeletError::NotRegistering);
        }
        let in_config = || flags::taints_of_configuration(&config);
        let provider_id = config
            .get("providerID")
            .and_then(Value::as_str)
            .map(str::to_owned);
        let lease = config.get("nodeLeaseDurationSeconds").and_then(Value::as_i64);
        let serving = flags
            .rotate_server_certificates
            .or(registers("serverTLSBootstrap"));
        Ok(Self {
            node_name: flags
                .hostname_override
                .clone()
                .unwrap_or(hostname.to_owned())
                .trim()
                .to_lowercase(),
            access,
            kubeconfig_path,
            taints: flags.taints.clone().or_else(in_config).unwrap_or_default(),
            labels: flags.labels,
            provider_id: flags.provider_id.or(provider_id.filter(|id| !id.is_empty())),
            serving_certificate: serving.unwrap_or(false),
            lease_seconds: lease
                .and_then(|seconds| i32::try_from(seconds).ok())
                .unwrap_or(40),
            external_cloud_provider: flags.external_cloud_provider,
        })
    }
}

/// The guest's file system.
struct Guest<'a>(&'a Path);

impl Guest<'_> {
    fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(inside(self.0, path)?).ok()
    }

    fn unit(&self) -> Result<Vec<String>, KubeletError> {
        let folder = |folder: &&str| self.text(&format!("{folder}/{UNIT}"));
        let mut texts = vec![UNIT_FOLDERS.iter().find_map(folder).ok_or(KubeletError::NoUnit)?];
        let mut drop_ins = BTreeMap::new();
        // A drop-in in /etc hides one of the same name in /usr.
        for folder in UNIT_FOLDERS.iter().rev() {
            let Some(path) = inside(self.0, &format!("{folder}/{UNIT}.d")) else {
                continue;
            };
            for entry in fs::read_dir(path).into_iter().flatten().flatten() {
                if entry
                    .path()
                    .extension()
                    .is_some_and(|extension| extension == "conf")
                {
                    drop_ins.insert(
                        entry.file_name(),
                        fs::read_to_string(entry.path()).unwrap_or_default(),
                    );
                }
            }
        }
        texts.extend(drop_ins.into_values());
        Ok(texts)
    }

    fn configuration(&self, flags: &Flags) -> Result<Value, KubeletError> {
        let Some(path) = &flags.config else {
            return Ok(Value::Null);
        };
        let text = self.text(path).ok_or_else(|| KubeletError::MissingFile {
            flag: "--config",
            path: path.clone(),
        })?;
        let bad = |why: String| KubeletError::BadFile {
            path: path.clone(),
            why,
        };
        let config: Value = serde_saphyr::from_str(&text).map_err(|error| bad(error.to_string()))?;
        let kind = (config["apiVersion"].as_str(), config["kind"].as_str());
        if kind
            != (
                Some("kubelet.config.k8s.io/v1beta1"),
                Some("KubeletConfiguration"),
            )
        {
            return Err(bad(
                "no kubelet.config.k8s.io/v1beta1 KubeletConfiguration".to_owned()
            ));
        }
        Ok(config)
    }

    fn check_client_ca(&self, flags: &Flags, config: &Value) -> Result<(), KubeletError> {
        let in_config = config
            .pointer("/authentication/x509/clientCAFile")
            .and_then(Value::as_str);
        let Some(path) = flags
            .client_ca_file
            .as_deref()
            .or(in_config)
            .filter(|path| !path.is_empty())
        else {
            return Ok(());
        };
        match self.text(path) {
            Some(text) if text.contains("-----BEGIN CERTIFICATE-----") => Ok(()),
            Some(_) => Err(KubeletError::BadFile {
                path: path.to_owned(),
                why: "data does not contain any valid RSA or ECDSA certificates".to_owned(),
            }),
            None => Err(KubeletError::MissingFile {
                flag: "clientCAFile",
                path: path.to_owned(),
            }),
        }
    }

    fn access(&self, flags: &Flags, kubeconfig_path: &str) -> Result<Access, KubeletError> {
        if let Some(text) = self.text(kubeconfig_path) {
            return Ok(Access::Joined(self.kubeconfig(kubeconfig_path, &text)?));
        }
        let path = flags
            .bootstrap_kubeconfig
            .clone()
            .ok_or(KubeletError::Standalone)?;
        match self.text(&path) {
            Some(text) => Ok(Access::Bootstrap(self.kubeconfig(&path, &text)?)),
            None => Err(KubeletError::MissingFile {
                flag: "--bootstrap-kubeconfig",
                path,
            }),
        }
    }

    /// A kubeconfig with every file it names replaced by that file's content: the paths are the guest's.
    fn kubeconfig(&self, path: &str, text: &str) -> Result<Box<Kubeconfig>, KubeletError> {
        let bad = |why: String| KubeletError::BadFile {
            path: path.to_owned(),
            why,
        };
        let mut kubeconfig: Kubeconfig =
            serde_saphyr::from_str(text).map_err(|error| bad(error.to_string()))?;
        let read = |path: String| {
            self.text(&path).ok_or(KubeletError::MissingFile {
                flag: "kubeconfig",
                path,
            })
        };
        let encode = |text: String| {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.encode(text)
        };
        for cluster in kubeconfig
            .clusters
            .iter_mut()
            .filter_map(|named| named.cluster.as_mut())
        {
            if let Some(path) = cluster.certificate_authority.take() {
                cluster.certificate_authority_data = Some(encode(read(path)?));
            }
        }
        for user in kubeconfig
            .auth_infos
            .iter_mut()
            .filter_map(|named| named.auth_info.as_mut())
        {
            let AuthInfo {
                token_file,
                client_certificate,
                client_key,
                ..
            } = user;
            let (token, certificate, key) = (token_file.take(), client_certificate.take(), client_key.take());
            if let Some(path) = token {
                user.token = Some(SecretString::from(read(path)?.trim().to_owned()));
            }
            if let Some(path) = certificate {
                user.client_certificate_data = Some(encode(read(path)?));
            }
            if let Some(path) = key {
                user.client_key_data = Some(SecretString::from(encode(read(path)?)));
            }
        }
        Ok(Box::new(kubeconfig))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::guest::cloud_config::{CloudConfig, WriteFile};

    const UNIT_FILE: &str = "/etc/systemd/system/kubelet.service";
    const COMMAND: &str = "/usr/bin/kubelet --bootstrap-kubeconfig=/b --kubeconfig=/k --config=/c";
    const KUBECONFIG_FILE: &str = "{clusters: [{name: c, cluster: {server: 'https://a', certificate-authority: /ca}}], \
        users: [{name: c, user: {tokenFile: /token}}], contexts: [{name: c, context: {cluster: c, user: c}}], current-context: c}";
    const CONFIG: &str = "{apiVersion: kubelet.config.k8s.io/v1beta1, kind: KubeletConfiguration, \
        serverTLSBootstrap: true, nodeLeaseDurationSeconds: 20, registerWithTaints: [{key: c, effect: NoSchedule}], \
        authentication: {x509: {clientCAFile: /ca}}}";

    /// A guest's disk with these files besides the usual ones; an empty text takes a file away.
    fn kubelet(changes: &[(&str, &str)]) -> Result<Kubelet, KubeletError> {
        let unit = format!("[Service]\nExecStart={COMMAND}\n");
        let usual = [
            (UNIT_FILE, unit.as_str()),
            ("/b", KUBECONFIG_FILE),
            ("/c", CONFIG),
            ("/ca", "-----BEGIN CERTIFICATE-----"),
            ("/token", "t.s\n"),
        ];
        let files: BTreeMap<&str, &str> = usual.into_iter().chain(changes.iter().copied()).collect();
        let files = files
            .into_iter()
            .filter(|(_, text)| !text.is_empty())
            .map(|(path, text)| WriteFile {
                path: path.to_owned(),
                content: text.as_bytes().to_vec(),
                mode: 0o600,
                append: false,
            });
        let disk = tempfile::tempdir().unwrap();
        CloudConfig {
            hostname: None,
            files: files.collect(),
        }
        .install(disk.path())
        .unwrap();
        Kubelet::read(disk.path(), "Host-1")
    }

    fn unit(flags: &str) -> String {
        format!("[Service]\nExecStart={COMMAND} {flags}\n")
    }

    #[test]
    fn everything_comes_from_the_files() {
        let kubelet = kubelet(&[]).unwrap();
        assert_eq!(kubelet.node_name, "host-1", "the host name in lower case");
        assert!(kubelet.serving_certificate);
        assert_eq!((kubelet.lease_seconds, kubelet.taints[0].key.as_str()), (20, "c"));
        let Access::Bootstrap(config) = kubelet.access else {
            panic!("bootstraps")
        };
        let cluster = config.clusters[0].cluster.as_ref().unwrap();
        assert!(cluster.certificate_authority.is_none() && cluster.certificate_authority_data.is_some());
        let user = config.auth_infos[0].auth_info.as_ref().unwrap();
        assert!(user.token.is_some() && user.token_file.is_none());
    }

    #[test]
    fn flags_win_over_the_configuration() {
        let unit = unit(
            "--hostname-override=n1 --register-with-taints=f:NoExecute --rotate-server-certificates=false",
        );
        let kubelet = kubelet(&[(UNIT_FILE, &unit)]).unwrap();
        assert_eq!(
            (kubelet.node_name.as_str(), kubelet.taints[0].key.as_str()),
            ("n1", "f")
        );
        assert!(!kubelet.serving_certificate);
    }

    #[test]
    fn a_drop_in_adds_flags() {
        let drop_in = format!("[Service]\nExecStart=\nExecStart={COMMAND} --provider-id=x://y\n");
        let kubelet = kubelet(&[("/etc/systemd/system/kubelet.service.d/10-x.conf", &drop_in)]).unwrap();
        assert_eq!(kubelet.provider_id.as_deref(), Some("x://y"));
    }

    #[test]
    fn a_kubeconfig_on_disk_makes_the_bootstrap_superfluous() {
        let kubelet = kubelet(&[("/k", KUBECONFIG_FILE), ("/b", "")]).unwrap();
        assert!(matches!(kubelet.access, Access::Joined(_)));
    }

    #[rstest]
    #[case::no_unit(&[(UNIT_FILE, "")], "Unit kubelet.service not found")]
    #[case::another_program(&[(UNIT_FILE, "[Service]\nExecStart=/bin/sh -c kubelet\n")], "not the kubelet")]
    #[case::no_bootstrap_file(&[("/b", "")], "--bootstrap-kubeconfig: open /b: no such file")]
    #[case::no_config(&[("/c", "")], "--config: open /c: no such file")]
    #[case::no_client_ca(&[("/ca", "")], "clientCAFile: open /ca: no such file")]
    #[case::empty_client_ca(&[("/ca", "nothing")], "any valid RSA or ECDSA certificates")]
    #[case::no_token(&[("/token", "")], "kubeconfig: open /token: no such file")]
    #[case::wrong_kind(&[("/c", "{kind: KubeletConfiguration}")], "no kubelet.config.k8s.io/v1beta1 KubeletConfiguration")]
    #[case::no_yaml(&[("/b", "clusters: [")], "kubelet: /b: ")]
    #[case::standalone(&[(UNIT_FILE, "[Service]\nExecStart=/usr/bin/kubelet\n")], "runs standalone")]
    #[case::not_registering(&[("/c", "{apiVersion: kubelet.config.k8s.io/v1beta1, kind: KubeletConfiguration, registerNode: false}")], "--register-node=false")]
    fn what_keeps_a_kubelet_from_joining_is_reported(#[case] changes: &[(&str, &str)], #[case] why: &str) {
        let error = kubelet(changes).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}
