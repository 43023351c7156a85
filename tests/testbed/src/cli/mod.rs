//! The commands and their output.

mod console;
mod demo;
mod interrupt;
mod serve;
mod state;

use std::{
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use nix::sys::signal::Signal;
use testbed::{
    GuestNetwork, Kubevirt,
    bed::Virtualization,
    binaries, paths,
    process::{is_running, signal_pid},
    tools::Tools,
};

use self::{interrupt::Started, state::StateDir};

/// How long a start may take once everything is built.
const START_TIMEOUT: Duration = Duration::from_mins(3);
/// How long everything may take to stop after SIGTERM.
const END_TIMEOUT: Duration = Duration::from_mins(1);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A user cluster, an infra cluster with a simulated KubeVirt, and Machinist, on this machine.
#[derive(Debug, Parser)]
#[command(name = "testbed", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Task,
    /// Folder of kubeconfigs, programs and logs.
    #[arg(long, global = true)]
    dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Start everything, apply nothing. Reports it if everything runs already.
    Up(StartOptions),
    /// Start everything, create a Machine that becomes a Node, and one that is refused.
    Demo(StartOptions),
    /// Stop everything.
    Down,
    /// Show what runs.
    Status,
    /// Build missing programs that tests need: those of the control plane, and KubeVirt's admission.
    Tools,
    /// Run in the foreground until SIGTERM; `up` starts this.
    #[command(hide = true)]
    Serve(StartOptions),
}

/// What to start.
#[derive(Debug, Clone, Args)]
pub(crate) struct StartOptions {
    /// Use one cluster for Machines and for VMs.
    #[arg(long)]
    one_cluster: bool,
    /// How long a simulated guest boots.
    #[arg(long, default_value_t = 2)]
    boot_seconds: u64,
    /// Only the control planes with KubeVirt's CRDs: no simulator, no Machinist.
    #[arg(long)]
    bare: bool,
    /// Who runs the VMs: a simulated KubeVirt, or KubeVirt's and CDI's own controllers on simulated hosts.
    #[arg(long, value_enum, default_value_t = Virtualization::Simulated, conflicts_with = "bare")]
    kubevirt: Virtualization,
    /// What the VMs of the demo run. Real ones take root and `make guest-image`.
    #[arg(long, value_enum, default_value_t = Guest::Simulated, conflicts_with = "bare")]
    guest: Guest,
}

impl StartOptions {
    /// The arguments that mean it.
    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![format!("--boot-seconds={}", self.boot_seconds)];
        if self.guest == Guest::Real {
            arguments.push("--guest=real".into());
        }
        if self.kubevirt == Virtualization::Real {
            arguments.push("--kubevirt=real".into());
        }
        arguments.extend(self.one_cluster.then(|| "--one-cluster".into()));
        arguments.extend(self.bare.then(|| "--bare".into()));
        arguments
    }
}

/// The kind of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Guest {
    /// A task of the simulator that follows the user data.
    Simulated,
    /// A Debian with a real kubelet, under emulation.
    Real,
}

/// Runs a command.
pub(crate) fn run(cli: Cli) -> Result<()> {
    let state = StateDir::new(&cli.dir.unwrap_or_else(|| paths::workspace().join(".testbed")))?;
    match cli.command {
        Task::Up(shape) => {
            let started = Started::watch(&state)?;
            started.conclude(up(&state, &shape, &started))
        }
        Task::Demo(shape) => {
            let started = Started::watch(&state)?;
            started.conclude(up(&state, &shape, &started).and_then(|()| demo::run(&state, shape.guest)))
        }
        Task::Down => down(&state),
        Task::Status => status(&state),
        Task::Tools => Tools::find().and_then(|_| Kubevirt::build()).map(drop),
        Task::Serve(shape) => serve::run(&state, &shape),
    }
}

fn up(state: &StateDir, shape: &StartOptions, started: &Started) -> Result<()> {
    if state.supervisor().is_some() {
        if !state.is_ready() {
            await_start(state, || state.supervisor().is_some())?;
        }
        is_as_asked(state, shape)?;
        println!("The testbed is up already.");
        return Ok(());
    }
    build(state, shape)?;
    println!("Starting {} ...", describe(shape));
    state.clear()?;
    let log = state.supervisor_log()?;
    let mut serve = Command::new(std::env::current_exe()?);
    serve
        .arg("serve")
        .arg("--dir")
        .arg(state.dir())
        .args(shape.arguments())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0);
    let mut child = started.start(|| {
        let child = serve.spawn().context("starting the supervisor")?;
        state.write_supervisor(child.id(), &shape.arguments())?;
        Ok(child)
    })?;
    let start = Instant::now();
    // Checked on the child itself: its command line, by which other commands find it, appears a moment after the start.
    await_start(state, || matches!(child.try_wait(), Ok(None)))?;
    println!("Up after {:.1} s.", start.elapsed().as_secs_f64());
    print!("{}", state.hints());
    Ok(())
}

/// Fails if the running testbed has other options, or a part of it has stopped since.
fn is_as_asked(state: &StateDir, shape: &StartOptions) -> Result<()> {
    let (is, asked) = (state.shape()?, shape.arguments().join(" "));
    if is != asked {
        bail!("the testbed is up with {is}, and was asked for with {asked}; end it first: make down");
    }
    let ended: Vec<String> = (state.processes()?.into_iter())
        .filter_map(|(name, _, runs)| (!runs).then_some(name))
        .collect();
    if !ended.is_empty() {
        let (ended, dir) = (ended.join(", "), state.run_dir());
        bail!(
            "the testbed is up, but not whole: {ended} ended; its log is below {}; restart it: make down up",
            dir.display()
        );
    }
    Ok(())
}

/// Builds the programs of the supervisor in the foreground, where progress is visible.
fn build(state: &StateDir, shape: &StartOptions) -> Result<()> {
    if shape.guest == Guest::Real
        && let Some(obstacle) = GuestNetwork::obstacle()
    {
        bail!("this machine forbids real guests: {obstacle}");
    }
    Tools::find()?;
    if shape.kubevirt == Virtualization::Real {
        Kubevirt::build()?;
    }
    binaries::build(&serve::options(state, shape).programs())
}

fn describe(shape: &StartOptions) -> &'static str {
    match (shape.bare, shape.one_cluster, shape.kubevirt) {
        (true, true, _) => "one control plane",
        (true, false, _) => "two control planes",
        (false, true, Virtualization::Simulated) => "one control plane, the simulated KubeVirt and Machinist",
        (false, false, Virtualization::Simulated) => {
            "two control planes, the simulated KubeVirt and Machinist"
        }
        (false, true, Virtualization::Real) => "one control plane, KubeVirt, CDI and Machinist",
        (false, false, Virtualization::Real) => "two control planes, KubeVirt, CDI and Machinist",
    }
}

fn await_start(state: &StateDir, mut runs: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + START_TIMEOUT;
    while !state.is_ready() {
        if !runs() {
            bail!("the testbed did not start; end of its log:\n{}", state.log_tail());
        }
        if Instant::now() > deadline {
            bail!(
                "not up within {START_TIMEOUT:?}; logs are in {}",
                state.dir().display()
            );
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

fn down(state: &StateDir) -> Result<()> {
    let Some(supervisor) = state.supervisor() else {
        println!("The testbed is not up.");
        return Ok(());
    };
    end(state, supervisor)?;
    println!("The testbed is down. Logs are in {}.", state.dir().display());
    Ok(())
}

/// Stops the supervisor, and everything with it.
fn end(state: &StateDir, supervisor: u32) -> Result<()> {
    signal_pid(supervisor, Signal::SIGTERM)?;
    let deadline = Instant::now() + END_TIMEOUT;
    while is_running(supervisor) {
        if Instant::now() > deadline {
            // Its children exit with it.
            signal_pid(supervisor, Signal::SIGKILL)?;
            break;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    state.forget_supervisor()
}

fn status(state: &StateDir) -> Result<()> {
    if state.supervisor().is_none() {
        println!("The testbed is not up.");
        return Ok(());
    }
    println!(
        "The testbed is {}.",
        if state.is_ready() { "up" } else { "starting" }
    );
    for (name, pid, runs) in state.processes()? {
        println!(
            "  {name:<40} {pid:>8}  {}",
            if runs { "runs" } else { "has ended" }
        );
    }
    print!("{}", state.hints());
    Ok(())
}
