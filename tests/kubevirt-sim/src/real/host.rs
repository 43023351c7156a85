//! The machine that guests run on: a thread inside their network namespace that starts all their processes.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;

use nix::sched::{CloneFlags, setns};
use thiserror::Error;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::machine::{CommandLine, Image, NetworkCard};
use super::{BRIDGE, GATEWAY, NETMASK, Options, RANGE, lease};

/// Why there is no host for real guests.
#[derive(Debug, Error)]
pub enum HostError {
    /// It was not built.
    #[error("real guests need {0}, which is missing; run `make guest-image`")]
    NoImage(PathBuf),
    /// The network cannot be entered.
    #[error("cannot enter the guests' network {0}: {1}")]
    Network(PathBuf, #[source] io::Error),
    /// A folder cannot be made.
    #[error("cannot make the folder of the guests' consoles: {0}")]
    Folder(#[source] io::Error),
    /// A program does not do what it should.
    #[error(transparent)]
    Program(#[from] ProgramError),
}

/// A program that could not be started or failed.
#[derive(Debug, Error)]
#[error("{program}: {problem}; run hack/install-tools.sh guest if it is missing")]
pub struct ProgramError {
    program: String,
    problem: String,
}

/// The host. Every process of it ends with it, and with this process, however that ends.
#[derive(Debug)]
pub(crate) struct Host {
    options: Options,
    image: Image,
    inside: Handle,
    _end: DropGuard,
}

impl Host {
    /// Enters the network and starts its DHCP server.
    pub(crate) async fn start(options: Options) -> Result<Self, HostError> {
        let image = Image::in_folder(&options.image);
        if let Some(path) = image.missing() {
            return Err(HostError::NoImage(path));
        }
        std::fs::create_dir_all(&options.consoles).map_err(HostError::Folder)?;
        let end = CancellationToken::new();
        let inside = enter(&options, end.clone()).await?;
        let host = Self {
            options,
            image,
            inside,
            _end: end.drop_guard(),
        };
        host.serve_addresses().await?;
        Ok(host)
    }

    /// Runs tasks inside the network: what they start and open is there.
    pub(crate) fn inside(&self) -> &Handle {
        &self.inside
    }

    pub(crate) fn image(&self) -> &Image {
        &self.image
    }

    /// Where the console of a VM's guest goes.
    pub(crate) fn console(&self, vm: &str) -> PathBuf {
        self.options.consoles.join(format!("{vm}.log"))
    }

    /// The address that a card was given.
    pub(crate) async fn address(&self, card: &NetworkCard) -> Option<String> {
        let leases = tokio::fs::read_to_string(self.leases()).await.ok()?;
        lease::address(&leases, &card.mac).map(str::to_owned)
    }

    fn leases(&self) -> PathBuf {
        self.options.consoles.join("leases")
    }

    async fn serve_addresses(&self) -> Result<(), ProgramError> {
        let [first, last] = RANGE;
        let mut line: CommandLine = [
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--pid-file=",
            "--user=root",
            "--group=root",
            // No DNS.
            "--port=0",
            "--bind-interfaces",
            "--except-interface=lo",
            "--dhcp-authoritative",
            "--no-ping",
        ]
        .map(Into::into)
        .into();
        line.push(format!("--interface={BRIDGE}").into());
        line.push(format!("--dhcp-range={first},{last},{NETMASK},12h").into());
        line.push(format!("--dhcp-option=option:router,{GATEWAY}").into());
        line.push(format!("--dhcp-leasefile={}", self.leases().display()).into());
        line.push(
            format!(
                "--log-facility={}",
                self.options.consoles.join("dhcp.log").display()
            )
            .into(),
        );
        let child = self
            .inside
            .spawn(async move { start(&line, &[], Stdio::null(), Stdio::null()) });
        let mut child = joined(child).await?;
        // It does not respond before it has bound its socket; a guest retries.
        self.inside.spawn(async move {
            match child.wait().await {
                Ok(status) => tracing::error!(%status, "the guests' DHCP server has ended"),
                Err(error) => tracing::error!(%error, "the guests' DHCP server is lost"),
            }
        });
        Ok(())
    }
}

/// The result of a task of this module; it is not aborted before its host is gone.
async fn joined<T>(task: tokio::task::JoinHandle<Result<T, ProgramError>>) -> Result<T, ProgramError> {
    task.await.unwrap_or_else(|error| {
        Err(ProgramError {
            program: "the guests' host".to_owned(),
            problem: error.to_string(),
        })
    })
}

/// Starts the thread that lives in the network until `end`. Children are killed when the thread that started them ends:
/// here that is one for all.
async fn enter(options: &Options, end: CancellationToken) -> Result<Handle, HostError> {
    let failed = |error| HostError::Network(options.network.clone(), error);
    let network = File::open(&options.network).map_err(failed)?;
    let (entered, answer) = oneshot::channel();
    let run = move || {
        let runtime = setns(network, CloneFlags::CLONE_NEWNET)
            .map_err(io::Error::from)
            .and_then(|()| tokio::runtime::Builder::new_current_thread().enable_all().build());
        match runtime {
            Ok(runtime) => {
                // The receiver is gone if the start was aborted.
                let _ = entered.send(Ok(runtime.handle().clone()));
                runtime.block_on(end.cancelled());
            }
            Err(error) => drop(entered.send(Err(error))),
        }
    };
    thread::Builder::new()
        .name("guests".to_owned())
        .spawn(run)
        .map_err(failed)?;
    let gone = || io::Error::other("its thread has ended");
    answer.await.unwrap_or_else(|_| Err(gone())).map_err(failed)
}

/// Starts a program that is killed with the thread that called this. Its standard error is the simulator's.
pub(crate) fn start(
    line: &CommandLine,
    environment: &[(&str, PathBuf)],
    input: Stdio,
    output: Stdio,
) -> Result<Child, ProgramError> {
    // `setpriv` sets PR_SET_PDEATHSIG and becomes the program: same pid, and no unsafe code here.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "SIGKILL", "--"])
        .args(line)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(input)
        .stdout(output)
        .kill_on_drop(true)
        // Ctrl-C at a terminal is for the simulator, which ends its guests in order.
        .process_group(0);
    command.spawn().map_err(|error| problem(line, &error.to_string()))
}

/// Runs a program to its end.
pub(crate) async fn run(line: &CommandLine) -> Result<(), ProgramError> {
    let mut command = Command::new(line.first().cloned().unwrap_or_default());
    command
        .args(line.iter().skip(1))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = command
        .output()
        .await
        .map_err(|error| problem(line, &error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(problem(line, &format!("{}: {}", output.status, said.trim())))
}

/// Runs `ip` with these words.
pub(crate) async fn ip(words: &str) -> Result<(), ProgramError> {
    let mut line: CommandLine = vec!["ip".into()];
    line.extend(words.split(' ').map(Into::into));
    run(&line).await
}

fn problem(line: &CommandLine, problem: &str) -> ProgramError {
    let program = line.first().map(|word| word.to_string_lossy().into_owned());
    ProgramError {
        program: program.unwrap_or_default(),
        problem: problem.to_owned(),
    }
}
