//! Paths in the checkout.

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

/// The cache of built or downloaded programs and CRDs.
pub fn tools_cache() -> PathBuf {
    workspace().join("target/tools")
}

/// The output of `hack/guest-image.sh`: QEMU, and the image of real guests.
pub fn guest_image() -> PathBuf {
    workspace().join("target/guest")
}

/// Parent of the folders of single runs: logs, keys, data.
pub fn runs() -> PathBuf {
    workspace().join("target/testbed")
}

/// The times of the cases and stages of `make test`.
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
