//! Deadlines as values: whether one is over, and how long it is until then.

use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::cache::StoredMachine;
use crate::config::{self, OptionalDuration};

/// How a wait with a time limit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Its time is over.
    Over,
    /// It ends after this.
    Left(Duration),
    /// It has no end.
    Endless,
}

impl Wait {
    /// A wait that began at `since` and lasts for `timeout` at most.
    pub fn of(since: Timestamp, timeout: Duration, now: Timestamp) -> Self {
        match since.checked_add(timeout) {
            Err(_) => Self::Endless,
            Ok(end) if end <= now => Self::Over,
            Ok(end) => Self::Left(until(end, now)),
        }
    }

    /// Whether its time is over.
    pub fn is_over(self) -> bool {
        self == Self::Over
    }

    /// When to decide again, for it is over then.
    pub fn requeue_after(self) -> Option<Duration> {
        match self {
            Self::Left(left) => Some(left),
            Self::Over | Self::Endless => None,
        }
    }
}

/// When to decide again at the latest, for one of several waits is over then.
#[derive(Debug, Default)]
pub struct Deadlines(pub Option<Duration>);

impl Deadlines {
    /// Whether that wait is over; if not, it is one of these.
    pub fn is_over(&mut self, wait: Wait) -> bool {
        self.0 = self.0.into_iter().chain(wait.requeue_after()).min();
        wait.is_over()
    }
}

/// How long until `instant`; at least 10 ms, so that no requeue follows another without end.
pub fn until(instant: Timestamp, now: Timestamp) -> Duration {
    let wait = instant.duration_since(now).max(SignedDuration::from_millis(10));
    wait.try_into().unwrap_or_default()
}

/// A timeout from an annotation of the Machine. None at all, `0s` and what is no duration set no limit.
pub fn timeout(machine: &StoredMachine, annotation: &str) -> Option<Duration> {
    let OptionalDuration(timeout) = config::duration(machine.annotation(annotation)?).ok()?;
    timeout.filter(|timeout| !timeout.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::before_its_end(59, Wait::Left(Duration::from_secs(1)))]
    #[case::at_its_end(60, Wait::Over)]
    #[case::after_its_end(61, Wait::Over)]
    fn a_wait_of_a_minute(#[case] second: i64, #[case] expected: Wait) {
        let at = |second| Timestamp::from_second(1_800_000_000 + second).unwrap();
        assert_eq!(Wait::of(at(0), Duration::from_mins(1), at(second)), expected);
        assert_eq!(
            Wait::of(Timestamp::MAX, Duration::from_mins(1), at(second)),
            Wait::Endless
        );
    }
}
