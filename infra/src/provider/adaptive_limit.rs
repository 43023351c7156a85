//! An adaptive limit of requests in flight to a server, based on its response times.
//!
//! After TCP Vegas and Netflix' concurrency-limits: the limit grows while responses take about as long as without a
//! queue at the server, and shrinks when they take longer, because then other clients wait, too. If the minimum is
//! still too much, there are pauses between requests, as in Swift.

use std::time::Duration;

use tokio::time::Instant;

/// Minimum number of responses in a round, which their median represents: a single one may be late for any reason.
const ROUND: usize = 8;

/// Minimum duration of a round: the effects of a request appear later.
const ROUND_TIME: Duration = Duration::from_secs(1);

/// If the median exceeds the fastest response by this factor, requests wait in a queue.
const TOLERANCE: u32 = 3;

/// Shortest and longest pause between two requests, if the minimum in flight is still too much.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// The initial pause.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// How long the fastest response counts, up to twice as long.
const FASTEST_TTL: Duration = Duration::from_mins(5);

/// The limit for one kind of requests to one server.
#[derive(Debug)]
pub struct AdaptiveLimit {
    least: usize,
    most: usize,
    current: usize,
    /// Pause after each request before the next one.
    pause: Duration,
    /// Until the first slow round, the limit doubles and the pause halves; later, the limit grows by one and the pause
    /// shrinks by a quarter.
    is_new: bool,
    /// The response times of this round.
    round: Vec<Duration>,
    /// The start of the round.
    began: Option<Instant>,
    /// Whether the limit was reached in this round.
    was_reached: bool,
    /// When the server was last overloaded.
    overloaded: Option<Instant>,
    /// The fastest responses of this period and of the previous one.
    fastest: [Option<Duration>; 2],
    /// The start of this period.
    since: Option<Instant>,
}

impl AdaptiveLimit {
    /// A limit between `least` and `most` that starts with `least` and a pause.
    pub fn new(least: usize, most: usize) -> Self {
        let least = least.max(1);
        Self {
            least,
            most: most.max(least),
            current: least,
            pause: if least < most { FIRST_PAUSE } else { Duration::ZERO },
            is_new: true,
            round: Vec::with_capacity(ROUND),
            began: None,
            was_reached: false,
            overloaded: None,
            fastest: [None; 2],
            since: None,
        }
    }

    /// A limit that does not change.
    pub fn fixed(limit: usize) -> Self {
        Self::new(limit, limit)
    }

    /// The current limit of requests in flight.
    pub fn get(&self) -> usize {
        self.current
    }

    /// The pause between a request and the next one.
    pub fn pause(&self) -> Duration {
        self.pause
    }

    /// Whether the fastest response time is known.
    pub fn is_known(&self, now: Instant) -> bool {
        self.since
            .is_some_and(|since| now.saturating_duration_since(since) <= 2 * FASTEST_TTL)
    }

    /// Records the response time of one of `in_flight` requests.
    pub fn answered(&mut self, took: Duration, in_flight: usize, now: Instant) {
        self.was_reached |= in_flight >= self.current;
        self.round.push(took);
        let began = *self.began.get_or_insert(now);
        if self.round.len() < ROUND || now.saturating_duration_since(began) < ROUND_TIME {
            return;
        }
        self.round.sort_unstable();
        let median = self.round[self.round.len() / 2];
        // A single response may have required less work.
        let fastest = self.fastest(self.round[1], now);
        self.round.clear();
        self.began = Some(now);
        if median > fastest * TOLERANCE {
            self.shrink();
        } else if !self.pause.is_zero() {
            let shorter = if self.is_new {
                self.pause / 2
            } else {
                self.pause * 3 / 4
            };
            self.pause = if shorter < PAUSES.0 {
                Duration::ZERO
            } else {
                shorter
            };
        } else if self.was_reached {
            let more = if self.is_new { self.current } else { 1 };
            self.current = (self.current + more).min(self.most);
        }
        self.was_reached = false;
        tracing::debug!(limit = self.current, pause = ?self.pause, ?median, ?fastest, "requests in flight");
    }

    /// Records a missing response, or an overloaded server.
    pub fn overloaded(&mut self, now: Instant) {
        // Requests that are in flight together fail together.
        let is_known = self
            .overloaded
            .is_some_and(|last| now.saturating_duration_since(last) < ROUND_TIME);
        if !is_known {
            self.overloaded = Some(now);
            self.round.clear();
            self.shrink();
        }
    }

    fn shrink(&mut self) {
        self.is_new = false;
        if self.current > self.least {
            self.current = (self.current * 3 / 4).max(self.least);
        } else {
            self.pause = (self.pause * 3 / 2).clamp(PAUSES.0, PAUSES.1);
        }
    }

    /// The fastest recent response, including this one.
    fn fastest(&mut self, answer: Duration, now: Instant) -> Duration {
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) > FASTEST_TTL {
            self.fastest = [None, self.fastest[0]];
            self.since = Some(now);
        }
        let [this, before] = self.fastest;
        let this = this.map_or(answer, |this| this.min(answer));
        self.fastest[0] = Some(this);
        before.map_or(this, |before| before.min(this))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Duration = Duration::from_millis(10);
    const SLOW: Duration = Duration::from_millis(31);

    /// A limit and what time it is.
    struct Scene(AdaptiveLimit, Instant);

    impl Scene {
        fn new(least: usize, most: usize) -> Self {
            Self(AdaptiveLimit::new(least, most), Instant::now())
        }

        /// Rounds in which as many were in flight as may be; the limit after each.
        fn rounds(&mut self, took: Duration, count: usize) -> Vec<usize> {
            let round = |_| {
                for _ in 0..ROUND {
                    self.1 += ROUND_TIME / 6;
                    self.0.answered(took, self.0.get(), self.1);
                }
                self.0.get()
            };
            (0..count).map(round).collect()
        }

        /// One without pauses.
        fn begun(least: usize, most: usize) -> Self {
            let mut scene = Self::new(least, most);
            while !scene.0.pause().is_zero() {
                scene.rounds(FAST, 1);
            }
            scene
        }
    }

    #[test]
    fn it_begins_with_few_and_doubles_until_answers_are_late_and_then_grows_by_one() {
        let mut new = Scene::new(2, 64);
        assert_eq!((new.0.get(), new.0.pause()), (2, FIRST_PAUSE));
        assert_eq!(new.rounds(FAST, 6), [2, 2, 2, 4, 8, 16]);
        assert_eq!(new.rounds(SLOW, 2), [12, 9]);
        assert_eq!(new.rounds(FAST * TOLERANCE, 2), [10, 11]);
    }

    #[test]
    fn it_stays_between_the_least_and_the_most() {
        let mut limit = Scene::begun(2, 9);
        assert_eq!(limit.rounds(FAST, 4), [4, 8, 9, 9]);
        assert_eq!(limit.rounds(SLOW, 7), [6, 4, 3, 2, 2, 2, 2]);
        let mut fixed = Scene(AdaptiveLimit::fixed(4), Instant::now());
        assert_eq!(fixed.rounds(FAST, 1), [4]);
        assert_eq!(fixed.rounds(SLOW, 1), [4]);
    }

    #[test]
    fn where_the_fewest_are_too_many_there_are_pauses() {
        let mut limit = Scene::begun(2, 2 * ROUND);
        assert_eq!(limit.rounds(SLOW, 1), [2]);
        assert_eq!(limit.0.pause(), PAUSES.0);
        limit.rounds(SLOW, 20);
        assert_eq!(limit.0.pause(), PAUSES.1);
        assert_eq!(limit.rounds(FAST, 11), [2; 11]);
        assert_eq!(limit.0.pause(), Duration::ZERO);
        assert_eq!(limit.rounds(FAST, 1), [3]);
    }

    #[test]
    fn a_single_late_answer_says_nothing_and_one_that_does_not_come_does() {
        let mut limit = Scene::begun(2, 64);
        limit.rounds(FAST, 2);
        limit.0.answered(SLOW * 100, 8, limit.1);
        assert_eq!(limit.rounds(FAST, 1), [16]);
        limit.0.overloaded(limit.1);
        limit.0.overloaded(limit.1);
        assert_eq!(limit.0.get(), 12, "both at once");
        limit.0.overloaded(limit.1 + ROUND_TIME);
        assert_eq!(limit.0.get(), 9);
    }

    #[test]
    fn answers_that_come_in_a_burst_are_judged_when_what_they_set_off_can_be_felt() {
        let (mut limit, now) = (AdaptiveLimit::new(2, 64), Instant::now());
        for _ in 0..10 * ROUND {
            limit.answered(FAST, 2, now);
        }
        assert_eq!(limit.pause(), FIRST_PAUSE);
        limit.answered(FAST, 2, now + ROUND_TIME);
        assert_eq!(limit.pause(), FIRST_PAUSE / 2);
    }

    #[test]
    fn what_is_not_used_does_not_grow() {
        let mut limit = Scene::begun(2, 64);
        for _ in 0..10 * ROUND {
            limit.1 += ROUND_TIME;
            limit.0.answered(FAST, 1, limit.1);
        }
        assert_eq!(limit.0.get(), 2);
    }

    #[test]
    fn a_server_that_has_become_slower_for_good_counts_as_fast_after_a_while() {
        let mut limit = Scene::begun(2, 64);
        assert_eq!(limit.rounds(SLOW, 5), [2; 5]);
        let pause = limit.0.pause();
        for _ in 0..3 {
            limit.1 += FASTEST_TTL;
            limit.rounds(SLOW, 1);
        }
        assert!(limit.0.pause() < pause, "{:?}", limit.0);
        assert!(limit.0.is_known(limit.1));
        assert!(!limit.0.is_known(limit.1 + 3 * FASTEST_TTL));
    }
}
