//! Metrics that are read off when somebody asks for them: nothing is asked of an API server then.

use std::sync::{Arc, Weak};

use k8s_openapi::jiff::Timestamp;
use machinist_infra::clock::ServerClock;
use machinist_infra::traffic::Traffic;
use machinist_infra::watch::unreadable;
use machinist_shared::api::MachineSpec;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use crate::cache::SpecState;
use crate::cache::{StoredMachine, StoredMachineDeployment};
use crate::context::Context;
use crate::runtime::queue::Queues;
use crate::telemetry::metrics::{Counts, Metrics};

/// Requests to both kinds of clusters.
pub struct Requests {
    user: Traffic,
    infra: Traffic,
    count: IntCounterVec,
}

impl Requests {
    /// To be registered.
    pub fn new(user: Traffic, infra: Traffic) -> Result<Self, prometheus::Error> {
        let about = "Requests to API servers, by kind of cluster, verb and result.";
        let count = IntCounterVec::new(
            Opts::new("machinist_api_requests_total", about),
            &["cluster_kind", "verb", "result"],
        )?;
        Ok(Self { user, infra, count })
    }
}

impl Collector for Requests {
    fn desc(&self) -> Vec<&Desc> {
        self.count.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (cluster, traffic) in [("user", &self.user), ("infra", &self.infra)] {
            for count in traffic.counts() {
                for (result, value) in [("ok", count.ok), ("error", count.error)] {
                    let counter = self.count.with_label_values(&[cluster, count.verb, result]);
                    counter.inc_by(value.saturating_sub(counter.get()));
                }
            }
        }
        self.count.collect()
    }
}

/// Objects that are left out because they cannot be read.
pub struct Unreadable(IntCounterVec);

impl Unreadable {
    /// To be registered.
    pub fn new() -> Result<Self, prometheus::Error> {
        let about = "Objects read by a list or watch and left out because they cannot be decoded or are too large; the log names them.";
        let opts = Opts::new("machinist_unreadable_objects_total", about);
        Ok(Self(IntCounterVec::new(opts, &["kind"])?))
    }
}

impl Collector for Unreadable {
    fn desc(&self) -> Vec<&Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (kind, count) in unreadable::counts() {
            let counter = self.0.with_label_values(&[&kind]);
            counter.inc_by(count.saturating_sub(counter.get()));
        }
        self.0.collect()
    }
}

/// What waits to be worked on, by controller. Zero while another process leads: what it works on waits here, too.
pub struct Depths {
    queues: Queues,
    metrics: Metrics,
    depth: IntGaugeVec,
}

impl Depths {
    /// To be registered.
    pub fn new(queues: Queues, metrics: Metrics) -> Result<Self, prometheus::Error> {
        let about = "Objects waiting to be worked on, by controller.";
        let depth = IntGaugeVec::new(Opts::new("machinist_queue_depth", about), &["controller"])?;
        Ok(Self {
            queues,
            metrics,
            depth,
        })
    }
}

impl Collector for Depths {
    fn desc(&self) -> Vec<&Desc> {
        self.depth.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let leads = self.metrics.leader.get() > 0;
        for (controller, queue) in [
            ("machine", &self.queues.machines),
            ("machineset", &self.queues.sets),
            ("machinedeployment", &self.queues.deployments),
        ] {
            let depth = if leads { queue.depth() } else { 0 };
            // Their number is far below the limit.
            let depth = i64::try_from(depth).unwrap_or(i64::MAX);
            self.depth.with_label_values(&[controller]).set(depth);
        }
        self.depth.collect()
    }
}

/// A gauge that is read off when somebody asks.
pub struct Reading {
    /// `None` if there is nothing to be read.
    read: Box<dyn Fn() -> Option<f64> + Send + Sync>,
    gauge: Gauge,
}

impl Reading {
    fn new(
        name: &str,
        about: &str,
        read: impl Fn() -> Option<f64> + Send + Sync + 'static,
    ) -> Result<Self, prometheus::Error> {
        Ok(Self {
            read: Box::new(read),
            gauge: Gauge::new(name, about)?,
        })
    }

    /// Pods of draining Nodes that a PodDisruptionBudget does not let go. Most of them are never asked for, for what a budget
    /// allows is known; so nothing happens that could be counted.
    pub fn blocked(
        count: impl Fn() -> Option<usize> + Send + Sync + 'static,
    ) -> Result<Self, prometheus::Error> {
        let about = "Pods of draining Nodes that a PodDisruptionBudget does not let go now.";
        let read = move || count().and_then(|pods| u32::try_from(pods).ok()).map(f64::from);
        Self::new("machinist_evictions_blocked", about, read)
    }

    /// How far the clocks differ.
    pub fn clock_skew(clock: ServerClock) -> Result<Self, prometheus::Error> {
        let about = "Seconds that the clock of the user cluster's API server is ahead of the controller's.";
        let read = move || clock.ahead().map(|ahead| ahead.as_secs_f64());
        Self::new("machinist_clock_skew_seconds", about, read)
    }
}

impl Collector for Reading {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.gauge.set((self.read)().unwrap_or(f64::NAN));
        self.gauge.collect()
    }
}

/// A gauge of what is counted by state when somebody asks.
pub struct ByState {
    /// `None` at the end of the process.
    count: Box<dyn Fn() -> Option<Counts> + Send + Sync>,
    gauge: IntGaugeVec,
}

impl ByState {
    /// To be registered.
    pub fn new(
        opts: Opts,
        count: impl Fn() -> Option<Counts> + Send + Sync + 'static,
    ) -> Result<Self, prometheus::Error> {
        Ok(Self {
            count: Box::new(count),
            gauge: IntGaugeVec::new(opts, &["state"])?,
        })
    }

    /// Infra clusters (server, CA and namespace).
    pub fn infra_clusters(
        count: impl Fn() -> Option<Counts> + Send + Sync + 'static,
    ) -> Result<Self, prometheus::Error> {
        let about = "Infra clusters and namespaces in use, and those of them that do not answer or have lost many VMs at once.";
        Self::new(Opts::new("machinist_infra_clusters", about), count)
    }

    /// Machines that start.
    pub fn starts(
        count: impl Fn() -> Option<Counts> + Send + Sync + 'static,
    ) -> Result<Self, prometheus::Error> {
        let about =
            "Machines that have a VM and have never been Ready, and those whose VM waits for one of them.";
        Self::new(Opts::new("machinist_starting_machines", about), count)
    }
}

impl Collector for ByState {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (state, count) in (self.count)().into_iter().flatten() {
            // Their number is far below the limit.
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.gauge.with_label_values(&[state]).set(count);
        }
        self.gauge.collect()
    }
}

/// Reads a count off a status.
type Replicas = fn(&StoredMachineDeployment) -> Option<i32>;

/// machine-controller's metrics, by its names, for dashboards and alerts that know them. Those of single objects have a series
/// for each, as they have there. Only who leads tells them.
pub struct MachineController {
    context: Weak<Context>,
    workers: IntGauge,
    errors: IntCounter,
    machines: IntGaugeVec,
    created: IntGaugeVec,
    deleted: IntGaugeVec,
    /// All, available, ready and updated ones, each with how it is read off a status.
    replicas: Vec<(IntGaugeVec, Replicas)>,
    worker_count: usize,
}

impl MachineController {
    /// To be registered.
    pub fn new(context: &Arc<Context>, worker_count: usize) -> Result<Self, prometheus::Error> {
        let vec = |name: &str, about: &str, labels: &[&str]| IntGaugeVec::new(Opts::new(name, about), labels);
        let of_machine = ["namespace", "machine"];
        let of_deployment = |name: &str, about: &str| vec(name, about, &["namespace", "name"]);
        Ok(Self {
            context: Arc::downgrade(context),
            workers: IntGauge::new(
                "machine_controller_workers",
                "Machines of one infra cluster that are worked on at a time.",
            )?,
            errors: IntCounter::new(
                "machine_controller_errors_total",
                "Passes in which a write failed.",
            )?,
            machines: vec(
                "machine_controller_machines_total",
                "Machines, by version of the kubelet, provider and operating system.",
                &["kubelet_version", "provider", "os"],
            )?,
            created: vec(
                "machine_controller_machine_created",
                "When a Machine was created, in seconds since 1970.",
                &of_machine,
            )?,
            deleted: vec(
                "machine_controller_machine_deleted",
                "When the deletion of a Machine was asked for, in seconds since 1970.",
                &of_machine,
            )?,
            replicas: vec![
                (of_deployment("machine_deployment_replicas", "Machines.")?, |md| {
                    md.status.replicas
                }),
                (
                    of_deployment("machine_deployment_available_replicas", "Available Machines.")?,
                    |md| md.status.available_replicas,
                ),
                (
                    of_deployment(
                        "machine_deployment_ready_replicas",
                        "Machines whose Nodes are Ready.",
                    )?,
                    |md| md.status.ready_replicas,
                ),
                (
                    of_deployment(
                        "machine_deployment_updated_replicas",
                        "Machines of the present template.",
                    )?,
                    |md| md.status.updated_replicas,
                ),
            ],
            worker_count,
        })
    }

    fn all(&self) -> Vec<&dyn Collector> {
        let mut all: Vec<&dyn Collector> = vec![
            &self.workers,
            &self.errors,
            &self.machines,
            &self.created,
            &self.deleted,
        ];
        all.extend(self.replicas.iter().map(|(gauge, _)| gauge as &dyn Collector));
        all
    }

    fn look(&self) {
        for gauge in [&self.machines, &self.created, &self.deleted] {
            gauge.reset();
        }
        for (gauge, _) in &self.replicas {
            gauge.reset();
        }
        let Some(context) = self.context.upgrade() else {
            return;
        };
        if context.metrics.leader.get() == 0 {
            return;
        }
        self.workers
            .set(i64::try_from(self.worker_count).unwrap_or(i64::MAX));
        let failed = |controller| {
            context
                .metrics
                .reconciles
                .with_label_values(&[controller, "error"])
                .get()
        };
        let errors: u64 = ["machine", "machineset", "machinedeployment"]
            .into_iter()
            .map(failed)
            .sum();
        self.errors.inc_by(errors.saturating_sub(self.errors.get()));
        for machine in context.stores.machines.all() {
            self.machine(&machine);
        }
        for deployment in context.stores.machine_deployments.all() {
            let metadata = &deployment.metadata;
            let labels =
                [&metadata.namespace, &metadata.name].map(|text| text.as_deref().unwrap_or_default());
            for (gauge, count) in &self.replicas {
                let count = count(&deployment).unwrap_or_default();
                gauge.with_label_values(&labels).set(count.into());
            }
        }
    }

    fn machine(&self, machine: &StoredMachine) {
        let (version, provider, os) = match &machine.spec {
            SpecState::Decoded(spec) => kind(spec),
            SpecState::Undecodable(_) => Default::default(),
        };
        self.machines.with_label_values(&[version, provider, os]).inc();
        let labels = [machine.namespace(), machine.name()];
        let second = |time: Timestamp| time.as_second();
        let metadata = &machine.metadata;
        if let Some(created) = &metadata.creation_timestamp {
            self.created.with_label_values(&labels).set(second(created.0));
        }
        if let Some(deleted) = &metadata.deletion_timestamp {
            self.deleted.with_label_values(&labels).set(second(deleted.0));
        }
    }
}

/// Version of the kubelet, provider and operating system, as written.
fn kind(spec: &MachineSpec) -> (String, String, String) {
    let versions = spec.versions.as_ref();
    let version = versions
        .and_then(|versions| versions.kubelet.clone())
        .unwrap_or_default();
    let value = spec.provider_spec.as_ref().and_then(|spec| spec.value.as_ref());
    let text = |key: &str| {
        let text = value.and_then(|value| value.get(key)?.as_str());
        text.unwrap_or_default().to_owned()
    };
    (version, text("cloudProvider"), text("operatingSystem"))
}

impl Collector for MachineController {
    fn desc(&self) -> Vec<&Desc> {
        self.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.look();
        let families = self.all().into_iter().flat_map(Collector::collect);
        // One without a series is no family.
        families
            .filter(|family| !family.get_metric().is_empty())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn states_are_counted_whenever_somebody_asks() {
        let used = Arc::new(AtomicUsize::new(2));
        let clusters = {
            let used = used.clone();
            let count = move || {
                vec![
                    ("used", used.load(Ordering::Relaxed)),
                    ("unreachable", 1),
                    ("braked", 0),
                ]
            };
            ByState::new(Opts::new("some", "Some."), move || Some(count())).unwrap()
        };
        let shown = || {
            let families = clusters.collect();
            let mut shown: Vec<_> = families[0]
                .get_metric()
                .iter()
                .map(|metric| {
                    (
                        metric.get_label()[0].value().to_owned(),
                        metric.get_gauge().get_value(),
                    )
                })
                .collect();
            shown.sort_by(|(a, _), (b, _)| a.cmp(b));
            shown
        };
        let want = |used| {
            [("braked", 0.0), ("unreachable", 1.0), ("used", used)].map(|(state, n)| (state.to_owned(), n))
        };
        assert_eq!(shown(), want(2.0));
        // Nothing tells of it.
        used.store(0, Ordering::Relaxed);
        assert_eq!(shown(), want(0.0));
    }
}
