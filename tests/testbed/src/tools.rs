//! The programs of the control plane: found in `KUBEBUILDER_ASSETS`, else built from `tests/tools`.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::paths;

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
const BUILT: [&str; 5] = [
    "go.etcd.io/etcd/server/v3",
    "k8s.io/kubernetes/cmd/kube-apiserver",
    "k8s.io/kubernetes/cmd/kube-controller-manager",
    "k8s.io/kubernetes/cmd/kubectl",
    "helm.sh/helm/v3/cmd/helm",
];

/// Go names each program after the last part of its package that is no version: etcd's is `server`.
fn names() -> impl Iterator<Item = &'static str> {
    BUILT.iter().filter_map(|package| {
        let package = package.trim_end_matches("/v3");
        package.rsplit('/').next()
    })
}

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
        let built = paths::tools_cache().join("bin");
        let found = tools(&built);
        let needed = [
            &found.etcd,
            &found.kube_apiserver,
            &found.kube_controller_manager,
            &found.kubectl,
            &found.helm,
        ];
        if needed.iter().any(|path| path.starts_with(&built)) {
            build(&built)?;
        }
        Ok(found)
    }
}

/// Builds all programs unless they are there and `go.mod`, `go.sum` and linker flags are those they were built with.
fn build(bin: &Path) -> Result<()> {
    let cache = paths::tools_cache();
    fs::create_dir_all(&cache).with_context(|| format!("creating {}", cache.display()))?;
    // Tests run side by side: one builds, the others wait for it.
    let lock = fs::File::create(cache.join("build.lock"))?;
    lock.lock()?;
    let stamp = stamp()?;
    let stamp_file = cache.join("bin.stamp");
    let current = fs::read_to_string(&stamp_file).is_ok_and(|found| found == stamp);
    if current && names().all(|name| bin.join(name).is_file()) {
        return Ok(());
    }
    eprintln!(
        "Building etcd, kube-apiserver, kube-controller-manager, kubectl and helm with Go\n\
         (about 6 minutes the first time, seconds when Go's build cache is warm) ..."
    );
    let partial = cache.join("bin.partial");
    // Without the folder, Go would take the name for that of a program.
    fs::create_dir_all(&partial)?;
    let set: Vec<_> = LINKED
        .iter()
        .map(|(name, value)| format!("-X {name}={value}"))
        .collect();
    let status = Command::new("go")
        .current_dir(paths::tools_module())
        .env("CGO_ENABLED", "0")
        .args(["build", &format!("-ldflags=-s -w {}", set.join(" ")), "-o"])
        .arg(&partial)
        .args(BUILT)
        .stdin(Stdio::null())
        .status()
        .context("starting go (Go 1.26 or later is needed for the testbed's control plane)")?;
    if !status.success() {
        bail!(
            "go build in {} ended with {status}",
            paths::tools_module().display()
        );
    }
    fs::create_dir_all(bin)?;
    for name in names() {
        // Renaming leaves programs that run now what they are.
        fs::rename(partial.join(name), bin.join(name)).with_context(|| format!("no {name} was built"))?;
    }
    let _ = fs::remove_dir(&partial);
    fs::write(stamp_file, stamp)?;
    Ok(())
}

fn stamp() -> Result<String> {
    let mut hasher = DefaultHasher::new();
    for name in ["go.mod", "go.sum"] {
        fs::read(paths::tools_module().join(name))?.hash(&mut hasher);
    }
    LINKED.hash(&mut hasher);
    Ok(format!("{:016x}\n", hasher.finish()))
}
