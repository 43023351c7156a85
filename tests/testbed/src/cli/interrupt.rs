//! Ctrl-C during `up` or `demo`: stops what this command started, and keeps what ran before.

use std::{
    process::Child,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};

use super::{end, state::StateDir};

/// The exit code of a command that Ctrl-C ended.
const INTERRUPTED: i32 = 128 + nix::libc::SIGINT;

/// A program that Ctrl-C ended, too, may be missed shortly before this process receives the signal.
const HEARING: Duration = Duration::from_millis(500);

/// The processes that this command started, which an interruption stops.
pub(crate) struct Started {
    /// The pid of the supervisor, if this command started it.
    supervisor: Arc<Mutex<Option<u32>>>,
    interrupted: mpsc::Receiver<()>,
}

impl Started {
    /// From here on, Ctrl-C and SIGTERM end what was started, and then this process.
    pub(crate) fn watch(state: &StateDir) -> Result<Self> {
        let supervisor = Arc::<Mutex<Option<u32>>>::default();
        let ours = Arc::clone(&supervisor);
        let (heard, interrupted) = mpsc::channel();
        let state = state.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        let (mut interrupt, mut terminate) = {
            let _entered = runtime.enter();
            (
                signal(SignalKind::interrupt()).context("watching for Ctrl-C")?,
                signal(SignalKind::terminate()).context("watching for SIGTERM")?,
            )
        };
        thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () }
            });
            let _ = heard.send(());
            // Held until the process exits: every start is recorded, and none begins any more.
            let started = ours.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(supervisor) = *started {
                eprintln!("\nInterrupted; ending what was started ...");
                if let Err(error) = end(&state, supervisor) {
                    eprintln!("testbed: {error:#}");
                }
            }
            std::process::exit(INTERRUPTED);
        });
        Ok(Self {
            supervisor,
            interrupted,
        })
    }

    /// Starts the supervisor, which an interruption stops.
    pub(crate) fn start(&self, start: impl FnOnce() -> Result<Child>) -> Result<Child> {
        let mut started = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner);
        let child = start()?;
        *started = Some(child.id());
        Ok(child)
    }

    /// The result of the command. An error because of an interruption is not reported: the interruption ends the process.
    pub(crate) fn conclude(&self, result: Result<()>) -> Result<()> {
        if result.is_err() && self.interrupted.recv_timeout(HEARING).is_ok() {
            loop {
                thread::park();
            }
        }
        result
    }
}
