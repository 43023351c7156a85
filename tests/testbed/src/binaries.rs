//! The programs of this workspace, as cargo built them.

use std::{
    collections::BTreeSet,
    env,
    io::IsTerminal as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result, bail};

use crate::paths;

/// The simulated KubeVirt.
pub const SIMULATOR: &str = "kubevirt-sim";
/// The controller.
pub const CONTROLLER: &str = "machinist-controller";
/// The webhook.
pub const WEBHOOK: &str = "machinist-webhook";
/// The plugin of kubectl.
pub const PLUGIN: &str = "kubectl-machinist";

/// Builds these programs with `cargo build`, unless `MACHINIST_BIN_DIR` is set.
pub fn build(packages: &[&str]) -> Result<()> {
    if given().is_some() || packages.is_empty() {
        return Ok(());
    }
    // Once per process; the lock of cargo keeps processes apart.
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if packages.iter().all(|package| built.contains(*package)) {
        return Ok(());
    }
    let mut command = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
    command.current_dir(paths::workspace()).args(["build", "--bins"]);
    command.args(packages.iter().flat_map(|package| ["--package", package]));
    if target_folder().ends_with("release") {
        command.arg("--release");
    }
    // Cargo's own progress is for terminals, not for logs.
    if !std::io::stderr().is_terminal() {
        command.arg("--quiet");
    }
    let status = command.stdin(Stdio::null()).status().context("starting cargo")?;
    if !status.success() {
        bail!("cargo build of {} ended with {status}", packages.join(", "));
    }
    built.extend(packages.iter().map(ToString::to_string));
    Ok(())
}

static BUILT: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// A program of this workspace: in `MACHINIST_BIN_DIR`, or in cargo's target directory.
pub fn find(name: &str) -> Result<PathBuf> {
    let path = given().unwrap_or_else(target_folder).join(name);
    if !path.is_file() {
        bail!(
            "{} is missing: cargo build --bins --package {name}",
            path.display()
        );
    }
    Ok(path)
}

/// Tests run in the folder of their crate, users and make in the root: a relative path is relative to the root.
fn given() -> Option<PathBuf> {
    env::var_os("MACHINIST_BIN_DIR").map(|dir| paths::workspace().join(dir))
}

/// `target/PROFILE` of the running program, which is there itself or in `deps`.
fn target_folder() -> PathBuf {
    let dir = env::current_exe()
        .ok()
        .and_then(|exe| exe.parent().map(Path::to_path_buf));
    match dir {
        Some(dir) if dir.ends_with("deps") || dir.ends_with("examples") => {
            dir.parent().map_or(dir.clone(), Path::to_path_buf)
        }
        Some(dir) => dir,
        None => paths::workspace().join("target/debug"),
    }
}
