//! The webhook's metrics. The number of label values does not grow with the cluster.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry};

use crate::kind::Kind;
use crate::review::{Operation, Verdict};

/// The step of admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// `/mutate`.
    Mutate,
    /// `/validate`.
    Validate,
}

impl Step {
    const ALL: [Self; 2] = [Self::Mutate, Self::Validate];

    /// Its label in metrics and spans.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Mutate => "mutate",
            Self::Validate => "validate",
        }
    }
}

/// The webhook's metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    admissions: IntCounterVec,
    unreadable: IntCounterVec,
    seconds: HistogramVec,
    /// Expiry time of the serving certificate, in seconds since 1970.
    pub certificate_expires: IntGauge,
}

impl Metrics {
    /// Registers all metrics.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let seconds = HistogramVec::new(
            HistogramOpts::new(
                "machinist_admission_seconds",
                "Duration of an admission in seconds, without transport.",
            )
            .buckets(vec![
                25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 5e-3, 25e-3, 0.1, 0.5, 2.5,
            ]),
            &["step", "resource", "verdict"],
        )?;
        let metrics = Self {
            admissions: IntCounterVec::new(
                Opts::new(
                    "machinist_admissions_total",
                    "Answered reviews, by step, kind, operation and result.",
                ),
                &["step", "resource", "operation", "verdict"],
            )?,
            unreadable: IntCounterVec::new(
                Opts::new(
                    "machinist_admissions_unreadable_total",
                    "Reviews that could not be read.",
                ),
                &["step"],
            )?,
            seconds,
            certificate_expires: IntGauge::new(
                "machinist_serving_certificate_expires_timestamp_seconds",
                "Expiry time of the serving certificate, in seconds since 1970.",
            )?,
        };
        // It starts at 0, so that the first increase is seen.
        for step in Step::ALL {
            metrics.unreadable.with_label_values(&[step.label()]);
        }
        registry.register(Box::new(metrics.admissions.clone()))?;
        registry.register(Box::new(metrics.unreadable.clone()))?;
        registry.register(Box::new(metrics.seconds.clone()))?;
        registry.register(Box::new(metrics.certificate_expires.clone()))?;
        Ok(metrics)
    }

    /// Records an answered review.
    pub(crate) fn answered(
        &self,
        step: Step,
        kind: Kind,
        operation: Operation,
        verdict: &Verdict,
        took: Duration,
    ) {
        let (kind, verdict) = (kind.label(), verdict.label());
        self.admissions
            .with_label_values(&[step.label(), kind, operation.label(), verdict])
            .inc();
        let seconds = self.seconds.with_label_values(&[step.label(), kind, verdict]);
        seconds.observe(took.as_secs_f64());
    }

    /// Records an unreadable review.
    pub(crate) fn unreadable(&self, step: Step) {
        self.unreadable.with_label_values(&[step.label()]).inc();
    }
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;

    use super::*;

    #[test]
    fn what_was_answered_is_counted_by_closed_lists() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        let took = Duration::from_micros(30);
        metrics.answered(
            Step::Validate,
            Kind::Machine,
            Operation::Create,
            &Verdict::default(),
            took,
        );
        metrics.unreadable(Step::Mutate);
        let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for line in [
            r#"machinist_admissions_total{operation="CREATE",resource="machines",step="validate",verdict="allowed"} 1"#,
            r#"machinist_admissions_unreadable_total{step="mutate"} 1"#,
            r#"machinist_admissions_unreadable_total{step="validate"} 0"#,
            r#"machinist_admission_seconds_bucket{resource="machines",step="validate",verdict="allowed",le="0.00005"} 1"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
