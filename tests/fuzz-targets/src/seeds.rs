//! Seeds of the target `admission`: each object of a manifest as it is written, and as an update of itself.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::Value;

/// The manifests that seeds are made of: the examples, and one with every field.
pub fn manifests() -> anyhow::Result<Vec<PathBuf>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut manifests = Vec::new();
    for folder in [root.join("../fuzz/seeds"), root.join("../../examples")] {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                manifests.push(path);
            }
        }
    }
    manifests.sort();
    Ok(manifests)
}

/// Names and bytes of the seeds of these manifests.
pub fn of(manifests: &[PathBuf]) -> anyhow::Result<Vec<(String, String)>> {
    let mut seeds = Vec::new();
    for manifest in manifests {
        let text = fs::read_to_string(manifest).with_context(|| manifest.display().to_string())?;
        let objects: Vec<Value> =
            serde_saphyr::from_multiple(&text).with_context(|| manifest.display().to_string())?;
        let stem = manifest.file_stem().unwrap_or_default().to_string_lossy();
        for (number, object) in objects.iter().enumerate() {
            seeds.push((format!("{stem}-{number}.json"), object.to_string()));
            seeds.push((
                format!("{stem}-{number}-update.json"),
                format!("{object}\n{object}"),
            ));
        }
    }
    Ok(seeds)
}
