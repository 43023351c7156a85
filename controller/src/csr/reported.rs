//! Remembers which refusals have been reported, so that an Event shows each of them once.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;

/// Reasons that were reported, by UID of the request.
#[derive(Debug, Default)]
pub struct Reported {
    by_request: Mutex<HashMap<String, HashSet<String>>>,
}

impl Reported {
    /// What has been reported that request.
    pub fn of(&self, request: &str) -> Vec<String> {
        let reported = self.by_request.lock();
        reported.get(request).into_iter().flatten().cloned().collect()
    }

    /// Notes that it is being reported; `false` if it was before. Forgets every request that is not pending any more.
    pub fn note(&self, request: &str, reason: &str, is_pending: impl Fn(&str) -> bool) -> bool {
        let mut reported = self.by_request.lock();
        reported.retain(|uid, _| uid == request || is_pending(uid));
        reported
            .entry(request.to_owned())
            .or_default()
            .insert(reason.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_of_each_request_is_reported_once() {
        let reported = Reported::default();
        assert!(reported.note("a", "no", |_| true));
        assert!(!reported.note("a", "no", |_| true));
        assert!(reported.note("a", "no, because", |_| true));
        assert!(reported.note("b", "no", |_| true));
        assert_eq!(reported.of("b"), ["no"]);
    }

    #[test]
    fn what_is_not_pending_any_more_is_forgotten() {
        let reported = Reported::default();
        reported.note("a", "no", |_| true);
        reported.note("b", "no", |uid| uid != "a");
        assert!(reported.of("a").is_empty() && !reported.of("b").is_empty());
    }
}
