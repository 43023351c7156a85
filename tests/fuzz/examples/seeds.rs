//! Turns manifests into seeds of the target `admission`: each object as it is written, and as an update of itself.
//! Usage: `seeds CORPUS MANIFEST...`

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::Context as _;
use serde_json::Value;

fn main() -> anyhow::Result<()> {
    let mut arguments = env::args_os().skip(1).map(PathBuf::from);
    let corpus = arguments.next().context("usage: seeds CORPUS MANIFEST...")?;
    fs::create_dir_all(&corpus)?;
    for manifest in arguments {
        let text = fs::read_to_string(&manifest).with_context(|| manifest.display().to_string())?;
        let objects: Vec<Value> =
            serde_saphyr::from_multiple(&text).with_context(|| manifest.display().to_string())?;
        for (i, object) in objects.iter().enumerate() {
            let stem = manifest.file_stem().unwrap_or_default().to_string_lossy();
            write(&corpus, &format!("{stem}-{i}.json"), &[object])?;
            write(&corpus, &format!("{stem}-{i}-update.json"), &[object, object])?;
        }
    }
    Ok(())
}

fn write(corpus: &Path, name: &str, values: &[&Value]) -> anyhow::Result<()> {
    let texts = values.iter().map(ToString::to_string).collect::<Vec<_>>();
    fs::write(corpus.join(name), texts.join("\n"))?;
    Ok(())
}
