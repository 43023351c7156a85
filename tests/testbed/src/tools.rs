//! The programs of the control plane: found in `KUBEBUILDER_ASSETS`, else built from `tests/tools`.

use std::path::{Path, PathBuf};

use anyhow::Result;

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

/// What the Go module proxy cannot tell the linker: without it, the API server says it is v0.0.0 and charts, kubelet
/// version rules and Helm judge by that.
const LINKED: &[(&str, &str)] = &[
    ("k8s.io/component-base/version.gitVersion", "v1.36.3"),
    ("k8s.io/component-base/version.gitMajor", "1"),
    ("k8s.io/component-base/version.gitMinor", "36"),
    ("k8s.io/client-go/pkg/version.gitVersion", "v1.36.3"),
    ("helm.sh/helm/v3/internal/version.version", "v3.22.0"),
    ("helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor", "1"),
    ("helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor", "36"),
];

impl Tools {
    /// Finds the programs and builds those that are missing; says on stderr what takes long.
    pub fn find() -> Result<Self> {
        let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
        let given = |name: &str| {
            assets
                .as_ref()
                .map(|dir| dir.join(name))
                .filter(|path| path.is_file())
        };
        let tools = |built: &Path| Self {
            etcd: given("etcd").unwrap_or(built.join("server")),
            kube_apiserver: given("kube-apiserver").unwrap_or(built.join("kube-apiserver")),
            kube_controller_manager: given("kube-controller-manager")
                .unwrap_or(built.join("kube-controller-manager")),
            kubectl: given("kubectl").unwrap_or(built.join("kubectl")),
            helm: given("helm").unwrap_or(built.join("helm")),
        };
        let programs = control_plane();
        let built = programs.folder();
        let found = tools(&built);
        let needed = [
            &found.etcd,
            &found.kube_apiserver,
            &found.kube_controller_manager,
            &found.kubectl,
            &found.helm,
        ];
        if needed.iter().any(|path| path.starts_with(&built)) {
            programs.make()?;
        }
        Ok(found)
    }
}

fn control_plane() -> GoBuild {
    GoBuild {
        module: paths::tools_module(),
        name: "bin",
        packages: BUILT,
        linked: LINKED,
        takes: "Building etcd, kube-apiserver, kube-controller-manager, kubectl and helm with Go\n\
                (about 6 minutes the first time, seconds when Go's build cache is warm) ...",
    }
}
