//! How long to wait between two passes.

use std::time::{Duration, Instant};

use crate::runtime::backoff::{Backoff, Jitter};

/// First and longest pause after a write that failed.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_secs(1),
    longest: Duration::from_mins(5),
};
/// So many writing passes in [`CALM`] are enough: a first start takes three, a rotation four. More are a quarrel with another client
/// who undoes what we write.
const HASTE: usize = 30;
/// The pause in a quarrel.
const CALM: Duration = Duration::from_mins(1);

/// What came of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing was to be written.
    Rest,
    /// Something was: check again.
    Written,
    /// A write failed.
    Failed,
}

/// How long to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wait {
    pub(super) at_most: Duration,
    /// Whether a change ends it.
    pub(super) wakes: bool,
}

/// What came of the last passes.
#[derive(Debug, Default)]
pub(super) struct Pace {
    failures: u32,
    jitter: Jitter,
    writes: Vec<Instant>,
}

impl Pace {
    /// How long to wait after a pass, if something is `due` then at the latest.
    pub(super) fn wait(&mut self, outcome: Outcome, due: Duration, now: Instant) -> Wait {
        self.writes
            .retain(|write| now.saturating_duration_since(*write) < CALM);
        self.failures = match outcome {
            Outcome::Failed => self.failures.saturating_add(1),
            Outcome::Rest | Outcome::Written => 0,
        };
        match outcome {
            Outcome::Failed => Wait {
                at_most: BACKOFF.pause(self.failures - 1, self.jitter),
                wakes: false,
            },
            Outcome::Written => {
                self.writes.push(now);
                self.unless_in_a_quarrel(Duration::ZERO)
            }
            Outcome::Rest => self.unless_in_a_quarrel(due.max(BACKOFF.first)),
        }
    }

    fn unless_in_a_quarrel(&self, at_most: Duration) -> Wait {
        if self.writes.len() < HASTE {
            return Wait { at_most, wakes: true };
        }
        tracing::warn!(
            "another writer reverts the objects of the webhook's certificates; backing off for a minute"
        );
        Wait {
            at_most: CALM,
            wakes: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn after_a_write_it_is_checked_again_at_once_and_at_rest_until_something_changes_or_is_due() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let wait = |at_most| Wait { at_most, wakes: true };
        assert_eq!(pace.wait(Outcome::Written, HOUR, now), wait(Duration::ZERO));
        assert_eq!(pace.wait(Outcome::Rest, HOUR, now), wait(HOUR));
        assert_eq!(
            pace.wait(Outcome::Rest, Duration::ZERO, now),
            wait(Duration::from_secs(1))
        );
    }

    #[test]
    fn failures_are_further_and_further_apart_whatever_changes() {
        let now = Instant::now();
        let mut pace = Pace {
            jitter: Jitter::NONE,
            ..Pace::default()
        };
        let mut waits = (0..20).map(|_| pace.wait(Outcome::Failed, HOUR, now));
        let seconds: Vec<_> = waits
            .by_ref()
            .take(4)
            .map(|wait| wait.at_most.as_secs())
            .collect();
        assert_eq!(seconds, [1, 2, 4, 8]);
        assert_eq!(
            waits.last(),
            Some(Wait {
                at_most: BACKOFF.longest,
                wakes: false
            })
        );
        pace.wait(Outcome::Rest, HOUR, now);
        assert_eq!(pace.wait(Outcome::Failed, HOUR, now).at_most, BACKOFF.first);
    }

    #[test]
    fn a_quarrel_is_slow() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for _ in 1..HASTE {
            assert!(pace.wait(Outcome::Written, HOUR, now).wakes);
            assert!(pace.wait(Outcome::Rest, HOUR, now).wakes);
        }
        let calm = Wait {
            at_most: CALM,
            wakes: false,
        };
        assert_eq!(pace.wait(Outcome::Written, HOUR, now), calm);
        assert_eq!(pace.wait(Outcome::Rest, HOUR, now), calm);
        assert!(pace.wait(Outcome::Rest, HOUR, now + CALM).wakes);
    }
}
