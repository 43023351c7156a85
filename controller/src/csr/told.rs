//! Remembers which refusals have been told, so that an Event says each of them once.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;

/// Reasons that were told, by UID of the request.
#[derive(Debug, Default)]
pub struct Told {
    by_request: Mutex<HashMap<String, HashSet<String>>>,
}

impl Told {
    /// What has been told of that request.
    pub fn of(&self, request: &str) -> Vec<String> {
        let told = self.by_request.lock();
        told.get(request).into_iter().flatten().cloned().collect()
    }

    /// Notes that it is being told; `false` if it was before. Forgets every request that is not pending any more.
    pub fn note(&self, request: &str, reason: &str, is_pending: impl Fn(&str) -> bool) -> bool {
        let mut told = self.by_request.lock();
        told.retain(|uid, _| uid == request || is_pending(uid));
        told.entry(request.to_owned())
            .or_default()
            .insert(reason.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_of_each_request_is_told_once() {
        let told = Told::default();
        assert!(told.note("a", "no", |_| true));
        assert!(!told.note("a", "no", |_| true));
        assert!(told.note("a", "no, because", |_| true));
        assert!(told.note("b", "no", |_| true));
        assert_eq!(told.of("b"), ["no"]);
    }

    #[test]
    fn what_is_not_pending_any_more_is_forgotten() {
        let told = Told::default();
        told.note("a", "no", |_| true);
        told.note("b", "no", |uid| uid != "a");
        assert!(told.of("a").is_empty() && !told.of("b").is_empty());
    }
}
