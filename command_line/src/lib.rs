//! The command lines of both servers: what Go programs take, machine-controller's flags, and the document of all flags.
//!
//! ```text
//! args ──rewrite──▶ args as clap reads them ──▶ flags
//!           └─────▶ flags without effect, to be told in the log
//! ```

use std::collections::BTreeSet;
use std::ffi::OsString;

use clap::{Arg, Command, Parser};

pub mod former;
pub mod go;
pub mod heading;
pub mod reference;
pub mod value;

use former::Former;

/// What a server was told to do.
#[derive(Debug)]
pub struct Told<F> {
    /// The flags.
    pub flags: F,
    /// What was given and has no effect, a line each. Never has a value: some are URLs with passwords.
    pub notices: Vec<String>,
}

/// Reads `args`, the program's name first, in Go's syntax or in ours. `formers` are machine-controller's flags.
pub fn parse<F: Parser>(
    args: impl IntoIterator<Item = OsString>,
    formers: &'static [Former],
) -> Result<Told<F>, clap::Error> {
    let mut command = F::command();
    command.build();
    let rewritten = go::rewrite(args, &valued(&command), formers);
    Ok(Told {
        flags: F::try_parse_from(rewritten.args)?,
        notices: rewritten.without_effect.iter().map(Former::to_string).collect(),
    })
}

/// Names of the flags that take the next argument as their value if they have none behind a `=`. `command` is built.
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

/// What is wrong with the flags of `command` that all servers' flags must have: an environment variable of the flag's own
/// name, a heading, and no name that Kubernetes gives variables of Services (`MACHINIST_WEBHOOK_PORT` of
/// `machinist-webhook`).
pub fn faults(command: &Command) -> Vec<String> {
    let mut faults = Vec::new();
    for arg in command.get_arguments() {
        let Some(name) = arg.get_long() else {
            faults.push(format!("{} is no flag with two dashes", arg.get_id()));
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

/// What is wrong with `formers` beside the flags of `command`: one that is said to work must be a flag, and one without
/// effect must not be.
pub fn former_faults(command: &Command, formers: &[Former]) -> Vec<String> {
    let known: BTreeSet<&str> = command.get_arguments().filter_map(Arg::get_long).collect();
    formers
        .iter()
        .filter(|former| former.is_without_effect() == known.contains(former.name))
        .map(|former| format!("--{} does not become what is said of it", former.name))
        .collect()
}

#[cfg(test)]
mod tests;
