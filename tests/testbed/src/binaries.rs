//! Our own programs, as cargo built them.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use anyhow::{Context as _, Result, bail};

use crate::paths;

/// Packages whose programs the testbed runs.
const PACKAGES: [&str; 3] = ["machinist-controller", "machinist-webhook", "kubevirt-sim"];

/// What came of building them, once per process; the lock of cargo keeps processes apart.
static BUILT: OnceLock<Result<(), String>> = OnceLock::new();

/// The folder with our programs: `MACHINIST_BIN_DIR` if it is set (nothing is built then), else cargo's, after
/// `cargo build` has made them current.
pub fn folder() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("MACHINIST_BIN_DIR") {
        return Ok(PathBuf::from(dir));
    }
    BUILT
        .get_or_init(|| build().map_err(|error| format!("{error:#}")))
        .as_ref()
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(target_folder())
}

/// A program of ours.
pub fn find(name: &str) -> Result<PathBuf> {
    let path = folder()?.join(name);
    if !path.is_file() {
        bail!(
            "{} is missing: cargo build --bins --package {name}",
            path.display()
        );
    }
    Ok(path)
}

fn build() -> Result<()> {
    let packages = PACKAGES.iter().flat_map(|package| ["--package", package]);
    let mut command = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
    command
        .current_dir(paths::workspace())
        .args(["build", "--quiet", "--bins"])
        .args(packages);
    if target_folder().ends_with("release") {
        command.arg("--release");
    }
    let status = command.stdin(Stdio::null()).status().context("starting cargo")?;
    if !status.success() {
        bail!("cargo build of {} ended with {status}", PACKAGES.join(", "));
    }
    Ok(())
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
