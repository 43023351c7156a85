//! Servers whose clock is wrong.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

/// The environment of a server whose clock is so many seconds ahead; the library for it is built in `dir`.
pub fn ahead(seconds: i64, dir: &Path) -> Result<[(&'static str, String); 2]> {
    let library = dir.join("shift.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("clock/shift.c");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&library, &source])
        .status()
        .context("running cc")?;
    ensure!(built.success(), "cc cannot build {}", source.display());
    Ok([
        ("LD_PRELOAD", library.display().to_string()),
        ("CLOCK_SHIFT_SECONDS", seconds.to_string()),
    ])
}
