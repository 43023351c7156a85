//! Writes the seeds of the target `admission` into a corpus. Usage: `seeds CORPUS`

use std::path::PathBuf;
use std::{env, fs};

use anyhow::Context as _;
use machinist_fuzz_targets::seeds;

fn main() -> anyhow::Result<()> {
    let corpus = env::args_os()
        .nth(1)
        .map(PathBuf::from)
        .context("usage: seeds CORPUS")?;
    fs::create_dir_all(&corpus)?;
    for (name, bytes) in seeds::of(&seeds::manifests()?)? {
        fs::write(corpus.join(name), bytes)?;
    }
    Ok(())
}
