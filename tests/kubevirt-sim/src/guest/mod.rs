//! The guest of a simulated VM: cloud-init, systemd and a kubelet that joins with what it finds on its disk.

pub mod certificate;
pub mod cloud_config;
pub mod flags;
pub mod kubelet;
pub mod node;
pub mod unit;

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rcgen::KeyPair;
use thiserror::Error;

use self::certificate::{CertificateError, Purpose};
use self::cloud_config::CloudConfigError;
use self::kubelet::{Access, Kubelet, KubeletError};
use self::node::Machine;

/// A VM's guest from the power button on.
#[derive(Debug, Clone)]
pub struct Guest {
    /// Name of the VM, for logs only.
    pub vm: String,
    /// Folder that stands for the guest's disk; it outlives the guest, as a disk does.
    pub disk: PathBuf,
    /// Host name that the NoCloud metadata gives it.
    pub hostname: String,
    /// The user data, as the Secret has it.
    pub user_data: Vec<u8>,
    /// Its virtual hardware.
    pub machine: Machine,
    /// From power on to the start of the kubelet.
    pub boot: Duration,
}

/// The state of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestState {
    /// It is booting.
    Booting,
    /// It has not joined; the line its console shows.
    Failed(String),
    /// Its kubelet has registered this Node.
    Joined(String),
}

/// Why a guest does not join.
#[derive(Debug, Error)]
pub enum GuestError {
    /// cloud-init stops.
    #[error("cloud-init: {0}")]
    CloudInit(#[from] CloudConfigError),
    /// The disk cannot be written.
    #[error("cannot write the guest's disk: {0}")]
    Disk(#[from] io::Error),
    /// The kubelet does not come up.
    #[error(transparent)]
    Kubelet(#[from] KubeletError),
    /// Its kubeconfig is unusable.
    #[error("kubelet: kubeconfig: {0}")]
    Kubeconfig(String),
    /// It gets no client certificate.
    #[error("kubelet: TLS bootstrap: {}", chain(.0))]
    Certificate(#[from] CertificateError),
    /// Its key cannot be made.
    #[error("kubelet: key: {0}")]
    Key(#[from] rcgen::Error),
    /// Its Node is refused.
    #[error("kubelet: Unable to register node with API server: {}", chain(.0))]
    Register(#[source] kube::Error),
}

/// An error with all its sources: TLS failures hide three levels down.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Marks a disk on which cloud-init has run, for it runs once per instance.
const PROVISIONED: &str = "var/lib/cloud/instance/boot-finished";
/// Installs the kubelet of the version that is its only argument.
const INSTALLER: &str = "etc/systemd/system/machinist-install.service";
/// Where the kubelet keeps the key of a certificate that is not issued yet.
const PENDING_KEY: &str = "/var/lib/kubelet/pki/kubelet-client.key.tmp";

impl Guest {
    /// Boots the guest and keeps its kubelet running until the future is dropped. Calls `report` after each change.
    pub async fn run(self, report: impl Fn(GuestState)) {
        report(GuestState::Booting);
        tokio::time::sleep(self.boot).await;
        let mut pause = Duration::from_secs(1);
        loop {
            let error = match self.join().await {
                Ok(joined) => {
                    report(GuestState::Joined(joined.kubelet.node_name.clone()));
                    tracing::info!(vm = self.vm, node = joined.kubelet.node_name, "joined");
                    Box::pin(joined.stay()).await;
                    return;
                }
                Err(error) => error,
            };
            tracing::warn!(vm = self.vm, "guest: {error}");
            report(GuestState::Failed(error.to_string()));
            // systemd starts the kubelet again and again.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(10));
        }
    }

    async fn join(&self) -> Result<Joined, GuestError> {
        let config = cloud_config::parse(&self.user_data);
        let provisioned = self.disk.join(PROVISIONED);
        if !provisioned.exists() {
            config.clone()?.install(&self.disk)?;
            write(&provisioned, b"")?;
        }
        let named = config.ok().and_then(|config| config.hostname);
        let kubelet = Kubelet::read(&self.disk, &named.unwrap_or_else(|| self.hostname.clone()))?;
        let kubeconfig = match &kubelet.access {
            Access::Joined(kubeconfig) => kubeconfig.clone(),
            Access::Bootstrap(bootstrap) => Box::new(self.bootstrap(&kubelet, bootstrap).await?),
        };
        let client = client(&kubeconfig).await?;
        let machine = Machine {
            kubelet_version: self
                .installed_version()
                .unwrap_or_else(|| self.machine.kubelet_version.clone()),
            ..self.machine.clone()
        };
        let node = node::register(&client, &kubelet, &machine)
            .await
            .map_err(GuestError::Register)?;
        Ok(Joined {
            client,
            kubelet,
            node,
            machine,
        })
    }

    /// The kubelet that the user data has installed; nothing where it relies on the image's own.
    fn installed_version(&self) -> Option<String> {
        let unit = fs::read_to_string(self.disk.join(INSTALLER)).ok()?;
        let command = unit::parse([unit.as_str()])
            .ok()?
            .command(&self.hostname, |_| None)
            .ok()?;
        Some(format!("v{}", command.get(1)?))
    }

    /// TLS bootstrap: from a token to a kubeconfig with a client certificate, which is kept on the disk.
    async fn bootstrap(&self, kubelet: &Kubelet, bootstrap: &Kubeconfig) -> Result<Kubeconfig, GuestError> {
        let key = self.pending_key()?;
        let client = client(bootstrap).await?;
        let certificate = certificate::request(&client, Purpose::Client, &kubelet.node_name, &[], &key).await;
        if matches!(certificate, Err(CertificateError::Refused { .. })) {
            // A refused request is final; the next try needs another key, hence another request.
            self.forget_pending_key();
        }
        let joined = with_certificate(bootstrap, &certificate?, &key.serialize_pem());
        let text =
            serde_saphyr::to_string(&joined).map_err(|error| GuestError::Kubeconfig(error.to_string()))?;
        if let Some(path) = cloud_config::inside(&self.disk, &kubelet.kubeconfig_path) {
            write(&path, text.as_bytes())?;
        }
        self.forget_pending_key();
        Ok(joined)
    }

    fn pending_key(&self) -> Result<KeyPair, GuestError> {
        let path = self.disk.join(PENDING_KEY.trim_start_matches('/'));
        if let Ok(text) = fs::read_to_string(&path) {
            return Ok(KeyPair::from_pem(&text)?);
        }
        let key = KeyPair::generate()?;
        write(&path, key.serialize_pem().as_bytes())?;
        Ok(key)
    }

    fn forget_pending_key(&self) {
        // An absent file counts as removed.
        let _ = fs::remove_file(self.disk.join(PENDING_KEY.trim_start_matches('/')));
    }
}

/// A kubelet whose Node is registered.
struct Joined {
    client: Client,
    kubelet: Kubelet,
    node: k8s_openapi::api::core::v1::Node,
    machine: Machine,
}

impl Joined {
    async fn stay(&self) {
        let machine = &self.machine;
        let serving = async {
            if self.kubelet.serving_certificate {
                self.serve(machine).await;
            }
        };
        tokio::join!(
            node::heartbeat(&self.client, &self.kubelet, machine, &self.node),
            node::run_pods(&self.client, &self.kubelet, machine),
            serving,
        );
    }

    /// Requests the serving certificate until there is one.
    async fn serve(&self, machine: &Machine) {
        let (name, addresses) = (&self.kubelet.node_name, [machine.address]);
        loop {
            let Ok(key) = KeyPair::generate() else { return };
            match certificate::request(&self.client, Purpose::Serving, name, &addresses, &key).await {
                Ok(_) => return tracing::info!(node = name, "serving certificate issued"),
                Err(error) => tracing::warn!(node = name, "serving certificate: {}", chain(&error)),
            }
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
    }
}

async fn client(kubeconfig: &Kubeconfig) -> Result<Client, GuestError> {
    let wrong = |error: &dyn std::error::Error| GuestError::Kubeconfig(chain(error));
    let options = KubeConfigOptions::default();
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig.clone(), &options)
        .await
        .map_err(|error| wrong(&error))?;
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(10));
    Client::try_from(config).map_err(|error| wrong(&error))
}

/// The kubeconfig that the kubelet writes after its TLS bootstrap: the same cluster, its own certificate.
fn with_certificate(bootstrap: &Kubeconfig, certificate: &str, key: &str) -> Kubeconfig {
    let mut joined = bootstrap.clone();
    for user in joined
        .auth_infos
        .iter_mut()
        .filter_map(|named| named.auth_info.as_mut())
    {
        user.token = None;
        user.client_certificate_data = Some(STANDARD.encode(certificate));
        user.client_key_data = Some(STANDARD.encode(key).into());
    }
    joined
}

fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut options = fs::OpenOptions::new();
    options
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)?
        .write_all(content)
}
