//! The controller's process.

use clap::Parser;
use machinist_controller::flags::Flags;
use machinist_controller::{logs, run};

/// Passes and watches are many small allocations: a third of the time went into those.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    logs::init(flags.log_format, flags.log_debug);
    run::start(flags)
}
