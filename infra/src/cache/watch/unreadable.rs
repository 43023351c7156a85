//! Objects that are left out because they cannot be read: each is named in the log, and all are counted.

use std::collections::{BTreeMap, HashSet};
use std::sync::LazyLock;

use parking_lot::Mutex;

use crate::cache::key::Key;

/// How many names are remembered, so that each is logged once.
const MAX_NAMES: usize = 1024;

#[derive(Default)]
struct Unreadable {
    counts: BTreeMap<String, u64>,
    named: HashSet<(String, Key)>,
}

static UNREADABLE: LazyLock<Mutex<Unreadable>> = LazyLock::new(Mutex::default);

/// How often an object was left out, by kind.
pub fn counts() -> Vec<(String, u64)> {
    let unreadable = UNREADABLE.lock();
    unreadable
        .counts
        .iter()
        .map(|(kind, count)| (kind.clone(), *count))
        .collect()
}

/// Notes that an object is left out.
pub(super) fn note(kind: &str, key: Option<&Key>, why: &str) {
    let mut unreadable = UNREADABLE.lock();
    *unreadable.counts.entry(kind.to_owned()).or_default() += 1;
    let Some(key) = key else {
        tracing::warn!(
            kind,
            why,
            "an object without a name cannot be read and is left out"
        );
        return;
    };
    if unreadable.named.len() >= MAX_NAMES {
        unreadable.named.clear();
    }
    if unreadable.named.insert((kind.to_owned(), key.clone())) {
        tracing::warn!(kind, object = %key, why, "an object cannot be read and is left out");
    }
}
