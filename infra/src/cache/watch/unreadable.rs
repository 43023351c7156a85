//! Skipped objects that cannot be decoded: each is logged by name, and all are counted.

use std::collections::{BTreeMap, HashSet};
use std::sync::LazyLock;

use parking_lot::Mutex;

use crate::cache::key::Key;

/// Maximum number of remembered names, so that each is logged once.
const MAX_NAMES: usize = 1024;

#[derive(Default)]
struct Unreadable {
    counts: BTreeMap<String, u64>,
    named: HashSet<(String, Key)>,
}

static UNREADABLE: LazyLock<Mutex<Unreadable>> = LazyLock::new(Mutex::default);

/// Number of skipped objects, by kind.
pub fn counts() -> Vec<(String, u64)> {
    let unreadable = UNREADABLE.lock();
    unreadable
        .counts
        .iter()
        .map(|(kind, count)| (kind.clone(), *count))
        .collect()
}

/// Starts the count of a kind at 0.
pub(super) fn start(kind: &str) {
    UNREADABLE.lock().counts.entry(kind.to_owned()).or_default();
}

/// Records a skipped object.
pub(super) fn note(kind: &str, key: Option<&Key>, why: &str) {
    let mut unreadable = UNREADABLE.lock();
    *unreadable.counts.entry(kind.to_owned()).or_default() += 1;
    let Some(key) = key else {
        tracing::warn!(kind, why, "skipping an object without a name that cannot be read");
        return;
    };
    if unreadable.named.len() >= MAX_NAMES {
        unreadable.named.clear();
    }
    if unreadable.named.insert((kind.to_owned(), key.clone())) {
        tracing::warn!(kind, object = %key, why, "skipping an object that cannot be read");
    }
}
