//! Says whether this process may still write: the one thing that every writer asks of the election.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// When the Lease was last renewed by us; nothing while we do not lead.
pub(super) type Renewed = Option<Instant>;

/// A view of the leadership that is cheap to clone and to ask.
#[derive(Debug, Clone)]
pub struct Fence {
    gate: Option<Gate>,
    /// Closes it for good, once cancelled.
    stop: CancellationToken,
}

#[derive(Debug, Clone)]
struct Gate {
    renewed: watch::Receiver<Renewed>,
    deadline: Duration,
}

impl Fence {
    /// For a process that takes part in no election.
    pub fn open() -> Self {
        Self {
            gate: None,
            stop: CancellationToken::new(),
        }
    }

    pub(super) fn new(renewed: watch::Receiver<Renewed>, deadline: Duration) -> Self {
        Self {
            gate: Some(Gate { renewed, deadline }),
            stop: CancellationToken::new(),
        }
    }

    /// The same, and closed from `stop` on: who is to hand over begins no more writes.
    #[must_use]
    pub fn until(self, stop: CancellationToken) -> Self {
        Self { stop, ..self }
    }

    /// Whether a write may start now: this process leads, and its last renewal is younger than the renew deadline. The
    /// age is judged here and on the monotonic clock, so the answer is right even when the renewing task did not run
    /// because the whole process was stopped.
    pub fn may_write(&self) -> bool {
        self.may_write_at(Instant::now())
    }

    pub(super) fn may_write_at(&self, now: Instant) -> bool {
        let in_time = |gate: &Gate| {
            let renewed = *gate.renewed.borrow();
            renewed.is_some_and(|renewed| now.saturating_duration_since(renewed) < gate.deadline)
        };
        !self.stop.is_cancelled() && self.gate.as_ref().is_none_or(in_time)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::who_does_not_lead_writes_nothing(None, 0, false)]
    #[case::who_leads_writes(Some(0), 0, true)]
    #[case::until_the_deadline(Some(0), 9_999, true)]
    #[case::but_not_at_it(Some(0), 10_000, false)]
    #[case::nor_when_stopped_and_woken_an_hour_later(Some(0), 3_600_000, false)]
    #[case::a_renewal_moves_the_deadline(Some(8_000), 17_999, true)]
    fn the_fence_closes_by_itself(#[case] renewed: Option<u64>, #[case] at: u64, #[case] may: bool) {
        let start = Instant::now();
        let (_sender, receiver) = watch::channel(renewed.map(|ms| start + Duration::from_millis(ms)));
        let fence = Fence::new(receiver, Duration::from_secs(10));
        assert_eq!(fence.may_write_at(start + Duration::from_millis(at)), may);
    }

    #[test]
    fn without_an_election_every_write_may_start() {
        assert!(Fence::open().may_write());
    }

    #[test]
    fn none_may_start_once_the_end_was_asked_for() {
        let (_sender, receiver) = watch::channel(Some(Instant::now()));
        for fence in [Fence::open(), Fence::new(receiver, Duration::from_secs(10))] {
            let stop = CancellationToken::new();
            let fence = fence.until(stop.clone());
            assert!(fence.may_write());
            stop.cancel();
            assert!(!fence.may_write());
        }
    }
}
