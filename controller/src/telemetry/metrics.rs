//! What the controller counts. No label takes a value whose number grows with the cluster.
//! [`scraped`](crate::telemetry::collectors) has what is read off when it is scraped.

use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// Bounds in seconds, as machine-controller has them.
const PROVISIONING: [f64; 10] = [
    32.0, 48.0, 72.0, 108.0, 162.0, 243.0, 364.5, 546.75, 820.125, 1230.1875,
];

/// The controller's metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// 1 while this process is the leader.
    pub leader: IntGauge,
    /// Passes over one object, by controller (`machine`, …) and result: `ok` or `error`.
    pub reconciles: IntCounterVec,
    /// Writes, by what they do and their result.
    writes: IntCounterVec,
    /// Seconds of one pass over one object, by controller.
    pub reconcile_seconds: HistogramVec,
    /// Seconds that a Machine was in a phase, by phase.
    pub phase_seconds: HistogramVec,
    /// Seconds from the news that a VM runs until its Machine's status says so.
    pub running_to_status: Histogram,
    /// Seconds from a Machine's creation until its node has joined.
    pub provisioning_seconds: Histogram,
    /// Seconds from the wish for a Machine's deletion until it is gone.
    pub deprovisioning_seconds: Histogram,
    /// Signing requests of kubelets that were decided, by `purpose` and `verdict`.
    requests: IntCounterVec,
    /// Evictions of pods that were asked for, by `result`: `accepted`, `blocked` by a disruption budget, or `failed`.
    evictions: IntCounterVec,
    /// 1 where the cluster's role bindings make certificates unsafe or let them end, by what is `wrong`.
    pub bindings: IntGaugeVec,
    /// When the CA of the webhook's certificate ends to be valid, in seconds since 1970; 0 where this process keeps none.
    pub webhook_ca_expires: IntGauge,
    /// CAs in the `caBundle` of our webhook configurations.
    pub webhook_cas: IntGauge,
}

/// What the certificate of a signing request is for.
#[derive(Debug, Clone, Copy)]
pub enum Purpose {
    /// The first client certificate.
    Client,
    /// A serving certificate.
    Serving,
}

impl Purpose {
    const ALL: [Self; 2] = [Self::Client, Self::Serving];

    /// Its label in metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Serving => "serving",
        }
    }
}

/// What became of a signing request.
#[derive(Debug, Clone, Copy)]
pub enum Verdict {
    /// It was approved.
    Approved,
    /// A reason not to approve it was reported.
    NotApproved,
}

impl Verdict {
    const ALL: [Self; 2] = [Self::Approved, Self::NotApproved];

    fn label(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::NotApproved => "not_approved",
        }
    }
}

/// The answer to a requested eviction.
#[derive(Debug, Clone, Copy)]
pub enum Eviction {
    /// The pod is terminating.
    Accepted,
    /// A PodDisruptionBudget does not allow it.
    Blocked,
    /// The request failed.
    Failed,
}

impl Eviction {
    const ALL: [Self; 3] = [Self::Accepted, Self::Blocked, Self::Failed];

    fn label(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Blocked => "blocked",
            Self::Failed => "failed",
        }
    }
}

/// The label `result` of what succeeds or fails.
fn result(ok: bool) -> &'static str {
    if ok { "ok" } else { "error" }
}

/// How many there are in each state.
pub type Counts = Vec<(&'static str, usize)>;

/// Options of a histogram of seconds, with the bounds of its buckets.
fn seconds(name: &str, help: &str, bounds: &[f64]) -> HistogramOpts {
    HistogramOpts::new(name, help).buckets(bounds.to_vec())
}

impl Metrics {
    /// Registers all metrics. Counters whose label values are known start at 0, so that the first increase is seen.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            leader: IntGauge::new("machinist_leader", "1 while this process is the leader.")?,
            reconciles: IntCounterVec::new(
                Opts::new(
                    "machinist_reconciles_total",
                    "Passes over one object, by controller and result.",
                ),
                &["controller", "result"],
            )?,
            writes: IntCounterVec::new(
                Opts::new(
                    "machinist_writes_total",
                    "Writes to either cluster, by what they do and their result.",
                ),
                &["step", "result"],
            )?,
            reconcile_seconds: HistogramVec::new(
                seconds(
                    "machinist_reconcile_seconds",
                    "Seconds of one pass over one object, by controller.",
                    &[0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0],
                ),
                &["controller"],
            )?,
            phase_seconds: HistogramVec::new(
                seconds(
                    "machinist_machine_phase_seconds",
                    "Seconds that a Machine was in a phase, by phase.",
                    &[1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0],
                ),
                &["phase"],
            )?,
            running_to_status: Histogram::with_opts(seconds(
                "machinist_vm_running_to_status_seconds",
                "Seconds from the news that a VM runs until its Machine's status says so.",
                &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0],
            ))?,
            provisioning_seconds: Histogram::with_opts(seconds(
                "machine_controller_provisioning_time_seconds",
                "Seconds from a Machine's creation until its node has joined.",
                &PROVISIONING,
            ))?,
            deprovisioning_seconds: Histogram::with_opts(seconds(
                "machine_controller_deprovisioning_time_seconds",
                "Seconds from the wish for a Machine's deletion until it is gone.",
                &PROVISIONING,
            ))?,
            requests: IntCounterVec::new(
                Opts::new(
                    "machinist_signing_requests_total",
                    "Signing requests of kubelets that were approved, and reported reasons not to approve one.",
                ),
                &["purpose", "verdict"],
            )?,
            evictions: IntCounterVec::new(
                Opts::new(
                    "machinist_evictions_total",
                    "Evictions of pods that were asked for to drain Nodes, by result.",
                ),
                &["result"],
            )?,
            bindings: IntGaugeVec::new(
                Opts::new(
                    "machinist_certificate_bindings_wrong",
                    "1 where role bindings of the cluster make bootstrap tokens good for any node, or keep nodes from renewing their certificates.",
                ),
                &["wrong"],
            )?,
            webhook_ca_expires: IntGauge::new(
                "machinist_webhook_ca_expires_timestamp_seconds",
                "When the CA of the webhook's certificate ends to be valid, in seconds since 1970.",
            )?,
            webhook_cas: IntGauge::new(
                "machinist_webhook_trusted_cas",
                "CAs that the webhook configurations trust; more than one while a CA is replaced.",
            )?,
        };
        for purpose in Purpose::ALL {
            for verdict in Verdict::ALL {
                metrics.of_request(purpose, verdict);
            }
        }
        for eviction in Eviction::ALL {
            metrics.of_eviction(eviction);
        }
        registry.register(Box::new(metrics.leader.clone()))?;
        registry.register(Box::new(metrics.webhook_ca_expires.clone()))?;
        registry.register(Box::new(metrics.webhook_cas.clone()))?;
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.evictions.clone()))?;
        registry.register(Box::new(metrics.bindings.clone()))?;
        registry.register(Box::new(metrics.phase_seconds.clone()))?;
        registry.register(Box::new(metrics.running_to_status.clone()))?;
        registry.register(Box::new(metrics.provisioning_seconds.clone()))?;
        registry.register(Box::new(metrics.deprovisioning_seconds.clone()))?;
        registry.register(Box::new(metrics.reconciles.clone()))?;
        registry.register(Box::new(metrics.writes.clone()))?;
        registry.register(Box::new(metrics.reconcile_seconds.clone()))?;
        Ok(metrics)
    }

    /// Starts the counters of a controller at 0.
    pub fn start_passes(&self, controller: &str) {
        for ok in [true, false] {
            self.reconciles.with_label_values(&[controller, result(ok)]);
        }
    }

    /// A pass is over; whether every write succeeded.
    pub fn count_pass(&self, controller: &str, ok: bool, took: Duration) {
        self.reconciles.with_label_values(&[controller, result(ok)]).inc();
        let seconds = self.reconcile_seconds.with_label_values(&[controller]);
        seconds.observe(took.as_secs_f64());
    }

    /// A write was answered. Both results of a step start with its first write.
    pub fn count_write(&self, verb: &str, ok: bool) {
        self.writes.with_label_values(&[verb, result(!ok)]);
        self.writes.with_label_values(&[verb, result(ok)]).inc();
    }

    /// A signing request was decided.
    pub fn count_request(&self, purpose: Purpose, verdict: Verdict) {
        self.of_request(purpose, verdict).inc();
    }

    /// A requested eviction was answered.
    pub fn count_eviction(&self, eviction: Eviction) {
        self.of_eviction(eviction).inc();
    }

    fn of_request(&self, purpose: Purpose, verdict: Verdict) -> IntCounter {
        self.requests
            .with_label_values(&[purpose.label(), verdict.label()])
    }

    fn of_eviction(&self, eviction: Eviction) -> IntCounter {
        self.evictions.with_label_values(&[eviction.label()])
    }
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;

    use super::*;

    #[test]
    fn counters_start_at_0() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        metrics.start_passes("machine");
        metrics.count_write("patch the Node", true);
        let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        let counters: Vec<_> = text.lines().filter(|line| line.contains("_total{")).collect();
        assert_eq!(
            counters,
            [
                r#"machinist_evictions_total{result="accepted"} 0"#,
                r#"machinist_evictions_total{result="blocked"} 0"#,
                r#"machinist_evictions_total{result="failed"} 0"#,
                r#"machinist_reconciles_total{controller="machine",result="error"} 0"#,
                r#"machinist_reconciles_total{controller="machine",result="ok"} 0"#,
                r#"machinist_signing_requests_total{purpose="client",verdict="approved"} 0"#,
                r#"machinist_signing_requests_total{purpose="client",verdict="not_approved"} 0"#,
                r#"machinist_signing_requests_total{purpose="serving",verdict="approved"} 0"#,
                r#"machinist_signing_requests_total{purpose="serving",verdict="not_approved"} 0"#,
                r#"machinist_writes_total{result="error",step="patch the Node"} 0"#,
                r#"machinist_writes_total{result="ok",step="patch the Node"} 1"#,
            ]
        );
    }
}
