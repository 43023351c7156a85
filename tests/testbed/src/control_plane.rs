//! One real control plane: etcd, kube-apiserver and kube-controller-manager on loopback.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use k8s_openapi::{
    api::{
        authentication::v1::{TokenRequest, TokenRequestSpec},
        core::v1::{ConfigMap, Namespace, Service, ServiceAccount},
        rbac::v1::{Role, RoleBinding},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::{
    audit, crds, flags,
    guest_network::GATEWAY,
    kubeconfig,
    pki::{self, Ca},
    ports::Port,
    process::{self, Process, Program},
    runs, timings,
    tools::Tools,
    virtualization::Virtualization,
};

/// How long a server may take from its start to its first `/readyz`.
const START_TIMEOUT: Duration = Duration::from_mins(2);
/// The interval of readiness checks of a starting server.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// How long etcd may take to exit after SIGTERM.
const ETCD_ENDS: Duration = Duration::from_secs(10);
/// Go collects garbage for a quarter of a short-lived API server's time by default. The limit is for beds that live
/// long.
const GARBAGE: [(&str, &str); 2] = [("GOGC", "600"), ("GOMEMLIMIT", "800MiB")];

/// The options of a control plane.
#[derive(Debug, Clone)]
pub struct Options {
    /// Names the folder of its logs and the context of its kubeconfigs.
    pub name: String,
    /// Folder of logs, keys and data; a new one below `target/testbed` if absent.
    pub dir: Option<PathBuf>,
    /// The component that runs VMs there, if any. KubeVirt's and CDI's CRDs are installed then, and for their own controllers
    /// the controller-manager binds claims to volumes, which simulated ones do themselves.
    pub virtualization: Option<Virtualization>,
    /// Whether the controller-manager runs.
    pub controller_manager: bool,
    /// Whether every request is written to `audit.log`.
    pub audit: bool,
    /// The egress socket of the [`crate::GuestNetwork`] that the kubelets are in; absent where they are on this
    /// machine.
    pub egress: Option<PathBuf>,
    /// A folder that [`ControlPlane::into_etcd_data`] filled: the cluster starts with a copy. Its CRDs are in place
    /// then, and the UIDs of its namespaces are those of every other copy.
    pub etcd_data: Option<PathBuf>,
}

impl Options {
    /// A plain cluster, like a user cluster.
    pub fn user() -> Self {
        Self {
            name: "user".into(),
            dir: None,
            virtualization: None,
            controller_manager: true,
            audit: false,
            egress: None,
            etcd_data: None,
        }
    }

    /// A cluster with KubeVirt's CRDs.
    pub fn infra() -> Self {
        Self {
            name: "infra".into(),
            virtualization: Some(Virtualization::Simulated),
            ..Self::user()
        }
    }
}

/// A running control plane. Its processes end when this is dropped, or with this process.
pub struct ControlPlane {
    options: Options,
    tools: Tools,
    dir: PathBuf,
    ca: Ca,
    server: String,
    admin_token: String,
    config: kube::Config,
    // Dropped in this order: clients first, storage last.
    controller_manager: Mutex<Option<Process>>,
    apiserver: Mutex<Process>,
    etcd: Mutex<Process>,
    data: DataDir,
    ports: [Port; 3],
    controller_manager_port: Port,
    refuses: AtomicBool,
}

impl ControlPlane {
    /// Starts everything and returns when it is ready for use.
    pub async fn start(options: Options) -> Result<Self> {
        timings::record("control-planes", &options.name);
        let tools = tokio::task::spawn_blocking(Tools::find).await??;
        let crds = if options.virtualization.is_some() && options.etcd_data.is_none() {
            crds::kubevirt()?
        } else {
            Vec::new()
        };
        let dir = match &options.dir {
            Some(dir) => dir.clone(),
            None => runs::new(&options.name)?.join(&options.name),
        };
        let [etcd_port, peer_port, secure_port] = [Port::reserve()?, Port::reserve()?, Port::reserve()?];
        let data = DataDir::create(&dir, options.etcd_data.as_deref())?;
        let ca = Ca::new(&format!("{}-ca", options.name))?;
        let admin_token = write_keys(&dir, &ca)?;
        let audit = audit::audit(&options, &dir);
        if let Some(audit) = &audit {
            fs::write(dir.join(flags::AUDIT_POLICY), &audit.policy)?;
        }
        if let Some(socket) = &options.egress {
            fs::write(dir.join(flags::EGRESS), flags::egress(socket))?;
        }
        let server = format!("https://{}", secure_port.address());

        let etcd = Program::new("etcd", &tools.etcd, &dir)
            .args(flags::etcd(
                &data.etcd(),
                &etcd_port.address(),
                &peer_port.address(),
            ))
            .spawn()?;
        let apiserver = Program::new("kube-apiserver", &tools.kube_apiserver, &dir)
            .envs(GARBAGE)
            .args(flags::apiserver(
                &dir,
                &etcd_port.address(),
                secure_port.number(),
                &options,
                audit.as_ref().map(|audit| audit.log.as_path()),
            ))
            .spawn()?;
        let admin = kubeconfig::with_token(&options.name, &server, &ca.base64(), &admin_token);
        write_secret(&dir.join("admin.kubeconfig"), &admin)?;
        let config = kubeconfig::config(&admin).await?;

        let plane = Self {
            options,
            tools,
            dir,
            ca,
            server,
            admin_token,
            config,
            controller_manager: Mutex::new(None),
            apiserver: Mutex::new(apiserver),
            etcd: Mutex::new(etcd),
            data,
            ports: [etcd_port, peer_port, secure_port],
            controller_manager_port: Port::reserve()?,
            refuses: AtomicBool::new(false),
        };
        plane.await_apiserver().await?;
        plane.publish_cluster_info().await?;
        plane.create_dns_service().await?;
        // Before the controller-manager: its garbage collector looks for new kinds only every 30 seconds.
        crds::install(&plane.client(), &crds).await?;
        if plane.options.controller_manager {
            plane.start_controller_manager().await?;
        }
        Ok(plane)
    }

    /// Starts the controller-manager if it does not run, and waits until it is healthy.
    pub async fn start_controller_manager(&self) -> Result<()> {
        if lock(&self.controller_manager)
            .as_ref()
            .is_some_and(|process| process.exited().is_none())
        {
            return Ok(());
        }
        let token = fs::read_to_string(self.dir.join("controller-manager.token"))?;
        let config = kubeconfig::with_token("controller-manager", &self.server, &self.ca.base64(), &token);
        write_secret(&self.dir.join("controller-manager.kubeconfig"), &config)?;
        let port = &self.controller_manager_port;
        let process = Program::new(
            "kube-controller-manager",
            &self.tools.kube_controller_manager,
            &self.dir,
        )
        .envs(GARBAGE)
        .args(flags::controller_manager(&self.dir, port.number(), &self.options))
        .spawn()?;
        *lock(&self.controller_manager) = Some(process);
        let server = format!("https://{}", port.address());
        let config = kubeconfig::with_token("controller-manager", &server, &self.ca.base64(), &token);
        let client = impatient(&config).await?;
        answers_ok(&client, "/healthz", || {
            lock(&self.controller_manager)
                .as_ref()
                .map_or(Ok(()), Process::check_alive)
        })
        .await
    }

    /// Stops the controller-manager, if it runs, until [`Self::start_controller_manager`].
    pub fn kill_controller_manager(&self) {
        lock(&self.controller_manager).take();
    }

    /// Kills the API server with SIGKILL and starts it again on the same port, with the same data.
    pub async fn restart_apiserver(&self) -> Result<()> {
        {
            let mut apiserver = lock(&self.apiserver);
            apiserver.kill();
            *apiserver = apiserver.program().clone().spawn()?;
        }
        self.await_apiserver().await
    }

    /// Copies the data of etcd into `folder`, which must not exist yet, for [`Self::restore_etcd`].
    pub async fn snapshot_etcd(&self, folder: &Path) -> Result<()> {
        // While it is stopped, its files are in the state after a crash, from which it can start.
        let pid = {
            let etcd = lock(&self.etcd);
            etcd.signal(Signal::SIGSTOP);
            etcd.pid()
        };
        while !process::is_stopped(pid) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let copied = copy_folder(&self.data.etcd(), folder);
        lock(&self.etcd).signal(Signal::SIGCONT);
        copied.with_context(|| format!("filling {}", folder.display()))
    }

    /// Restores etcd from the copy of [`Self::snapshot_etcd`], and restarts the servers of this cluster. resourceVersions continue
    /// from there.
    pub async fn restore_etcd(&self, folder: &Path) -> Result<()> {
        let managed = lock(&self.controller_manager).is_some();
        self.kill_controller_manager();
        {
            let (mut apiserver, mut etcd) = (lock(&self.apiserver), lock(&self.etcd));
            apiserver.kill();
            etcd.kill();
            fs::remove_dir_all(self.data.etcd())?;
            copy_folder(folder, &self.data.etcd())
                .with_context(|| format!("restoring {}", folder.display()))?;
            *etcd = etcd.program().clone().spawn()?;
            *apiserver = apiserver.program().clone().spawn()?;
        }
        self.await_apiserver().await?;
        if managed {
            self.start_controller_manager().await?;
        }
        Ok(())
    }

    /// Stops everything and moves etcd's data to `folder`, for [`Options::etcd_data`].
    pub(crate) async fn into_etcd_data(self, folder: &Path) -> Result<()> {
        self.kill_controller_manager();
        lock(&self.apiserver).kill();
        let etcd = self.etcd.into_inner().unwrap_or_else(PoisonError::into_inner);
        etcd.terminate(ETCD_ENDS).await?;
        fs::rename(self.data.etcd(), folder).with_context(|| format!("filling {}", folder.display()))
    }

    /// The name from its options.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Folder of its logs and keys.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// URL of the API server itself, without the fault proxy.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Address of the API server itself.
    pub fn address(&self) -> SocketAddr {
        let [.., secure_port] = &self.ports;
        SocketAddr::from(([127, 0, 0, 1], secure_port.number()))
    }

    /// URL of the API server as kubelets see it.
    pub fn server_for_kubelets(&self) -> String {
        match self.options.egress {
            Some(_) => format!("https://{GATEWAY}"),
            None => self.server.clone(),
        }
    }

    /// Signs serving certificates and, through the controller-manager, CSRs; one CA as kubeadm has it.
    pub fn ca(&self) -> &Ca {
        &self.ca
    }

    /// A new client in `system:masters`, for the current runtime: a client serves only the runtime that made it, and
    /// a control plane may be shared by tests with a runtime each.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn client(&self) -> Client {
        // The same configuration made a client when the control plane started.
        Client::try_from(self.config.clone()).unwrap_or_else(|error| panic!("no client: {error}"))
    }

    /// The programs it runs with.
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// Kubeconfig of the admin (`system:masters`), on disk.
    pub fn admin_kubeconfig_path(&self) -> PathBuf {
        self.dir.join("admin.kubeconfig")
    }

    /// Kubeconfig of the admin for another URL, such as a fault proxy's.
    pub fn admin_kubeconfig_for(&self, server: &str) -> String {
        kubeconfig::with_token(self.name(), server, &self.ca.base64(), &self.admin_token)
    }

    /// The audit log, if it is enabled.
    pub fn audit_log(&self) -> PathBuf {
        self.dir.join("audit.log")
    }

    /// Records beside the audit log that Machinist is refused these resources from now on, because a test removed rights.
    pub fn refuses(&self, resources: &[&str]) -> Result<()> {
        self.refuses.store(true, Ordering::Relaxed);
        audit::note_refused(&self.dir, resources)
    }

    /// Whether [`Self::refuses`] was called: its audit log does not apply to other cases then.
    pub fn has_refused(&self) -> bool {
        self.refuses.load(Ordering::Relaxed)
    }

    /// A token of a ServiceAccount, valid for a day.
    pub async fn service_account_token(&self, namespace: &str, name: &str) -> Result<String> {
        let api: Api<ServiceAccount> = Api::namespaced(self.client(), namespace);
        let request = TokenRequest {
            metadata: ObjectMeta::default(),
            spec: TokenRequestSpec {
                audiences: Vec::new(),
                expiration_seconds: Some(24 * 60 * 60),
                bound_object_ref: None,
            },
            status: None,
        };
        let answer = api
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .with_context(|| format!("asking for a token of ServiceAccount {namespace}/{name}"))?;
        Ok(answer.status.context("a TokenRequest without status")?.token)
    }

    /// A kubeconfig with a token of a ServiceAccount, for `server`.
    pub async fn service_account_kubeconfig(
        &self,
        namespace: &str,
        name: &str,
        server: &str,
    ) -> Result<String> {
        let token = self.service_account_token(namespace, name).await?;
        Ok(kubeconfig::with_token(name, server, &self.ca.base64(), &token))
    }

    /// Creates a namespace unless it exists.
    pub async fn ensure_namespace(&self, name: &str) -> Result<()> {
        let api: Api<Namespace> = Api::all(self.client());
        let namespace = Namespace {
            metadata: ObjectMeta {
                name: Some(name.into()),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        };
        match api.create(&PostParams::default(), &namespace).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            other => other
                .map(drop)
                .with_context(|| format!("creating namespace {name}")),
        }
    }

    /// Runs kubectl as the admin, with `stdin`, whatever its exit code.
    pub async fn kubectl(&self, args: &[&str], stdin: &str) -> Result<Output> {
        let mut child = tokio::process::Command::new(&self.tools.kubectl)
            .arg("--kubeconfig")
            .arg(self.admin_kubeconfig_path())
            // Without the environment of the user who runs the tests, such as settings of plugins and aliases.
            .env("KUBECTL_KUBERC", "false")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting kubectl")?;
        if let Some(mut pipe) = child.stdin.take() {
            // kubectl may exit before it has read everything; its exit code reports an error.
            let _ = pipe.write_all(stdin.as_bytes()).await;
        }
        Ok(child.wait_with_output().await?)
    }

    /// Runs kubectl as the admin; its standard output, or an error with what it wrote to standard error.
    pub async fn kubectl_ok(&self, args: &[&str], stdin: &str) -> Result<String> {
        let output = self.kubectl(args, stdin).await?;
        if !output.status.success() {
            bail!(
                "kubectl {}: {}",
                args.join(" "),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    async fn await_apiserver(&self) -> Result<()> {
        let admin = self.admin_kubeconfig_for(&self.server);
        answers_ok(&impatient(&admin).await?, "/readyz", || {
            lock(&self.apiserver).check_alive()
        })
        .await
    }

    /// The Service of the cluster's DNS, as kubeadm creates it.
    async fn create_dns_service(&self) -> Result<()> {
        let services: Api<Service> = Api::namespaced(self.client(), "kube-system");
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kube-dns", "labels": {"k8s-app": "kube-dns"}},
            "spec": {
                "clusterIP": "10.96.0.10", "selector": {"k8s-app": "kube-dns"},
                "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}],
            },
        });
        let params = PatchParams::apply("testbed").force();
        services
            .patch("kube-dns", &params, &Patch::Apply(service))
            .await?;
        Ok(())
    }

    /// The ConfigMap that kubeadm publishes for joining nodes, from which machine controllers read the cluster's address and CA.
    async fn publish_cluster_info(&self) -> Result<()> {
        for namespace in ["kube-public", "kube-system", "default"] {
            // The API server creates them, too, but a little later.
            self.ensure_namespace(namespace).await?;
        }
        let name = "cluster-info";
        let metadata = json!({"name": name, "namespace": "kube-public"});
        let kubeconfig = format!(
            "apiVersion: v1
kind: Config
clusters:
- name: \"\"
  cluster:
    server: {}
    certificate-authority-data: {}
contexts: []
users: []
current-context: \"\"
",
            self.server_for_kubelets(),
            self.ca.base64()
        );
        let params = PatchParams::apply("testbed").force();
        let config_map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"kubeconfig": kubeconfig},
        });
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata,
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [name], "verbs": ["get"]}],
        });
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:anonymous"}],
        });
        let config_maps: Api<ConfigMap> = Api::namespaced(self.client(), "kube-public");
        let roles: Api<Role> = Api::namespaced(self.client(), "kube-public");
        let bindings: Api<RoleBinding> = Api::namespaced(self.client(), "kube-public");
        config_maps
            .patch(name, &params, &Patch::Apply(config_map))
            .await?;
        roles.patch(name, &params, &Patch::Apply(role)).await?;
        bindings.patch(name, &params, &Patch::Apply(binding)).await?;
        Ok(())
    }
}

/// etcd's data, which is deleted once etcd has stopped.
struct DataDir(PathBuf);

impl DataDir {
    fn create(parent: &Path, copy_of: Option<&Path>) -> Result<Self> {
        let dir = Self(parent.join(runs::DATA));
        let _ = fs::remove_dir_all(&dir.0);
        fs::create_dir_all(&dir.0).with_context(|| format!("creating {}", dir.0.display()))?;
        if let Some(data) = copy_of {
            copy_folder(data, &dir.etcd()).with_context(|| format!("copying {}", data.display()))?;
        }
        Ok(dir)
    }

    fn etcd(&self) -> PathBuf {
        self.0.join("etcd")
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir(to)?;
    // etcd warns if other users may read its data.
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_folder(&from, &to)?;
        } else {
            fs::copy(from, to)?;
        }
    }
    Ok(())
}

/// Writes all keys, certificates and tokens that the flags name; returns the admin's token.
fn write_keys(dir: &Path, ca: &Ca) -> Result<String> {
    ca.write(dir)?;
    ca.serving(
        "kube-apiserver",
        &[
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            &GATEWAY.ip().to_string(),
        ],
    )?
    .write(dir, "apiserver")?;
    // As kubeadm creates it: the client certificate of the API server for kubelets.
    ca.client("kube-apiserver-kubelet-client", "system:masters")?
        .write(dir, "apiserver-kubelet-client")?;
    ca.serving("kube-controller-manager", &[])?
        .write(dir, "controller-manager")?;
    pki::write_signing_key(dir, "service-account")?;
    let admin = random_token()?;
    let controller_manager = random_token()?;
    let tokens = format!(
        "{admin},admin,admin,system:masters\n{controller_manager},system:kube-controller-manager,kcm,system:masters\n"
    );
    write_secret(&dir.join("tokens.csv"), &tokens)?;
    write_secret(&dir.join("controller-manager.token"), &controller_manager)?;
    Ok(admin)
}

/// A token of 128 random bits.
fn random_token() -> Result<String> {
    let mut bytes = [0; 16];
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    provider
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| anyhow::anyhow!("no randomness"))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// Writes a file that only this user may read.
fn write_secret(path: &Path, text: &str) -> Result<()> {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    let mut file = fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
        .with_context(|| format!("writing {}", path.display()))
}

/// A client without retries: code that awaits a start retries itself.
async fn impatient(kubeconfig: &str) -> Result<Client> {
    let mut config = kubeconfig::config(kubeconfig).await?;
    config.default_retry = false;
    config.read_timeout = Some(Duration::from_secs(5));
    Ok(Client::try_from(config)?)
}

async fn answers_ok(client: &Client, path: &str, alive: impl Fn() -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        alive()?;
        let request = http::Request::get(path).body(Vec::new())?;
        let Err(problem) = client.request_text(request).await else {
            return Ok(());
        };
        if Instant::now() > deadline {
            bail!("{path} was not ok within {START_TIMEOUT:?}: {problem}");
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
