//! The supervisor: owns all processes until it is stopped.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use testbed::{
    Testbed,
    bed::{Machinist, Options, Storage},
};
use tokio::signal::unix::{SignalKind, signal};

use super::{Guest, StartOptions, state::StateDir};

/// Starts everything, reports it, and stops everything at SIGTERM or Ctrl-C.
pub(crate) fn run(state: &StateDir, shape: &StartOptions) -> Result<()> {
    // A new session: closing the terminal must not stop the testbed. This fails only for the leader of a process group, which
    // runs in the foreground then.
    let _ = nix::unistd::setsid();
    tokio::runtime::Runtime::new()?.block_on(serve(state, shape))
}

async fn serve(state: &StateDir, shape: &StartOptions) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = async {
        tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () }
    };
    tokio::pin!(stop);
    let bed = tokio::select! {
        bed = Testbed::start(options(state, shape)) => bed?,
        () = &mut stop => return Ok(()),
    };
    publish(state, &bed)?;
    state.mark_ready()?;
    stop.await;
    bed.shut_down().await
}

/// The options of the bed for this shape.
pub(crate) fn options(state: &StateDir, shape: &StartOptions) -> Options {
    Options {
        dir: Some(state.run_dir()),
        one_cluster: shape.one_cluster,
        // A single bed starts sooner without the template.
        storage: Storage::Empty,
        boot: (!shape.bare).then_some(Duration::from_secs(shape.boot_seconds)),
        virtualization: shape.kubevirt,
        real_guests: shape.guest == Guest::Real,
        // The simulator's default pace, which a user can follow.
        simulator_args: Vec::new(),
        machinist: if shape.bare {
            Machinist::Absent
        } else {
            Machinist::Whole
        },
        ..Options::default()
    }
}

/// Copies kubeconfigs and links programs to the documented paths.
fn publish(state: &StateDir, bed: &Testbed) -> Result<()> {
    fs::create_dir_all(state.bin())?;
    let tools = bed.user().tools();
    for (name, program) in [("kubectl", &tools.kubectl), ("helm", &tools.helm)] {
        let program = program
            .canonicalize()
            .with_context(|| format!("finding {}", program.display()))?;
        link(&program, &state.bin().join(name))?;
    }
    link(&bed.user().admin_kubeconfig_path(), &state.kubeconfig())?;
    link(&bed.infra().admin_kubeconfig_path(), &state.infra_kubeconfig())
}

fn link(target: &Path, link: &Path) -> Result<()> {
    let _ = fs::remove_file(link);
    std::os::unix::fs::symlink(target, link).with_context(|| format!("linking {}", link.display()))
}
