//! A server of Machinist as a local process, which tests kill, stop, continue and start again.

use std::{
    path::PathBuf,
    process::ExitStatus,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    ports::Port,
    process::{Process, Program},
};

/// How long a server may take from its start to `/readyz`, and from SIGTERM to its exit.
const TIMEOUT: Duration = Duration::from_mins(1);

/// A controller or webhook with its own ServiceAccount and its own port of the fault proxy.
pub struct Server {
    client: String,
    program: Program,
    process: Mutex<Option<Process>>,
    health: String,
    metrics: String,
    ports: Vec<Port>,
}

impl Server {
    /// `client` is its name at the fault proxy; `health` and `metrics` are `HOST:PORT`; `ports` stay reserved.
    pub fn new(client: &str, program: Program, health: String, metrics: String, ports: Vec<Port>) -> Self {
        Self {
            client: client.into(),
            program,
            process: Mutex::new(None),
            health,
            metrics,
            ports,
        }
    }

    /// Its name at the fault proxies.
    pub fn client(&self) -> &str {
        &self.client
    }

    /// Starts it, unless it runs, and waits for `/readyz`.
    pub async fn start(&self) -> Result<()> {
        self.launch()?;
        self.ready().await
    }

    /// Starts it, unless it runs, without waiting.
    pub fn launch(&self) -> Result<()> {
        let mut process = self.process();
        if process.as_ref().is_none_or(|process| process.exited().is_some()) {
            // The old one is dropped first: it would remove the successor's pid file.
            process.take();
            *process = Some(self.program.spawn()?);
        }
        Ok(())
    }

    /// Waits for `/readyz`.
    pub async fn ready(&self) -> Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let answer = get(&self.health, "/readyz").await;
            if answer.as_ref().is_ok_and(|(code, _)| *code == 200) {
                return Ok(());
            }
            match self.process().as_ref() {
                Some(process) => process.check_alive()?,
                None => bail!("{} was not started", self.client),
            }
            if Instant::now() > deadline {
                bail!(
                    "{} was not ready within {TIMEOUT:?}: {answer:?}; log: {}",
                    self.client,
                    self.log().display()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until `/readyz` answers with another status than 200, or not at all.
    pub async fn unready(&self) -> Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        while matches!(get(&self.health, "/readyz").await, Ok((200, _))) {
            if Instant::now() > deadline {
                bail!("{} was still ready after {TIMEOUT:?}", self.client);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// SIGKILL, and waits for the exit.
    pub fn kill(&self) {
        if let Some(process) = self.process().as_ref() {
            process.kill();
        }
    }

    /// Sends SIGKILL to the current process, from any thread: for a [`crate::proxy::WriteFuse`].
    pub fn killer(&self) -> Result<impl Fn() + Send + Sync + use<>> {
        Ok(self
            .process()
            .as_ref()
            .with_context(|| format!("{} does not run", self.client))?
            .killer())
    }

    /// SIGTERM, and waits for the exit.
    pub async fn terminate(&self) -> Result<ExitStatus> {
        self.taken()?.terminate(TIMEOUT).await
    }

    /// Waits until it exits by itself.
    pub async fn ended(&self) -> Result<ExitStatus> {
        self.taken()?.ended(TIMEOUT).await
    }

    fn taken(&self) -> Result<Process> {
        self.process()
            .take()
            .with_context(|| format!("{} does not run", self.client))
    }

    /// SIGSTOP: it is stopped until [`Self::cont`].
    pub fn stop(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// SIGCONT.
    pub fn cont(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Whether it runs (or is stopped).
    pub fn is_running(&self) -> bool {
        self.process()
            .as_ref()
            .is_some_and(|process| process.exited().is_none())
    }

    /// Its process ID, if it was started.
    pub fn pid(&self) -> Option<u32> {
        self.process().as_ref().map(Process::pid)
    }

    /// Its log: all starts, one after the other.
    pub fn log(&self) -> PathBuf {
        self.program.log()
    }

    /// The contents of `/metrics`.
    pub async fn metrics(&self) -> Result<String> {
        let (code, body) = get(&self.metrics, "/metrics").await?;
        if code != 200 {
            bail!("/metrics of {} answered {code}: {body}", self.client);
        }
        Ok(body)
    }

    /// The ports it listens on.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.ports.iter().map(Port::number)
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = self.process().as_ref() {
            process.signal(signal);
        }
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// GET over plain HTTP: status code and body.
async fn get(address: &str, path: &str) -> Result<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .context("an answer without an end of its head")?;
        let code = head
            .split_whitespace()
            .nth(1)
            .context("an answer without a status code")?;
        Ok((code.parse()?, body.to_owned()))
    };
    tokio::time::timeout(Duration::from_secs(5), exchange).await?
}
