//! cert-manager's controllers, built from its Go module, beside a cluster with its CRDs.

use std::{fs, path::PathBuf, process::Command, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    Testbed,
    go_build::GoBuild,
    paths,
    process::{Process, Program},
};

/// The running program; it is stopped when this is dropped.
#[derive(Debug)]
pub struct CertManager {
    process: Process,
}

impl CertManager {
    /// Builds the program, unless it exists, installs the CRDs in the user cluster, and starts the program for it.
    pub async fn start(bed: &Testbed) -> Result<Self> {
        let build = GoBuild {
            module: module(),
            name: "cert-manager",
            packages: vec![(".", "cert-manager")],
            linked: &[],
            takes: "about 2 minutes the first time, seconds when Go's build cache is warm",
        };
        let program = build.make()?.join("cert-manager");
        let crds = crds()?;
        let user = bed.user();
        for crd in &crds {
            user.kubectl_ok(&["apply", "--server-side", "-f", &crd.display().to_string()], "")
                .await?;
        }
        user.kubectl_ok(&["wait", "--for=condition=Established", "crd", "--all"], "")
            .await?;
        let process = Program::new("cert-manager", program, bed.dir())
            .arg(format!("--kubeconfig={}", user.admin_kubeconfig_path().display()))
            .spawn()?;
        Ok(Self { process })
    }

    /// Stops it.
    pub async fn terminate(self) -> Result<()> {
        self.process.terminate(Duration::from_secs(20)).await?;
        Ok(())
    }
}

fn module() -> PathBuf {
    paths::tools_module().join("cert-manager")
}

/// Files of the CRDs.
fn crds() -> Result<Vec<PathBuf>> {
    let output = Command::new("go")
        .args(["mod", "download", "-json", "github.com/cert-manager/cert-manager"])
        .current_dir(module())
        .stdin(Stdio::null())
        .output()
        .context("starting go")?;
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    let dir = answer["Dir"].as_str().with_context(|| answer.to_string())?;
    let files = fs::read_dir(PathBuf::from(dir).join("deploy/crds"))?;
    let files: Vec<_> = files.map(|file| Ok(file?.path())).collect::<Result<_>>()?;
    let crds: Vec<_> = files
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    ensure!(!crds.is_empty(), "no CRDs in {dir}");
    Ok(crds)
}
