//! The webhook's process.

use machinist_webhook::flags::Flags;
use machinist_webhook::{logs, run};

/// Admission is many small allocations; this allocator does them in a fraction of the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let told = Flags::read(std::env::args_os()).unwrap_or_else(|error| error.exit());
    let flags = told.flags;
    logs::init(flags.log_format, flags.log_debug);
    for notice in told.notices {
        tracing::warn!("{notice}");
    }
    run::start(&flags)
}
