//! Helm, with the chart as it is shipped.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use testbed::{ControlPlane, paths, tools::Tools};
use tokio::process::Command;

/// Helm with a cluster, or with none.
pub struct Helm {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Helm {
    /// For commands without a cluster.
    pub async fn alone() -> Result<Self> {
        let tools = tokio::task::spawn_blocking(Tools::find).await??;
        Ok(Self {
            program: tools.helm,
            // Not the kubeconfig of the user who runs the tests.
            kubeconfig: "/dev/null".into(),
        })
    }

    /// As the admin of a cluster.
    pub fn of(plane: &ControlPlane) -> Self {
        Self {
            program: plane.tools().helm.clone(),
            kubeconfig: plane.admin_kubeconfig_path(),
        }
    }

    /// Runs it, whatever its exit code.
    pub async fn run(&self, args: &[&str]) -> Result<Output> {
        let home = paths::tools_cache().join("helm-home");
        Command::new(&self.program)
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig)
            .envs(["CACHE", "CONFIG", "DATA"].map(|kind| (format!("HELM_{kind}_HOME"), home.join(kind))))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .context("starting helm")
    }

    /// Runs it; its standard output, or an error with what it wrote to standard error.
    pub async fn ok(&self, args: &[&str]) -> Result<String> {
        let output = self.run(args).await?;
        ensure!(
            output.status.success(),
            "helm {}: {}{}",
            args.join(" "),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `helm template` with more arguments: every object.
    pub async fn render(&self, namespace: &str, more: &[&str]) -> Result<Vec<Value>> {
        let chart = chart();
        let args = [
            &["template", "machinist", &*chart, "--namespace", namespace],
            more,
        ]
        .concat();
        let objects: Vec<Value> = serde_saphyr::from_multiple(&self.ok(&args).await?)?;
        Ok(objects.into_iter().filter(|object| !object.is_null()).collect())
    }
}

/// Whether it is a ClusterRole for people, not one of the servers'.
pub fn is_role_for_people(object: &Value) -> bool {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    object["kind"] == "ClusterRole"
        && ["machinist-view", "machinist-edit", "machinist-operator"].contains(&name)
}

/// Path of the chart.
pub fn chart() -> String {
    paths::chart().display().to_string()
}

/// Path of one of the chart's files.
pub fn file(name: impl AsRef<Path>) -> String {
    paths::chart().join(name).display().to_string()
}
