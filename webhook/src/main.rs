//! The webhook's process.

use clap::Parser;
use machinist_webhook::flags::Flags;
use machinist_webhook::{logs, run};

/// Admission is many small allocations; this allocator does them in a fraction of the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    logs::init(flags.log_format, flags.log_debug);
    run::start(&flags)
}
