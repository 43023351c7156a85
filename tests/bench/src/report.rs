//! The measurements, one line for each scenario.
#![allow(clippy::cast_precision_loss, reason = "counts of answers are far below 2^52")]

use std::fmt;
use std::time::Duration;

use crate::load::Measured;

/// All rounds of one server in one scenario.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    latencies: Vec<u32>,
    per_second: Vec<f64>,
    time: Duration,
    cpu: Duration,
}

impl Rounds {
    /// Adds a round in which the server used that much CPU time.
    pub(crate) fn add(&mut self, measured: Measured, cpu: Duration) {
        self.per_second
            .push(measured.latencies.len() as f64 / measured.time.as_secs_f64());
        self.time += measured.time;
        self.cpu += cpu;
        self.latencies.extend(measured.latencies);
    }

    /// Median of the rounds.
    fn throughput(&self) -> f64 {
        let mut sorted = self.per_second.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }

    /// Microseconds of CPU time for one answer.
    fn cpu_per_answer(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.latencies.len().max(1) as f64
    }

    /// The percentile of the latency, in milliseconds.
    fn percentile(&self, part: f64) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index within the list"
        )]
        let index = (sorted.len() as f64 * part) as usize;
        sorted
            .get(index.min(sorted.len().saturating_sub(1)))
            .map_or(0.0, |ns| f64::from(*ns) / 1e6)
    }

    /// The utilization of the server's core.
    fn busy(&self) -> f64 {
        self.cpu.as_secs_f64() / self.time.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// Times from a server's start to its first answer.
#[derive(Debug, Default)]
pub(crate) struct Starts(Vec<Duration>);

impl Starts {
    /// Adds one.
    pub(crate) fn add(&mut self, took: Duration) {
        self.0.push(took);
    }
}

impl fmt::Display for Starts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort();
        let ms = |i: usize| sorted.get(i).map_or(0.0, |took| took.as_secs_f64() * 1e3);
        let last = sorted.len().saturating_sub(1);
        let (median, longest) = (ms(sorted.len() / 2), ms(last));
        write!(
            f,
            "{median:.1} ms (least {:.1}, most {longest:.1}, {} starts)",
            ms(0),
            sorted.len()
        )
    }
}

/// One scenario.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    /// Its name.
    pub(crate) scenario: &'a str,
    /// Length of its review.
    pub(crate) bytes: usize,
    /// The floor's rounds.
    pub(crate) floor: Rounds,
    /// The webhook's rounds.
    pub(crate) webhook: Rounds,
}

impl Report<'_> {
    /// Names of the columns.
    pub(crate) const HEAD: &'static str = "\
| review                  | bytes | floor/s | webhook/s | ratio | p50 ms | p99 ms | floor p50/p99 | CPU us: webhook / floor | CPU ratio | busy: webhook / floor | samples |
|-------------------------|-------|---------|-----------|-------|--------|--------|---------------|-------------------------|-----------|-----------------------|---------|";
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (floor, webhook) = (&self.floor, &self.webhook);
        write!(
            f,
            "| {:<23} | {:>5} | {:>7.0} | {:>9.0} | {:>5.2} | {:>6.3} | {:>6.3} | {:>5.3} / {:>5.3} | {:>15.1} / {:>5.1} | {:>9.2} | {:>13.0}% / {:>3.0}% | {:>7} |",
            self.scenario,
            self.bytes,
            floor.throughput(),
            webhook.throughput(),
            webhook.throughput() / floor.throughput(),
            webhook.percentile(0.5),
            webhook.percentile(0.99),
            floor.percentile(0.5),
            floor.percentile(0.99),
            webhook.cpu_per_answer(),
            floor.cpu_per_answer(),
            floor.cpu_per_answer() / webhook.cpu_per_answer(),
            webhook.busy() * 100.0,
            floor.busy() * 100.0,
            webhook.latencies.len(),
        )
    }
}
