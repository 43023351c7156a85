//! How many requests of a kind may be in flight at a server, by how long it takes to answer them.
//!
//! After TCP Vegas and Netflix' concurrency-limits: one more may be in flight while answers come about as soon as they do when
//! nothing queues at the server, and fewer may once they take longer, because everybody else's requests then do, too. Where the
//! fewest are still too many, there are pauses between them, as in Swift.

use std::time::Duration;

use tokio::time::Instant;

/// At least so many answers are judged together, by their median: a single one may be late for any reason.
const ROUND: usize = 8;

/// And for so long at least: what a request sets off is felt later.
const ROUND_TIME: Duration = Duration::from_secs(1);

/// Answers half of which take more than so many times as long as the fastest have waited in a queue.
const TOLERANCE: u32 = 3;

/// Shortest and longest pause between two requests, where the fewest in flight are still too many.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// The pause to begin with.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// For so long it is known how fast the server can be; twice that at most.
const FASTEST_TTL: Duration = Duration::from_mins(5);

/// The limit of one kind of requests to one server.
#[derive(Debug)]
pub struct AdaptiveLimit {
    least: usize,
    most: usize,
    current: usize,
    /// After each request, before the next one takes its place.
    pause: Duration,
    /// Until the first round that is slow, the limit doubles, and the pause is halved; after it, it grows by one, and the pause
    /// shrinks by a quarter.
    is_new: bool,
    /// How long the answers of this round took.
    round: Vec<Duration>,
    /// When it began.
    began: Option<Instant>,
    /// Whether the limit was reached in this round.
    was_reached: bool,
    /// When there was last none.
    overloaded: Option<Instant>,
    /// The fastest answers of this period and of the one before.
    fastest: [Option<Duration>; 2],
    /// When this period began.
    since: Option<Instant>,
}

impl AdaptiveLimit {
    /// One between `least` and `most`, which begins with `least` and a pause.
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

    /// One that stays as it is.
    pub fn fixed(limit: usize) -> Self {
        Self::new(limit, limit)
    }

    /// How many may be in flight.
    pub fn get(&self) -> usize {
        self.current
    }

    /// How long after a request the next one may take its place.
    pub fn pause(&self) -> Duration {
        self.pause
    }

    /// Whether it is known how fast the server can be.
    pub fn is_known(&self, now: Instant) -> bool {
        self.since
            .is_some_and(|since| now.saturating_duration_since(since) <= 2 * FASTEST_TTL)
    }

    /// The server has answered one of `in_flight` requests, after so long.
    pub fn answered(&mut self, took: Duration, in_flight: usize, now: Instant) {
        self.was_reached |= in_flight >= self.current;
        self.round.push(took);
        let began = *self.began.get_or_insert(now);
        if self.round.len() < ROUND || now.saturating_duration_since(began) < ROUND_TIME {
            return;
        }
        self.round.sort_unstable();
        let median = self.round[self.round.len() / 2];
        // A single one may have been spared the work.
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

    /// The server has not answered, or said that it has too much to do.
    pub fn overloaded(&mut self, now: Instant) {
        // Those that were in flight together fail together.
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

    /// The fastest answer lately, this one included.
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
