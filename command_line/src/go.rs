//! Rewrites arguments of Go programs for clap: Go's package `flag` accepts one dash for two.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

use super::legacy::{Compatibility, LegacyFlag, ValueKind};

/// Arguments for clap.
#[derive(Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// The arguments, the program's name first.
    pub args: Vec<OsString>,
    /// Removed flags without effect, without duplicates.
    pub without_effect: Vec<LegacyFlag>,
}

/// Gives every flag two dashes and removes those of `legacy_flags` without effect. `valued` names the flags whose value
/// can be the next argument, which is not changed. One letter after one dash (`-h`) is clap's.
pub fn rewrite(
    args: impl IntoIterator<Item = OsString>,
    valued: &BTreeSet<&str>,
    legacy_flags: &[LegacyFlag],
) -> Rewritten {
    let mut rest = args.into_iter();
    let mut args: Vec<OsString> = rest.next().into_iter().collect();
    let mut without_effect: Vec<LegacyFlag> = Vec::new();
    while let Some(arg) = rest.next() {
        let Some(flag) = flag(&arg) else {
            let end_of_flags = arg == "--";
            args.push(arg);
            if end_of_flags {
                break;
            }
            continue;
        };
        let (name, value) = flag
            .split_once('=')
            .map_or((flag, None), |(name, value)| (name, Some(value)));
        if let Some((former, takes)) = no_effect(name, legacy_flags) {
            if value.is_none() && takes == ValueKind::Value {
                rest.next();
            }
            if !without_effect.contains(&former) {
                without_effect.push(former);
            }
            continue;
        }
        let takes_next = value.is_none() && valued.contains(name);
        args.push(format!("--{flag}").into());
        if takes_next {
            args.extend(rest.next());
        }
    }
    args.extend(rest);
    Rewritten { args, without_effect }
}

/// A flag without its dashes, if `arg` is one.
fn flag(arg: &OsStr) -> Option<&str> {
    let arg = arg.to_str()?;
    if let Some(flag) = arg.strip_prefix("--") {
        return (!flag.is_empty()).then_some(flag);
    }
    let flag = arg.strip_prefix('-')?;
    let named = flag.starts_with(|first: char| first.is_ascii_alphabetic());
    (named && flag.len() > 1).then_some(flag)
}

fn no_effect(name: &str, legacy_flags: &[LegacyFlag]) -> Option<(LegacyFlag, ValueKind)> {
    legacy_flags.iter().find_map(|former| match former.compatibility {
        Compatibility::NoEffect { takes, .. } if former.name == name => Some((*former, takes)),
        _ => None,
    })
}
