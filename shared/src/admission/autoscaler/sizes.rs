//! How large a node group may be.

use serde_json::Value;

use super::{annotations, is_top_level};
use crate::api::names::autoscaler::{MAX_SIZE, MIN_SIZE};

/// Bounds of a node group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Fewest Machines.
    pub min: i64,
    /// Most Machines, at least one.
    pub max: i64,
}

/// The bounds of the object, if the autoscaler treats it as a node group.
pub fn sizes(object: &Value) -> Option<Sizes> {
    if !is_top_level(object) {
        return None;
    }
    let size = |key| match annotations(object).find(|(found, _)| *found == key) {
        Some((_, text)) => whole_number(text),
        None => Some(0),
    };
    let (min, max) = (size(MIN_SIZE)?, size(MAX_SIZE)?);
    (min >= 0 && max >= min && max > 0).then_some(Sizes { min, max })
}

/// As Go's `strconv.Atoi` reads it: no spaces around it.
pub(super) fn whole_number(text: &str) -> Option<i64> {
    text.parse().ok()
}
