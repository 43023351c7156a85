//! Child processes that log to a file, can be stopped, continued and killed, and never outlive their parent.

use std::{
    fmt, fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{LazyLock, Mutex, MutexGuard, PoisonError, mpsc},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How often a file or a child process is polled while waiting for a change without events.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A program to start.
#[derive(Debug, Clone)]
pub struct Program {
    name: String,
    path: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    dir: PathBuf,
}

impl Program {
    /// `name` names the log (`NAME.log`) and pid file (`NAME.pid`) in `dir`.
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>, dir: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            path: path.into(),
            args: Vec::new(),
            env: Vec::new(),
            dir: dir.into(),
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<String>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of the environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Sets variables of the environment.
    #[must_use]
    pub fn envs<N: Into<String>, V: Into<String>>(mut self, env: impl IntoIterator<Item = (N, V)>) -> Self {
        self.env
            .extend(env.into_iter().map(|(name, value)| (name.into(), value.into())));
        self
    }

    /// The log of its standard output and error.
    pub fn log(&self) -> PathBuf {
        self.dir.join(format!("{}.log", self.name))
    }

    /// Starts it. The child is killed when this process exits for any reason.
    pub fn spawn(&self) -> Result<Process> {
        fs::create_dir_all(&self.dir).with_context(|| format!("creating {}", self.dir.display()))?;
        let log = self.log();
        let open = || fs::OpenOptions::new().create(true).append(true).open(&log);
        let logged = || format!("opening {}", log.display());
        // `setpriv` sets PR_SET_PDEATHSIG and becomes the program: same pid, and no unsafe code here.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "SIGKILL", "--"])
            .arg(&self.path)
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(open().with_context(logged)?)
            .stderr(open().with_context(logged)?)
            // Ctrl-C at a terminal is for the parent, which stops its children in order.
            .process_group(0);
        let child = spawn_for_life(command)
            .with_context(|| format!("starting {} (setpriv is part of util-linux)", self.path.display()))?;
        let pid = child.id();
        fs::write(self.dir.join(format!("{}.pid", self.name)), format!("{pid}\n"))?;
        Ok(Process {
            program: self.clone(),
            pid,
            child: Mutex::new(child),
            log,
        })
    }
}

/// A running child. Killed, with its pid file removed, when dropped.
pub struct Process {
    program: Program,
    pid: u32,
    child: Mutex<Child>,
    log: PathBuf,
}

impl Process {
    /// The name given to its [`Program`].
    pub fn name(&self) -> &str {
        &self.program.name
    }

    /// The program, to start it again.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Standard output and error.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The exit status, if it has exited.
    pub fn exited(&self) -> Option<ExitStatus> {
        self.child().try_wait().ok().flatten()
    }

    /// Fails with the end of the log if it has exited.
    pub fn check_alive(&self) -> Result<()> {
        match self.exited() {
            None => Ok(()),
            Some(status) => bail!(
                "{} ended with {status}; end of its log:\n{}",
                self.name(),
                self.log_tail()
            ),
        }
    }

    /// The last lines of the log.
    pub fn log_tail(&self) -> String {
        let text = fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let text = text.unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Sends a signal, unless it has exited already.
    pub fn signal(&self, signal: Signal) {
        let mut child = self.child();
        // While it is not reaped, the pid cannot belong to another process.
        if let Ok(None) = child.try_wait() {
            let _ = kill(pid(self.pid), signal);
        }
    }

    /// SIGKILL, and waits for the exit.
    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
        let _ = self.child().wait();
        let file = self.program.dir.join(format!("{}.pid", self.name()));
        // It may contain the pid of a successor by now.
        if fs::read_to_string(&file).is_ok_and(|text| text.trim() == self.pid.to_string()) {
            let _ = fs::remove_file(file);
        }
    }

    /// A handle that sends SIGKILL and returns at once, for use from any thread.
    pub fn killer(&self) -> impl Fn() + Send + Sync + use<> {
        let target = pid(self.pid);
        move || {
            let _ = kill(target, Signal::SIGKILL);
        }
    }

    /// SIGTERM, and waits for the exit; SIGKILL and an error after `timeout`.
    pub async fn terminate(&self, timeout: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM);
        let ended = self.ended(timeout).await;
        self.kill();
        ended.context("after SIGTERM")
    }

    /// Waits until it exits by itself.
    pub async fn ended(&self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.exited() {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} did not end within {timeout:?}", self.name());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits until the log has a line that starts with `start`.
    pub async fn logged(&self, start: &str, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            let log = fs::read(&self.log).unwrap_or_default();
            if String::from_utf8_lossy(&log)
                .lines()
                .any(|line| line.starts_with(start))
            {
                return Ok(());
            }
            self.check_alive()?;
            if Instant::now() > deadline {
                bail!(
                    "{} did not print {start:?} within {timeout:?}:\n{}",
                    self.name(),
                    self.log_tail()
                );
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("name", &self.name())
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

/// A pid in the type of system calls.
fn pid(pid: u32) -> Pid {
    // Linux' largest pid is 2^22.
    Pid::from_raw(i32::try_from(pid).unwrap_or(i32::MAX))
}

/// Whether a process with this pid runs (a zombie does not).
pub fn is_running(process: u32) -> bool {
    fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| {
        stat.rsplit_once(')')
            .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
    })
}

/// Whether a process with this pid is stopped.
pub(crate) fn is_stopped(process: u32) -> bool {
    fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| {
        stat.rsplit_once(')')
            .is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
    })
}

/// Sends a signal to a process that is not a child of this one.
pub fn signal_pid(process: u32, signal: Signal) -> Result<()> {
    Ok(kill(pid(process), signal)?)
}

type Job = (Command, mpsc::Sender<std::io::Result<Child>>);

/// The parent-death signal is sent when the *thread* that started the child ends. So one thread that lives as long as
/// the process starts them all, whichever runtime or test asks.
static SPAWNER: LazyLock<Mutex<mpsc::Sender<Job>>> = LazyLock::new(|| {
    let (jobs, inbox) = mpsc::channel::<Job>();
    let spawner = std::thread::Builder::new()
        .name("testbed-spawner".into())
        .spawn(move || {
            for (mut command, answer) in inbox {
                let _ = answer.send(command.spawn());
            }
        });
    drop(spawner);
    Mutex::new(jobs)
});

fn spawn_for_life(command: Command) -> Result<Child> {
    let (answer, child) = mpsc::channel();
    let spawner = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner).clone();
    spawner
        .send((command, answer))
        .map_err(|_| anyhow::anyhow!("the spawning thread is gone"))?;
    Ok(child.recv()??)
}
