//! The programs of the control plane: found in `KUBEBUILDER_ASSETS` or on the `PATH`, else built from `tests/tools`.

use std::{
    path::PathBuf,
    process::Command,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{go_build::GoBuild, paths};

/// Paths of etcd, Kubernetes' servers, kubectl and Helm.
#[derive(Debug, Clone)]
pub struct Tools {
    /// etcd.
    pub etcd: PathBuf,
    /// kube-apiserver.
    pub kube_apiserver: PathBuf,
    /// kube-controller-manager.
    pub kube_controller_manager: PathBuf,
    /// kubectl.
    pub kubectl: PathBuf,
    /// Helm 3.
    pub helm: PathBuf,
}

/// The packages of the programs; the module also pins the guests' kubelet, which `hack/guest-image.sh` builds.
const BUILT: &[(&str, &str)] = &[
    ("go.etcd.io/etcd/server/v3", "server"),
    ("k8s.io/kubernetes/cmd/kube-apiserver", "kube-apiserver"),
    (
        "k8s.io/kubernetes/cmd/kube-controller-manager",
        "kube-controller-manager",
    ),
    ("k8s.io/kubernetes/cmd/kubectl", "kubectl"),
    ("helm.sh/helm/v3/cmd/helm", "helm"),
];

/// The version for the linker, which a build from the Go module proxy lacks. Without it, the API server reports v0.0.0, on which
/// charts, kubelet version rules and Helm depend.
const LINKED: &[(&str, &str)] = &[
    ("k8s.io/component-base/version.gitVersion", "v1.36.3"),
    ("k8s.io/component-base/version.gitMajor", "1"),
    ("k8s.io/component-base/version.gitMinor", "36"),
    ("k8s.io/client-go/pkg/version.gitVersion", "v1.36.3"),
    ("helm.sh/helm/v3/internal/version.version", "v3.22.0"),
    ("helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor", "1"),
    ("helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor", "36"),
];

/// The minor version of Kubernetes that is built; kubectl fits one minor version to each side of its API server.
const MINOR: u32 = 36;

impl Tools {
    /// Finds the programs and builds those that are missing; reports long builds on stderr.
    ///
    /// `KUBEBUILDER_ASSETS` comes first, then, for kubectl and Helm, a fitting version on the `PATH`.
    pub fn find() -> Result<Self> {
        static FOUND: Mutex<Option<Tools>> = Mutex::new(None);
        let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
        if found.is_none() {
            *found = Some(Self::find_or_build()?);
        }
        found.clone().context("the programs were just found")
    }

    fn find_or_build() -> Result<Self> {
        let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
        let given = |name: &str| {
            let path = assets.as_ref()?.join(name);
            path.is_file().then_some(path)
        };
        let folder = control_plane(Vec::new()).folder();
        let mut missing = Vec::new();
        let mut find = |program: &'static str, found: Option<PathBuf>| {
            found.unwrap_or_else(|| {
                missing.extend(BUILT.iter().filter(|(_, built)| *built == program));
                folder.join(program)
            })
        };
        let found = Self {
            etcd: find("server", given("etcd")),
            kube_apiserver: find("kube-apiserver", given("kube-apiserver")),
            kube_controller_manager: find("kube-controller-manager", given("kube-controller-manager")),
            kubectl: find(
                "kubectl",
                given("kubectl").or_else(|| on_path("kubectl", KUBECTL, fits_kubectl)),
            ),
            helm: find("helm", given("helm").or_else(|| on_path("helm", HELM, fits_helm))),
        };
        if !missing.is_empty() {
            control_plane(missing).make()?;
        }
        Ok(found)
    }
}

const KUBECTL: &[&str] = &["version", "--client", "--output=json"];
const HELM: &[&str] = &["version", "--short"];

/// A program on the `PATH`, if the version that it prints fits.
fn on_path(name: &str, version: &[&str], fits: fn(&str) -> bool) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let program = std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())?;
    let printed = Command::new(&program).args(version).output().ok()?;
    (printed.status.success() && fits(&String::from_utf8_lossy(&printed.stdout))).then_some(program)
}

fn fits_kubectl(printed: &str) -> bool {
    let version: Value = serde_json::from_str(printed).unwrap_or_default();
    let number = |field: &str| -> Option<u32> { version["clientVersion"][field].as_str()?.parse().ok() };
    number("major") == Some(1) && number("minor").is_some_and(|minor| minor.abs_diff(MINOR) <= 1)
}

fn fits_helm(printed: &str) -> bool {
    printed.starts_with("v3.")
}

/// The program that computes an object's status with the kstatus library.
pub fn kstatus() -> Result<PathBuf> {
    let build = GoBuild {
        module: paths::tools_module().join("kstatus"),
        name: "kstatus",
        packages: vec![(".", "kstatus")],
        linked: &[],
        takes: "about 12 seconds of CPU",
    };
    Ok(build.make()?.join("kstatus"))
}

fn control_plane(packages: Vec<(&'static str, &'static str)>) -> GoBuild {
    GoBuild {
        module: paths::tools_module(),
        name: "bin",
        packages,
        linked: LINKED,
        takes: "about 6 minutes for all of the control plane the first time, seconds when Go's build cache is warm",
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::the_same_version("1", "36", true)]
    #[case::one_minor_version_older("1", "35", true)]
    #[case::too_old("1", "34", false)]
    #[case::of_a_vendor("1", "37+", false)]
    #[case::another_major_version("2", "36", false)]
    fn kubectl_fits_one_minor_version_to_each_side(
        #[case] major: &str,
        #[case] minor: &str,
        #[case] fits: bool,
    ) {
        let printed = serde_json::json!({"clientVersion": {"major": major, "minor": minor}}).to_string();
        assert_eq!(fits_kubectl(&printed), fits);
    }

    #[rstest]
    #[case::helm_3("v3.22.0+gabc", true)]
    #[case::helm_4("v4.0.1+gabc", false)]
    #[case::nothing("", false)]
    fn helm_3_fits(#[case] printed: &str, #[case] fits: bool) {
        assert_eq!(fits_helm(printed), fits);
    }
}
