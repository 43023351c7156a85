//! Where things lie in the checkout.

use std::path::{Path, PathBuf};

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        // This crate is `tests/testbed`, two folders below the root.
        .unwrap_or(Path::new("."))
        .to_path_buf()
}

/// The module that pins the control plane's programs.
pub fn tools_module() -> PathBuf {
    workspace().join("tests/tools")
}

/// What is built or downloaded once and kept: programs and CRDs.
pub fn tools_cache() -> PathBuf {
    workspace().join("target/tools")
}

/// What `hack/guest-image.sh` builds: QEMU, and what a real guest boots from.
pub fn guest_image() -> PathBuf {
    workspace().join("target/guest")
}

/// Parent of the folders of single runs: logs, keys, data.
pub fn runs() -> PathBuf {
    workspace().join("target/testbed")
}

/// What the cases and stages of `make test` took.
pub fn timings() -> PathBuf {
    workspace().join("target/timings")
}

/// The chart that is tested and shipped.
pub fn chart() -> PathBuf {
    workspace().join("charts/machinist")
}

/// Manifests for users.
pub fn examples() -> PathBuf {
    workspace().join("examples")
}
