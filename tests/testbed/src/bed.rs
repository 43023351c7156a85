//! The whole bed: user and infra cluster, fault proxies, simulated KubeVirt, the chart and Machinist's two servers.

use std::{
    fs,
    ops::Deref,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::{
    ControlPlane, FaultProxy, GuestNetwork, KubevirtProcesses, binaries, chart, clock,
    control_plane::Options as PlaneOptions,
    kubevirt_processes, paths,
    pki::Ca,
    ports::Port,
    process::{Process, Program},
    runs,
    seed::{self, INFRA_ACCOUNT, INFRA_NAMESPACE},
    server::Server,
    template::Template,
    timings,
};

pub use crate::chart::{RELEASE, SYSTEM_NAMESPACE};
pub use crate::virtualization::Virtualization;

/// The controller's name at the user cluster's proxy.
pub const CONTROLLER: &str = "controller";
/// The webhook's name at the user cluster's proxy.
pub const WEBHOOK: &str = "webhook";
/// Name at the infra cluster's proxy of all clients with the kubeconfig of Machines.
pub const MACHINES: &str = "machines";

/// How long a simulator may take to exit after SIGTERM.
const SIMULATOR_ENDS: Duration = Duration::from_secs(10);

/// How much of Machinist is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Machinist {
    /// Neither chart nor servers.
    Absent,
    /// The chart: CRDs, RBAC, policies and webhook configurations, but no webhook.
    Chart,
    /// The chart and a webhook.
    Webhook,
    /// The chart, a webhook and a controller.
    Whole,
}

/// The contents of etcd when a bed starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// Where the bed is of the usual shape, a copy of data that has the CRDs, the chart and the seeds in place.
    /// Preparing it costs as much as the start of a bed.
    Template,
    /// Nothing.
    Empty,
}

/// The options of a bed.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder of logs and keys; a new one below `target/testbed` if absent.
    pub dir: Option<PathBuf>,
    /// Both roles on one control plane, which costs half; otherwise each role has its own. The default where KubeVirt is
    /// simulated.
    pub one_cluster: bool,
    /// Whether the API servers write audit logs.
    pub audit: bool,
    /// The component that runs the VMs.
    pub virtualization: Virtualization,
    /// How long a simulated guest boots; `None`: no simulator.
    pub boot: Option<Duration>,
    /// Whether kubelets are in a network of real guests, which takes root and `make guest-image`. Simulated guests
    /// cannot reach the API server then.
    pub real_guests: bool,
    /// How much of Machinist is there.
    pub machinist: Machinist,
    /// Merged over the values that the testbed gives to the chart.
    pub chart_values: Value,
    /// The contents of etcd at the start.
    pub storage: Storage,
    /// More flags for the simulator.
    pub simulator_args: Vec<String>,
    /// More flags for the webhook.
    pub webhook_args: Vec<String>,
    /// More flags for the controllers.
    pub controller_args: Vec<String>,
    /// How many seconds the controllers' clocks are ahead.
    pub controller_clock: i64,
    /// The interval at which controllers write progress; the default is a tenth of theirs, so that tests wait less.
    pub progress_report_interval: Duration,
}

impl Default for Options {
    fn default() -> Self {
        let virtualization = Virtualization::of_environment();
        Self {
            dir: None,
            // Hosts are separate Nodes, without Machines.
            one_cluster: virtualization == Virtualization::Simulated,
            audit: false,
            virtualization,
            boot: Some(Duration::from_millis(200)),
            real_guests: false,
            machinist: Machinist::Whole,
            chart_values: json!({}),
            storage: Storage::Template,
            simulator_args: ["import", "kubelet", "shutdown"]
                .map(|what| format!("--{what}-seconds=0.1"))
                .into(),
            webhook_args: Vec::new(),
            controller_args: Vec::new(),
            controller_clock: 0,
            progress_report_interval: Duration::from_millis(300),
        }
    }
}

/// The part of [`Options`] that is fixed while the control planes run. The servers' flags and the simulator's are not.
#[derive(Debug, Clone, PartialEq)]
pub struct Foundation {
    one_cluster: bool,
    audit: bool,
    virtualization: Virtualization,
    real_guests: bool,
    chart_values: Option<Value>,
}

impl Options {
    /// The same with a control plane for each role.
    #[must_use]
    pub fn on_two_clusters(self) -> Self {
        Self {
            one_cluster: false,
            ..self
        }
    }

    /// What is fixed while the control planes run.
    pub fn foundation(&self) -> Foundation {
        Foundation {
            one_cluster: self.one_cluster,
            audit: self.audit,
            virtualization: self.virtualization,
            real_guests: self.real_guests,
            chart_values: (self.machinist >= Machinist::Chart).then(|| self.chart_values.clone()),
        }
    }

    /// Whether it starts with a copy of the template. Where there are two clusters, their namespaces have different
    /// UIDs.
    fn has_template(&self) -> bool {
        self.storage == Storage::Template
            && self.one_cluster
            && self.machinist >= Machinist::Chart
            && self.chart_values == json!({})
    }

    /// The programs of this workspace that this bed runs.
    pub fn programs(&self) -> Vec<&'static str> {
        let mut programs = Vec::new();
        if self.boot.is_some() {
            programs.push(binaries::SIMULATOR);
        }
        if self.machinist >= Machinist::Webhook {
            programs.push(binaries::WEBHOOK);
        }
        if self.machinist >= Machinist::Whole {
            programs.push(binaries::CONTROLLER);
        }
        programs
    }
}

/// A control plane with its fault proxy.
pub struct Cluster {
    plane: ControlPlane,
    proxy: FaultProxy,
}

impl Cluster {
    /// Starts both.
    pub(crate) async fn start(options: PlaneOptions) -> Result<Self> {
        let plane = ControlPlane::start(options).await?;
        let proxy = FaultProxy::start(&plane)?;
        Ok(Self { plane, proxy })
    }

    /// The proxy before its API server.
    pub fn proxy(&self) -> &FaultProxy {
        &self.proxy
    }
}

impl Deref for Cluster {
    type Target = ControlPlane;

    fn deref(&self) -> &ControlPlane {
        &self.plane
    }
}

/// The running bed. Everything is stopped when it is dropped.
pub struct Testbed {
    // Dropped in this order: clients before servers.
    controller: Option<Server>,
    webhook: Option<Server>,
    simulator: Option<Process>,
    kubevirt: Option<KubevirtProcesses>,
    user: Arc<Cluster>,
    infra: Arc<Cluster>,
    guest_network: Option<GuestNetwork>,
    options: Options,
    dir: PathBuf,
    webhook_ca: Ca,
    /// The webhook that the chart names.
    webhook_port: Port,
}

impl Testbed {
    /// Starts everything and returns when all of it is ready.
    pub async fn start(options: Options) -> Result<Self> {
        timings::record("beds", std::thread::current().name().unwrap_or("?"));
        let programs = options.programs();
        tokio::task::spawn_blocking(move || binaries::build(&programs)).await??;
        let dir = match &options.dir {
            Some(dir) => dir.clone(),
            None => runs::new("bed")?,
        };
        let guest_network = options.real_guests.then(GuestNetwork::create).transpose()?;
        let egress = guest_network.as_ref().map(GuestNetwork::egress_socket);
        let template = if options.has_template() {
            Some(Template::lease().await?)
        } else {
            None
        };
        let etcd_data = template.as_ref().map(Template::etcd_data);
        let (user, infra) = clusters(&options, &dir, egress, etcd_data).await?;
        drop(template);
        if let Some(network) = &guest_network {
            network.open(user.address())?;
        }
        let mut bed = Self {
            controller: None,
            webhook: None,
            simulator: None,
            kubevirt: None,
            user,
            infra,
            guest_network,
            options,
            dir,
            webhook_ca: Ca::new("machinist-webhook-ca")?,
            webhook_port: Port::reserve()?,
        };
        bed.seed().await?;
        if bed.options.machinist >= Machinist::Chart {
            bed.install_chart().await?;
        }
        let kubevirt = match bed.options.virtualization {
            Virtualization::Simulated => None,
            Virtualization::Real => Some(kubevirt_processes::prepare(&bed.infra, &bed.dir).await?),
        };
        // They start after the chart: the garbage collector discovers new kinds only every 30 seconds.
        let (user, infra) = (Arc::clone(&bed.user), Arc::clone(&bed.infra));
        user.start_controller_manager().await?;
        infra.start_controller_manager().await?;
        if let Some(kubevirt) = kubevirt {
            bed.kubevirt = Some(kubevirt.start(&bed.infra).await?);
        }
        bed.launch().await?;
        Ok(bed)
    }

    /// What is fixed while the control planes run.
    pub fn foundation(&self) -> Foundation {
        self.options.foundation()
    }

    /// Stops the controller and the webhook with SIGTERM; clusters and simulator keep running.
    pub async fn pause(&mut self) -> Result<()> {
        for server in [self.controller.take(), self.webhook.take()]
            .into_iter()
            .flatten()
        {
            if server.is_running() {
                server.terminate().await?;
            }
        }
        Ok(())
    }

    /// Starts the servers again after [`Self::pause`], with the flags of these options, as if the bed were new: no
    /// logs, no recorded requests, no faults.
    pub async fn resume(&mut self, options: Options) -> Result<()> {
        ensure!(
            options.foundation() == self.foundation(),
            "a bed of another foundation is needed"
        );
        let programs = options.programs();
        tokio::task::spawn_blocking(move || binaries::build(&programs)).await??;
        let simulates = |options: &Options| (options.boot, options.simulator_args.clone());
        if simulates(&options) != simulates(&self.options)
            && let Some(simulator) = self.simulator.take()
        {
            simulator.terminate(SIMULATOR_ENDS).await?;
        }
        self.options = options;
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                // Writers append, so they continue at the beginning of the truncated file.
                fs::File::create(&path).with_context(|| path.display().to_string())?;
            }
        }
        for cluster in [&self.user, &self.infra] {
            cluster.proxy().reset();
        }
        self.launch().await
    }

    /// Starts the simulator and Machinist's servers, as far as they do not run yet.
    async fn launch(&mut self) -> Result<()> {
        if self.options.boot.is_some() && self.simulator.is_none() {
            self.simulator = Some(self.simulate(&self.infra, "kubevirt-sim").await?);
        }
        if self.options.machinist >= Machinist::Webhook {
            let port = self.webhook_port.clone();
            self.webhook = Some(self.new_webhook(port, WEBHOOK).await?);
        }
        if self.options.machinist >= Machinist::Whole {
            self.controller = Some(self.new_controller(CONTROLLER, &[]).await?);
        }
        let servers = [&self.webhook, &self.controller];
        for server in servers.into_iter().flatten() {
            server.launch()?;
        }
        for server in servers.into_iter().flatten() {
            server.ready().await?;
        }
        Ok(())
    }

    /// The options that it was started with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The cluster of Machines and Nodes.
    pub fn user(&self) -> &Cluster {
        &self.user
    }

    /// The cluster of VMs.
    pub fn infra(&self) -> &Cluster {
        &self.infra
    }

    /// The controller.
    ///
    /// # Panics
    /// If the options left it out.
    pub fn controller(&self) -> &Server {
        self.controller
            .as_ref()
            .unwrap_or_else(|| panic!("this bed has no controller"))
    }

    /// The webhook.
    ///
    /// # Panics
    /// If the options left it out.
    pub fn webhook(&self) -> &Server {
        self.webhook
            .as_ref()
            .unwrap_or_else(|| panic!("this bed has no webhook"))
    }

    /// The one or two clusters.
    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        self.controller.iter().chain(&self.webhook)
    }

    /// Restores the infra cluster's etcd, as [`ControlPlane::restore_etcd`] does, and restarts the simulator, whose resourceVersions
    /// are newer than the restored ones.
    pub async fn restore_infra(&mut self, folder: &Path) -> Result<()> {
        if let Some(simulator) = self.simulator.take() {
            simulator.terminate(SIMULATOR_ENDS).await?;
        }
        self.infra.restore_etcd(folder).await?;
        if self.options.boot.is_some() {
            // It logs that it is ready.
            fs::File::create(self.dir.join("kubevirt-sim.log"))?;
            self.simulator = Some(self.simulate(&self.infra, "kubevirt-sim").await?);
        }
        Ok(())
    }

    /// KubeVirt's own processes, if they run.
    pub fn kubevirt(&self) -> Option<&KubevirtProcesses> {
        self.kubevirt.as_ref()
    }

    /// The simulated KubeVirt, if there is one.
    pub fn simulator(&self) -> Option<&Process> {
        self.simulator.as_ref()
    }

    /// Folder of all logs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Signs the webhook's serving certificate; the chart's `caBundle`.
    pub fn webhook_ca(&self) -> &Ca {
        &self.webhook_ca
    }

    /// Folder of the webhook's `tls.crt` and `tls.key`.
    pub fn webhook_cert_dir(&self) -> PathBuf {
        self.dir.join("webhook-cert")
    }

    /// A controller that is not started, with its own name and ports: a second one is a standby.
    pub async fn new_controller(&self, client: &str, more_args: &[&str]) -> Result<Server> {
        let kubeconfig = self.kubeconfig_of(binaries::CONTROLLER, client).await?;
        let ports = vec![Port::reserve()?, Port::reserve()?];
        let (metrics, health) = (ports[0].address(), ports[1].address());
        let program = self
            .machinist_program(client, binaries::CONTROLLER)?
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .arg(format!("--metrics-address={metrics}"))
            .arg(format!("--health-probe-address={health}"))
            // Guests have client certificates, which end at a proxy that ends TLS.
            .arg(format!(
                "--override-bootstrap-kubelet-apiserver={}",
                self.user.server_for_kubelets()
            ))
            .arg(format!(
                "--progress-report-interval={}ms",
                self.options.progress_report_interval.as_millis()
            ))
            .args(self.options.controller_args.iter().map(String::as_str))
            .args(more_args.iter().copied());
        let program = match self.options.controller_clock {
            0 => program,
            seconds => program.envs(clock::ahead(seconds, &self.dir)?),
        };
        Ok(Server::new(client, program, health, metrics, ports))
    }

    /// Stops Machinist's servers with SIGTERM and then everything else.
    pub async fn shut_down(mut self) -> Result<()> {
        self.pause().await
    }

    /// Runs `helm upgrade --install` again with these values over those of the start.
    pub async fn upgrade_chart(&self, values: &Value) -> Result<()> {
        let mut merged = self.values();
        chart::merge(&mut merged, values);
        chart::install(&self.user, &self.dir, &merged).await
    }

    async fn seed(&self) -> Result<()> {
        if self.options.machinist == Machinist::Absent {
            return seed::objects(&self.infra).await;
        }
        if !self.options.has_template() {
            seed::infra(&self.infra).await?;
        }
        let server = self.infra.proxy().listen_as(MACHINES)?;
        let kubeconfig = self
            .infra
            .service_account_kubeconfig(INFRA_NAMESPACE, INFRA_ACCOUNT, &server)
            .await?;
        fs::write(self.dir.join("machines.kubeconfig"), &kubeconfig)?;
        seed::infra_secret(&self.user, &kubeconfig).await
    }

    /// Folder of the real guests' consoles, `VM.log`.
    pub fn consoles(&self) -> PathBuf {
        consoles(&self.dir)
    }

    /// A simulated KubeVirt on that cluster, whose log has this name.
    pub(crate) async fn simulate(&self, infra: &Cluster, name: &str) -> Result<Process> {
        let boot = self.options.boot.unwrap_or_default();
        let mut real_guests = Vec::new();
        if let Some(network) = &self.guest_network {
            real_guests.push(format!("--guest-image={}", paths::guest_image().display()));
            real_guests.push(format!("--guest-network={}", network.path().display()));
            real_guests.push(format!("--consoles={}", self.consoles().display()));
        }
        let simulator = Program::new(name, binaries::find(binaries::SIMULATOR)?, &self.dir)
            .arg(format!(
                "--kubeconfig={}",
                infra.admin_kubeconfig_path().display()
            ))
            .arg(format!("--namespace={INFRA_NAMESPACE}"))
            .arg(format!("--boot-seconds={}", boot.as_secs_f64()))
            .arg(match self.options.virtualization {
                Virtualization::Simulated => "--kubevirt=simulated",
                Virtualization::Real => "--kubevirt=real",
            })
            .arg("--webhook-listen=127.0.0.1:0")
            .arg(format!(
                "--disks={}",
                self.dir.join("guests").join(name).display()
            ))
            .args(real_guests)
            .args(self.options.simulator_args.iter().map(String::as_str))
            .spawn()?;
        simulator.logged("ready", Duration::from_mins(1)).await?;
        Ok(simulator)
    }

    async fn install_chart(&self) -> Result<()> {
        self.webhook_ca
            .serving("machinist-webhook", &[])?
            .write(&self.webhook_cert_dir(), "tls")?;
        if self.options.has_template() {
            return chart::point_webhooks(&self.user, &self.webhook_url(), &self.webhook_ca).await;
        }
        let mut values = self.values();
        chart::merge(&mut values, &self.options.chart_values);
        chart::install(&self.user, &self.dir, &values).await
    }

    fn webhook_url(&self) -> String {
        format!("https://{}", self.webhook_port.address())
    }

    fn values(&self) -> Value {
        chart::values(&self.webhook_url(), &self.webhook_ca)
    }

    /// A webhook that is not started, with its own name and ports.
    pub async fn another_webhook(&self, client: &str) -> Result<Server> {
        self.new_webhook(Port::reserve()?, client).await
    }

    async fn new_webhook(&self, port: Port, client: &str) -> Result<Server> {
        let kubeconfig = self.kubeconfig_of(binaries::WEBHOOK, client).await?;
        let ports = vec![port, Port::reserve()?];
        let ops = ports[1].address();
        let certs = self.webhook_cert_dir();
        let program = self
            .machinist_program(client, binaries::WEBHOOK)?
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .arg(format!("--listen-address={}", ports[0].address()))
            .arg(format!("--ops-address={ops}"))
            .arg(format!("--tls-cert-path={}", certs.join("tls.crt").display()))
            .arg(format!("--tls-key-path={}", certs.join("tls.key").display()))
            // There are no endpoints that its shutdown would have to wait for.
            .arg("--shutdown-delay-duration=0s")
            .args(self.options.webhook_args.iter().map(String::as_str));
        Ok(Server::new(client, program, ops.clone(), ops, ports))
    }

    /// The arguments and environment of both servers.
    fn machinist_program(&self, client: &str, binary: &str) -> Result<Program> {
        Ok(Program::new(client, binaries::find(binary)?, &self.dir)
            .env("POD_NAMESPACE", INFRA_NAMESPACE)
            .arg("--infra-allow-loopback=true"))
    }

    /// A kubeconfig with the token of a ServiceAccount of the chart, through a separate port of the proxy.
    async fn kubeconfig_of(&self, account: &str, client: &str) -> Result<PathBuf> {
        let server = self.user.proxy().listen_as(client)?;
        let kubeconfig = self
            .user
            .service_account_kubeconfig(SYSTEM_NAMESPACE, account, &server)
            .await?;
        let path = self.dir.join(format!("{client}.kubeconfig"));
        fs::write(&path, kubeconfig)?;
        Ok(path)
    }
}

/// Folder of the real guests' consoles in the folder of a run.
pub fn consoles(run: &Path) -> PathBuf {
    run.join("consoles")
}

/// Starts the control planes with their proxies; the user cluster's controller-manager waits for the chart.
async fn clusters(
    options: &Options,
    dir: &Path,
    egress: Option<PathBuf>,
    etcd_data: Option<PathBuf>,
) -> Result<(Arc<Cluster>, Arc<Cluster>)> {
    let cluster = async |plane: PlaneOptions| {
        let dir = Some(dir.join(&plane.name));
        let options = PlaneOptions {
            dir,
            audit: options.audit,
            ..plane
        };
        anyhow::Ok(Arc::new(Cluster::start(options).await?))
    };
    let user = PlaneOptions {
        controller_manager: false,
        egress,
        etcd_data,
        ..PlaneOptions::user()
    };
    let virtualization = Some(options.virtualization);
    if options.one_cluster {
        let both = cluster(PlaneOptions {
            virtualization,
            ..user
        })
        .await?;
        return Ok((Arc::clone(&both), both));
    }
    let infra = PlaneOptions {
        virtualization,
        controller_manager: false,
        ..PlaneOptions::infra()
    };
    tokio::try_join!(cluster(user), cluster(infra))
}
