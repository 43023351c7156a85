//! The webhook's process.

use machinist_infra::telemetry::{self, TelemetryOptions};
use machinist_webhook::flags::Flags;
use machinist_webhook::run;

/// Admission makes many small allocations, which this allocator does in a fraction of the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let parsed = Flags::read(std::env::args_os()).unwrap_or_else(|error| error.exit());
    let flags = parsed.flags;
    let level = if flags.log_debug {
        "info,machinist_webhook=debug"
    } else {
        "info"
    };
    let settings = TelemetryOptions {
        service: "machinist-webhook",
        version: env!("CARGO_PKG_VERSION"),
        format: flags.log_format,
        level,
        collector: &flags.otlp_endpoint,
    };
    // Until the end of the process, to export the last spans.
    let _telemetry = telemetry::start(&settings)?;
    for notice in parsed.notices {
        tracing::warn!("{notice}");
    }
    run::start(&flags)
}
