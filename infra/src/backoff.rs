//! Backoff: how long to wait before something that failed is tried again.

use std::time::Duration;

/// How far a pause is from what was asked for, at most: so that those that failed together are not tried together.
const SPREAD: f64 = 0.2;

/// Where the randomness of pauses comes from: numbers from 0 up to 1.
#[derive(Debug, Clone, Copy)]
pub struct Jitter(fn() -> f64);

impl Default for Jitter {
    fn default() -> Self {
        Self(rand::random::<f64>)
    }
}

impl Jitter {
    /// Every pause is as long as was asked for.
    pub const NONE: Self = Self(|| 0.5);

    /// Every pause is as short as chance can make it.
    pub const LEAST: Self = Self(|| 0.0);

    /// The pause, or up to a fifth less or more.
    pub fn spread(self, pause: Duration) -> Duration {
        pause.mul_f64(1.0 + SPREAD * (2.0 * (self.0)() - 1.0))
    }
}

/// How pauses grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The first pause.
    pub first: Duration,
    /// The longest: from the first on, each is twice the one before.
    pub longest: Duration,
}

impl Backoff {
    /// The pause after a failure that so many others came before.
    pub fn pause(self, before: u32, jitter: Jitter) -> Duration {
        let pause = self.first.saturating_mul(1 << before.min(16));
        jitter.spread(pause.min(self.longest))
    }

    /// The pauses of one loop.
    pub fn pauses(self) -> Pauses {
        Pauses {
            backoff: self,
            failures: 0,
        }
    }
}

/// The pauses between the attempts of one loop.
#[derive(Debug)]
pub struct Pauses {
    backoff: Backoff,
    failures: u32,
}

impl Pauses {
    /// The pause after one more failure.
    pub fn after_failure(&mut self) -> Duration {
        let before = self.failures;
        self.failures = before.saturating_add(1);
        self.backoff.pause(before, Jitter::default())
    }

    /// It has succeeded: the next pause is the first again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_again_after_a_success() {
        let backoff = Backoff {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(6),
        };
        let mut pauses = backoff.pauses();
        let mut next = || pauses.after_failure().as_secs_f64();
        for expected in [1.0, 2.0, 4.0, 6.0, 6.0] {
            let pause = next();
            assert!(
                (pause - expected).abs() <= SPREAD * expected,
                "{pause} for {expected}"
            );
        }
        let most = Jitter(|| 1.0);
        assert_eq!(backoff.pause(1, most), Duration::from_millis(2400));
        assert_eq!(backoff.pause(1, Jitter::LEAST), Duration::from_millis(1600));
        pauses.reset();
        assert!(pauses.after_failure() <= Duration::from_millis(1200));
    }
}
