//! etcd's data of a bed of the usual shape, prepared once and copied by each bed.
//!
//! It contains the objects that are the same on all beds: the API server's roles and namespaces, KubeVirt's CRDs, the initial
//! objects of an infra cluster, and the chart. It is prepared again when any of them changes.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{
    ControlPlane, chart, control_plane::Options, crds, paths, pki::Ca, runs, seed, tools::Tools,
    virtualization::Virtualization,
};

/// The sources of the code that prepares it.
const SOURCES: [&str; 5] = [
    include_str!("chart.rs"),
    include_str!("control_plane.rs"),
    include_str!("flags.rs"),
    include_str!("seed.rs"),
    include_str!("template.rs"),
];

/// The webhook that the template's chart names; each bed names its own.
const WEBHOOK_URL: &str = "https://127.0.0.1:1";

/// The prepared data. It is not prepared again before this is dropped.
pub(crate) struct Template {
    etcd_data: PathBuf,
    _lock: File,
}

impl Template {
    /// Prepares the data, unless it exists.
    pub(crate) async fn lease() -> Result<Self> {
        let root = paths::tools_cache().join("bed-template");
        fs::create_dir_all(&root)?;
        let etcd_data = root.join(tokio::task::spawn_blocking(stamp).await??);
        loop {
            let (lock, prepared) = locked(&root, &etcd_data, File::lock_shared).await?;
            if prepared {
                return Ok(Self {
                    etcd_data,
                    _lock: lock,
                });
            }
            drop(lock);
            let (_lock, prepared) = locked(&root, &etcd_data, File::lock).await?;
            if !prepared {
                prepare(&root, &etcd_data)
                    .await
                    .context("preparing the template of beds")?;
            }
        }
    }

    /// For [`Options::etcd_data`].
    pub(crate) fn etcd_data(&self) -> PathBuf {
        self.etcd_data.clone()
    }
}

/// The lock of the template, and whether the data exists.
async fn locked(
    root: &Path,
    etcd_data: &Path,
    take: fn(&File) -> std::io::Result<()>,
) -> Result<(File, bool)> {
    let (file, etcd_data) = (root.join("lock"), etcd_data.to_owned());
    let taken = tokio::task::spawn_blocking(move || {
        let lock = File::options().create(true).append(true).open(file)?;
        take(&lock)?;
        anyhow::Ok((lock, etcd_data.is_dir()))
    });
    taken.await?
}

async fn prepare(root: &Path, etcd_data: &Path) -> Result<()> {
    for outdated in fs::read_dir(root)? {
        let outdated = outdated?.path();
        if outdated.is_dir() {
            fs::remove_dir_all(outdated)?;
        }
    }
    let dir = runs::new("template")?;
    let plane = ControlPlane::start(Options {
        dir: Some(dir.join("template")),
        virtualization: Some(Virtualization::Simulated),
        controller_manager: false,
        ..Options::user()
    })
    .await?;
    seed::infra(&plane).await?;
    let values = chart::values(WEBHOOK_URL, &Ca::new("machinist-webhook-ca")?);
    chart::install(&plane, &dir, &values).await?;
    plane.into_etcd_data(etcd_data).await
}

/// A name that depends on everything that the data is prepared from.
fn stamp() -> Result<String> {
    let mut hasher = DefaultHasher::new();
    (SOURCES, crds::KUBEVIRT).hash(&mut hasher);
    let tools = Tools::find()?;
    for program in [&tools.etcd, &tools.kube_apiserver, &tools.kubectl, &tools.helm] {
        let metadata = fs::metadata(program)?;
        (program, metadata.len(), metadata.modified()?).hash(&mut hasher);
    }
    hash_folder(&paths::chart(), &mut hasher)?;
    fs::read(seed::infra_rbac())?.hash(&mut hasher);
    Ok(format!("{:016x}", hasher.finish()))
}

fn hash_folder(folder: &Path, hasher: &mut DefaultHasher) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        path.hash(hasher);
        if path.is_dir() {
            hash_folder(&path, hasher)?;
        } else {
            fs::read(&path)?.hash(hasher);
        }
    }
    Ok(())
}
