//! The controller's process.

use machinist_controller::app::run;
use machinist_controller::config::Flags;
use machinist_infra::telemetry::{self, TelemetryOptions};

/// Passes and watches are many small allocations: a third of the time went into those.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let told = Flags::read(std::env::args_os()).unwrap_or_else(|error| error.exit());
    let flags = told.flags;
    let level = if flags.log_debug {
        "info,machinist_controller=debug,machinist_infra=debug"
    } else {
        "info"
    };
    let settings = TelemetryOptions {
        service: "machinist-controller",
        version: env!("CARGO_PKG_VERSION"),
        format: flags.log_format,
        level,
        collector: &flags.otlp_endpoint,
    };
    // Until the end of the process: it delivers the last spans then.
    let _telemetry = telemetry::start(&settings)?;
    for notice in told.notices {
        tracing::warn!("{notice}");
    }
    run::start(flags)
}
