//! The plugin's process.

use std::process::ExitCode;

use clap::Parser as _;
use kubectl_machinist::flags::Flags;
use kubectl_machinist::run;

fn main() -> ExitCode {
    let flags = Flags::parse();
    match run::start(flags) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
