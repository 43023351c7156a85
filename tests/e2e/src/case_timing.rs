//! The time of each case, for the summary of `make test` (`hack/timings.sh`).

use std::{
    thread,
    time::{Duration, Instant},
};

use testbed::timings;

/// Runs from its creation until it is dropped, and then writes a line into `target/timings/cases.tsv`.
pub(crate) struct CaseTiming {
    case: String,
    began: Instant,
    bed: Option<(Duration, &'static str)>,
}

impl CaseTiming {
    /// Of the test that runs on this thread.
    pub(crate) fn start() -> Self {
        Self {
            case: thread::current().name().unwrap_or("?").to_owned(),
            began: Instant::now(),
            bed: None,
        }
    }

    /// The case has its bed now, `new` or `handed on`.
    pub(crate) fn has_bed(&mut self, origin: &'static str) {
        self.bed = Some((self.began.elapsed(), origin));
    }
}

impl Drop for CaseTiming {
    fn drop(&mut self) {
        let (waited, origin) = self.bed.unwrap_or((self.began.elapsed(), "none"));
        let line = format!(
            "{:.1}\t{:.1}\t{origin}\t{}",
            self.began.elapsed().as_secs_f64(),
            waited.as_secs_f64(),
            self.case
        );
        timings::record("cases", &line);
    }
}
