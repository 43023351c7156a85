//! Log lines on stderr: JSON for machines, text for people.

use machinist_infra::process::hide_panic_messages;
use tracing_subscriber::EnvFilter;

use crate::flags::LogFormat;

/// Starts logging, panics without their messages included. `RUST_LOG`, where set, wins over `debug`.
pub fn init(format: LogFormat, debug: bool) {
    let level = if debug {
        "info,machinist_webhook=debug"
    } else {
        "info"
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Console => builder.init(),
    }
    hide_panic_messages();
}
