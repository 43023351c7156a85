//! What the controller counts. No label takes a value whose number grows with the cluster.

use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// The controller's metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// 1 while this process is the leader.
    pub leader: IntGauge,
    /// Machines waiting to be worked on.
    pub queue_depth: IntGauge,
    /// Passes over one object, by controller (`machine`, …) and result: `ok` or `error`.
    pub reconciles: IntCounterVec,
    /// Writes, by what they do and their result.
    pub writes: IntCounterVec,
    /// Seconds of one pass over one Machine.
    pub reconcile_seconds: Histogram,
    /// Signing requests of kubelets that were decided, by `purpose` and `verdict`.
    pub requests: IntCounterVec,
    /// Evictions of pods that were asked for, by `result`: `accepted`, `blocked` by a disruption budget, or `failed`.
    pub evictions: IntCounterVec,
    /// 1 where the cluster's role bindings make certificates unsafe or let them end, by what is `wrong`.
    pub bindings: IntGaugeVec,
    /// Infra clusters (server, CA and namespace), by state: `used`, and of these `unreachable` or `braked`.
    pub infra_clusters: IntGaugeVec,
}

impl Metrics {
    /// Registers all metrics.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            leader: IntGauge::new("machinist_leader", "1 while this process is the leader.")?,
            queue_depth: IntGauge::new("machinist_queue_depth", "Machines waiting to be worked on.")?,
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
            reconcile_seconds: Histogram::with_opts(
                HistogramOpts::new(
                    "machinist_reconcile_seconds",
                    "Seconds of one pass over one Machine.",
                )
                .buckets(vec![0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0]),
            )?,
            requests: IntCounterVec::new(
                Opts::new(
                    "machinist_signing_requests_total",
                    "Signing requests of kubelets that were approved, and reasons told not to approve one.",
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
            infra_clusters: IntGaugeVec::new(
                Opts::new(
                    "machinist_infra_clusters",
                    "Infra clusters and namespaces in use, and those of them that do not answer or have lost many VMs at once.",
                ),
                &["state"],
            )?,
        };
        registry.register(Box::new(metrics.leader.clone()))?;
        registry.register(Box::new(metrics.infra_clusters.clone()))?;
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.evictions.clone()))?;
        registry.register(Box::new(metrics.bindings.clone()))?;
        registry.register(Box::new(metrics.queue_depth.clone()))?;
        registry.register(Box::new(metrics.reconciles.clone()))?;
        registry.register(Box::new(metrics.writes.clone()))?;
        registry.register(Box::new(metrics.reconcile_seconds.clone()))?;
        Ok(metrics)
    }

    /// A signing request was decided.
    pub fn count_request(&self, purpose: &str, verdict: &str) {
        self.requests.with_label_values(&[purpose, verdict]).inc();
    }
}
