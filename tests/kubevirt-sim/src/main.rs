//! Runs a simulated KubeVirt until a signal stops it.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kubevirt_sim::{Options, Role, Simulator, real};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// A simulated KubeVirt. Prints `ready` on standard output once its caches are synced.
#[derive(Debug, Parser)]
struct Arguments {
    /// Kubeconfig of the infra cluster.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Namespace of the VMs.
    #[arg(long)]
    namespace: String,
    /// Whose controllers run: the simulator's, or KubeVirt's and CDI's own, to which it plays the hosts.
    #[arg(long, value_enum, default_value_t = Controllers::Simulated)]
    kubevirt: Controllers,
    /// Seconds from the creation of a VirtualMachineInstance to Running.
    #[arg(long, default_value_t = 2.0)]
    boot_seconds: f64,
    /// Seconds that an import takes.
    #[arg(long, default_value_t = 0.3)]
    import_seconds: f64,
    /// Seconds from Running to the start of the guest's kubelet.
    #[arg(long, default_value_t = 0.7)]
    kubelet_seconds: f64,
    /// Seconds that a guest takes to shut down.
    #[arg(long, default_value_t = 0.3)]
    shutdown_seconds: f64,
    /// Where the admission webhook listens; port 0 means any free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    webhook_listen: SocketAddr,
    /// Folder of the guests' disks, so that guests survive a restart of the simulator.
    #[arg(long)]
    disks: Option<PathBuf>,
    /// What the guests' kubelets call their version.
    #[arg(long, default_value = "v1.36.3")]
    kubelet_version: String,
    /// Folder that hack/guest-image.sh filled, for VMs with a real guest.
    #[arg(long, requires_all = ["guest_network", "consoles"])]
    guest_image: Option<PathBuf>,
    /// File of the network namespace of real guests.
    #[arg(long)]
    guest_network: Option<PathBuf>,
    /// Folder for the consoles of real guests.
    #[arg(long)]
    consoles: Option<PathBuf>,
}

/// Whose controllers run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Controllers {
    Simulated,
    Real,
}

fn seconds(flag: &str, value: f64) -> anyhow::Result<Duration> {
    Duration::try_from_secs_f64(value).with_context(|| format!("--{flag}={value}"))
}

/// All of it or nothing, as clap has seen to.
fn real_guests(
    image: Option<PathBuf>,
    network: Option<PathBuf>,
    consoles: Option<PathBuf>,
) -> Option<real::Options> {
    Some(real::Options {
        image: image?,
        network: network?,
        consoles: consoles?,
    })
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("kubevirt_sim=info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let arguments = Arguments::parse();
    // Before the first client: several providers may be compiled in.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(&arguments.kubeconfig)
        .with_context(|| format!("reading {}", arguments.kubeconfig.display()))?;
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    // The client must not retry a refused eviction by itself.
    config.default_retry = false;
    let options = Options {
        role: match arguments.kubevirt {
            Controllers::Simulated => Role::All,
            Controllers::Real => Role::Hosts(Box::new(config.clone())),
        },
        boot: seconds("boot-seconds", arguments.boot_seconds)?,
        import: seconds("import-seconds", arguments.import_seconds)?,
        kubelet: seconds("kubelet-seconds", arguments.kubelet_seconds)?,
        shutdown: seconds("shutdown-seconds", arguments.shutdown_seconds)?,
        webhook_listen: arguments.webhook_listen,
        disks: arguments.disks,
        kubelet_version: arguments.kubelet_version,
        real: real_guests(arguments.guest_image, arguments.guest_network, arguments.consoles),
        ..Options::new(arguments.namespace)
    };
    let mut end = signal(SignalKind::terminate())?;
    let simulator = Simulator::start(kube::Client::try_from(config)?, options).await?;
    println!("ready");
    std::io::stdout().flush()?;
    tokio::select! {
        _ = end.recv() => {}
        result = tokio::signal::ctrl_c() => result?,
    }
    simulator.stop().await;
    Ok(())
}
