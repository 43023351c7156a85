//! One folder per run: logs are kept for a while, data is deleted at once.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result};

use crate::{paths, process::is_running};

/// Folders of earlier runs that are kept, with their logs.
const KEPT: usize = 40;
/// The part of a run's folder that is deleted with the run.
pub(crate) const DATA: &str = "data";

/// A new folder below `target/testbed`. Its name sorts by time and ends with the pid of the owner.
pub fn new(label: &str) -> Result<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let root = paths::runs();
    fs::create_dir_all(&root).with_context(|| format!("creating {}", root.display()))?;
    prune(&root);
    let now = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let dir = root.join(format!("{now}-{label}-{count}-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// Removes the leftovers of finished runs. Other processes may do the same at the same time, so errors are ignored.
fn prune(root: &Path) {
    let mut ended: Vec<PathBuf> = fs::read_dir(root)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|dir| owner(dir).is_some_and(|pid| !is_running(pid)))
        .collect();
    ended.sort();
    for dir in &ended {
        for plane in fs::read_dir(dir).into_iter().flatten().flatten() {
            let _ = fs::remove_dir_all(plane.path().join(DATA));
        }
    }
    for dir in ended.iter().rev().skip(KEPT) {
        let _ = fs::remove_dir_all(dir);
    }
}

fn owner(dir: &Path) -> Option<u32> {
    dir.file_name()?.to_str()?.rsplit('-').next()?.parse().ok()
}
