//! The controller's process.

use machinist_controller::flags::Flags;
use machinist_controller::{logs, run};

/// Passes and watches are many small allocations: a third of the time went into those.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let told = Flags::read(std::env::args_os()).unwrap_or_else(|error| error.exit());
    let flags = told.flags;
    logs::init(flags.log_format, flags.log_debug);
    for notice in told.notices {
        tracing::warn!("{notice}");
    }
    run::start(flags)
}
