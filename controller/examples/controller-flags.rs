//! Writes the controller's part of `docs/flags.md`: `cargo run --package machinist-controller --example controller-flags`.

use std::path::Path;

use clap::CommandFactory as _;
use machinist_command_line::reference;
use machinist_controller::config::{Flags, machine_controller};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/flags.md");
    let part = reference::part(Flags::command(), machine_controller::FLAGS);
    let document = reference::put(&std::fs::read_to_string(&path)?, "machinist-controller", &part)?;
    std::fs::write(path, document)?;
    Ok(())
}
