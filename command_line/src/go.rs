//! Arguments of Go programs, as clap reads them: Go's package `flag` takes one dash for two.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

use super::former::{Fate, Former, Takes};

/// Arguments as clap reads them.
#[derive(Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// The arguments, the program's name first.
    pub args: Vec<OsString>,
    /// Flags that were left out because they have no effect, each once.
    pub without_effect: Vec<Former>,
}

/// Gives every flag two dashes and leaves out those of `formers` that have no effect. `valued` names the flags whose value
/// may be the next argument, which is left as it is. One letter behind one dash (`-h`) is clap's.
pub fn rewrite(
    args: impl IntoIterator<Item = OsString>,
    valued: &BTreeSet<&str>,
    formers: &[Former],
) -> Rewritten {
    let mut rest = args.into_iter();
    let mut args: Vec<OsString> = rest.next().into_iter().collect();
    let mut without_effect: Vec<Former> = Vec::new();
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
        if let Some((former, takes)) = no_effect(name, formers) {
            if value.is_none() && takes == Takes::Value {
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

fn no_effect(name: &str, formers: &[Former]) -> Option<(Former, Takes)> {
    formers.iter().find_map(|former| match former.fate {
        Fate::NoEffect { takes, .. } if former.name == name => Some((*former, takes)),
        _ => None,
    })
}
