//! The chart's CustomResourceDefinitions are those of the API types.

use std::path::Path;

use machinist_shared::api::crd;
use serde_json::Value;

#[test]
fn the_chart_holds_the_generated_definitions() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/machinist/files/crds");
    for definition in crd::all() {
        let path = dir.join(crd::file_name(&definition));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let found: Value = serde_saphyr::from_str(&text).unwrap();
        assert!(
            found == definition,
            "{} is stale; run: cargo run -p machinist-shared --example crds",
            path.display()
        );
    }
}
