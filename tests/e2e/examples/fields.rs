//! Writes `docs/kubevirt-fields.md`: `cargo run -p e2e --example fields`.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/kubevirt-fields.md");
    std::fs::write(path, e2e::fields::markdown())
}
