//! Writes the CustomResourceDefinitions into the chart: `cargo run -p machinist-shared --example crds`.

use std::path::Path;

use machinist_shared::api::crd;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/machinist/files/crds");
    std::fs::create_dir_all(&dir)?;
    for definition in crd::all() {
        let yaml = serde_saphyr::to_string(&definition)?;
        let header = "# Generated from the API types: cargo run -p machinist-shared --example crds\n";
        std::fs::write(dir.join(crd::file_name(&definition)), format!("{header}{yaml}"))?;
    }
    Ok(())
}
