//! The servers under measurement: started pinned to a core, observed through `/proc`, killed at the end.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use machinist_certs::DevelopmentCa;
use tempfile::TempDir;

use crate::load::{Client, Load};
use crate::reviews;

/// A serving certificate in a separate directory.
#[derive(Debug)]
pub(crate) struct Certificate {
    directory: TempDir,
}

impl Certificate {
    /// Signs one and writes it.
    pub(crate) fn write(ca: &DevelopmentCa) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let leaf = ca.serving(&["localhost"], Duration::from_hours(24))?;
        fs::write(directory.path().join("tls.crt"), leaf.certificate)?;
        fs::write(directory.path().join("tls.key"), leaf.key)?;
        Ok(Self { directory })
    }

    fn arguments(&self) -> [String; 2] {
        let file = |name: &str| self.directory.path().join(name).display().to_string();
        [
            format!("--tls-cert-path={}", file("tls.crt")),
            format!("--tls-key-path={}", file("tls.key")),
        ]
    }
}

/// A server's process; killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
    started: Instant,
    /// Holds the floor's answer.
    _answer: Option<TempDir>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have exited by itself already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// The webhook.
    pub(crate) fn webhook(binary: &Path, certificate: &Certificate, core: usize) -> anyhow::Result<Self> {
        if !binary.exists() {
            bail!(
                "{} is missing; build it with `cargo build --release -p machinist-webhook`",
                binary.display()
            );
        }
        let ops = format!("--ops-address={}", free_address()?);
        // No request to infra clusters or the API server: only the webhook is measured.
        let alone = ["--infra-unreachable=off", "--reference-access-check=off"].map(str::to_owned);
        let arguments = alone.into_iter().chain([ops]).collect();
        Self::start(binary.to_owned(), core, certificate, arguments, None)
    }

    /// The floor, which answers `answer`.
    pub(crate) fn floor(answer: &[u8], certificate: &Certificate, core: usize) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("answer");
        fs::write(&file, answer)?;
        let arguments = vec!["floor".to_owned(), format!("--answer={}", file.display())];
        Self::start(
            std::env::current_exe()?,
            core,
            certificate,
            arguments,
            Some(directory),
        )
    }

    fn start(
        binary: PathBuf,
        core: usize,
        certificate: &Certificate,
        arguments: Vec<String>,
        answer: Option<TempDir>,
    ) -> anyhow::Result<Self> {
        let address = free_address()?;
        let started = Instant::now();
        // It is killed when the benchmark exits for any reason.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "taskset", "--cpu-list"])
            .arg(core.to_string())
            .arg(binary)
            .args(arguments)
            .arg(format!("--listen-address={address}"))
            .args(certificate.arguments())
            .env_remove("RUST_LOG")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start setpriv and taskset, which are in util-linux")?;
        Ok(Self {
            child,
            address,
            started,
            _answer: answer,
        })
    }

    /// The address that it listens on.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From its start to its first answer.
    pub(crate) async fn first_answer(&self, load: &Load) -> anyhow::Result<Duration> {
        let request = reviews::trivial();
        loop {
            if let Ok(mut client) = Client::connect(load, self.address).await
                && client.ask(&request).await.is_ok()
            {
                return Ok(self.started.elapsed());
            }
            if self.started.elapsed() > Duration::from_secs(10) {
                bail!("the server at {} does not answer", self.address);
            }
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
    }

    /// CPU time used so far.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        // Fields 14 and 15 after the command's name, which is in parentheses: ticks of 10 ms.
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields = stat
            .rsplit_once(") ")
            .context("a malformed stat file")?
            .1
            .split(' ')
            .collect::<Vec<_>>();
        let ticks = |i: usize| {
            fields
                .get(i)
                .and_then(|f| f.parse::<u64>().ok())
                .context("a malformed stat file")
        };
        Ok(Duration::from_millis(10 * (ticks(11)? + ticks(12)?)))
    }

    /// Memory in use, in MB.
    pub(crate) fn rss(&self) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .context("no VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024.0 / 1e6)
    }
}

fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
