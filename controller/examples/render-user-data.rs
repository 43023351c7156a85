//! Writes user data of the built-in bootstrap to a folder, one file per operating system and setting, for linters to
//! read: `cargo run -p machinist-controller --example render-user-data DIRECTORY`. `.yaml` is a cloud-config, `.ign`
//! Ignition.

use std::path::PathBuf;

use anyhow::Context;

#[path = "../tests/samples/mod.rs"]
mod samples;

fn main() -> anyhow::Result<()> {
    let directory = std::env::args_os()
        .nth(1)
        .context("usage: render-user-data DIRECTORY")?;
    let directory = PathBuf::from(directory);
    std::fs::create_dir_all(&directory)?;
    for sample in samples::all()? {
        let extension = sample.user_data.ignition().map_or("yaml", |_| "ign");
        let path = directory.join(format!("{}.{extension}", sample.name));
        std::fs::write(&path, sample.user_data.bytes()).with_context(|| path.display().to_string())?;
    }
    Ok(())
}
