//! The controller's process.

use clap::Parser;
use machinist_controller::flags::Flags;
use machinist_controller::{logs, run};

fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    logs::init(flags.log_format, flags.log_debug);
    run::start(flags)
}
