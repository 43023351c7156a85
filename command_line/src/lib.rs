//! The command lines of both servers: Go's flag syntax, machine-controller's flags, and the reference of all flags.
//!
//! ```text
//! args ──rewrite──▶ args for clap ──▶ flags
//!           └─────▶ flags without effect, for the log
//! ```

use std::collections::BTreeSet;
use std::ffi::OsString;

use clap::{Arg, Command, Parser};

pub mod go;
pub mod heading;
pub mod legacy;
pub mod reference;
pub mod value;

use legacy::LegacyFlag;

/// A parsed command line.
#[derive(Debug)]
pub struct Parsed<F> {
    /// The flags.
    pub flags: F,
    /// Given flags without effect, one line each. They never contain a value: some are URLs with passwords.
    pub notices: Vec<String>,
}

/// Parses `args`, the program's name first, in Go's syntax or Machinist's. `legacy_flags` are machine-controller's
/// flags.
pub fn parse<F: Parser>(
    args: impl IntoIterator<Item = OsString>,
    legacy_flags: &'static [LegacyFlag],
) -> Result<Parsed<F>, clap::Error> {
    let mut command = F::command();
    command.build();
    let rewritten = go::rewrite(args, &valued(&command), legacy_flags);
    Ok(Parsed {
        flags: F::try_parse_from(rewritten.args)?,
        notices: rewritten
            .without_effect
            .iter()
            .map(LegacyFlag::to_string)
            .collect(),
    })
}

/// Names of the flags that use the next argument as their value without a `=`. `command` is built.
fn valued(command: &Command) -> BTreeSet<&str> {
    let takes = |arg: &&Arg| arg.get_num_args().is_some_and(|count| count.min_values() > 0);
    command
        .get_arguments()
        .filter(takes)
        .filter_map(Arg::get_long)
        .collect()
}

/// The environment variable of a flag: `MACHINIST_WORKER_COUNT` of `worker-count`.
pub fn variable(flag: &str) -> String {
    format!("MACHINIST_{}", flag.replace('-', "_").to_ascii_uppercase())
}

/// Violations of the rules for flags in `command`: an environment variable of the flag's own
/// name, a heading, and no name that Kubernetes gives variables of Services (`MACHINIST_WEBHOOK_PORT` of
/// `machinist-webhook`).
pub fn faults(command: &Command) -> Vec<String> {
    let mut faults = Vec::new();
    for arg in command.get_arguments() {
        let Some(name) = arg.get_long() else {
            faults.push(format!("{} is not a flag with two dashes", arg.get_id()));
            continue;
        };
        let want = variable(name);
        let services = ["_PORT", "_SERVICE_HOST", "_SERVICE_PORT"];
        if arg.get_env() != Some(want.as_ref()) {
            faults.push(format!("--{name} is not read from {want}"));
        }
        if services.iter().any(|of_service| want.ends_with(of_service)) || want.contains("_PORT_") {
            faults.push(format!("{want} may be set by Kubernetes for a Service"));
        }
        if arg.get_help_heading().is_none() {
            faults.push(format!("--{name} has no heading"));
        }
    }
    faults
}

/// Inconsistencies between `legacy_flags` and the flags of `command`: a working one must be a flag, and one without
/// effect must not.
pub fn legacy_faults(command: &Command, legacy_flags: &[LegacyFlag]) -> Vec<String> {
    let known: BTreeSet<&str> = command.get_arguments().filter_map(Arg::get_long).collect();
    legacy_flags
        .iter()
        .filter(|former| former.is_without_effect() == known.contains(former.name))
        .map(|former| format!("--{} does not match its description", former.name))
        .collect()
}

#[cfg(test)]
mod tests;
