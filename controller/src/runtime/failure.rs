//! The write of an object that failed last, and until when it holds the object back.

use jiff::Timestamp;

use crate::runtime::backoff::{Cause, Episode, Jitter};

/// A write that failed, as the object's status shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Failure {
    /// As `status.errorReason` has it, where there is that.
    pub reason: &'static str,
    /// What was tried and what the answer was, for a person.
    pub message: String,
    /// Not to be tried again before.
    pub until: Timestamp,
    /// No snapshot had it before.
    pub is_news: bool,
    /// The status could not be written, either, and is not tried again before, either.
    pub of_status: bool,
}

/// A write that failed just now.
#[derive(Debug)]
pub struct Failed {
    /// As `status.errorReason` shows it, where there is that.
    pub reason: &'static str,
    /// What was tried and what the answer was.
    pub message: String,
    /// What made it fail.
    pub cause: Cause,
    /// Whether the status was to be written.
    pub of_status: bool,
}

/// The write of one object that failed last, until all goes well.
#[derive(Debug, Default)]
pub struct LastFailure(Option<(Failure, Episode)>);

impl LastFailure {
    /// It, for an object that is like `subject` now.
    pub fn show(&self, subject: impl FnOnce() -> u64) -> Option<Failure> {
        let (failure, episode) = self.0.as_ref()?;
        Some(Failure {
            until: episode.until(subject()),
            ..failure.clone()
        })
    }

    /// It is reported, and no news any more.
    pub fn reported(&mut self) {
        if let Some((failure, _)) = &mut self.0 {
            failure.is_news = false;
        }
    }

    /// One more failed while the object was like `subject`; the pause doubles from one attempt to the next.
    pub fn add(&mut self, subject: u64, failed: Failed, jitter: Jitter, now: Timestamp) {
        let before = self.0.take();
        let episode = before.as_ref().map(|(_, episode)| episode);
        let episode = Episode::after(episode, subject, failed.cause, jitter, now);
        let failure = match before {
            // It is why the status was to be written.
            Some((failure, last)) if failed.of_status && last == episode => Failure {
                of_status: true,
                ..failure
            },
            _ => Failure {
                reason: failed.reason,
                message: failed.message,
                until: episode.until(subject),
                is_news: true,
                of_status: failed.of_status,
            },
        };
        self.0 = Some((failure, episode));
    }

    /// All went well, or what failed is not wanted any more.
    pub fn clear(&mut self) {
        self.0 = None;
    }
}
