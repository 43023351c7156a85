//! Metrics that are read off when they are scraped: nothing is asked of an API server then.

use std::sync::{Arc, Weak};

use k8s_openapi::jiff::Timestamp;
use machinist_infra::cache::store::Key;
use machinist_infra::cache::watch::unreadable;
use machinist_infra::kube::clock::ServerClock;
use machinist_infra::kube::traffic::Traffic;
use machinist_shared::api::MachineSpec;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use crate::cache::SpecState;
use crate::cache::{StoredMachine, StoredMachineDeployment};
use crate::context::Context;
use crate::runtime::queue::{Queue, Queues};
use crate::telemetry::metrics::{Counts, Metrics};

/// A metric that is brought up to date when it is scraped.
pub struct ReadOff<M> {
    metric: M,
    read: Box<dyn Fn(&M) + Send + Sync>,
}

impl<M: Collector> ReadOff<M> {
    pub(super) fn new(metric: M, read: impl Fn(&M) + Send + Sync + 'static) -> Self {
        let read = Box::new(read);
        Self { metric, read }
    }
}

impl<M: Collector> Collector for ReadOff<M> {
    fn desc(&self) -> Vec<&Desc> {
        self.metric.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        (self.read)(&self.metric);
        self.metric.collect()
    }
}

/// To be registered.
pub type Registered<M> = Result<ReadOff<M>, prometheus::Error>;

/// Requests to both kinds of clusters.
pub fn requests(user: Traffic, infra: Traffic) -> Registered<IntCounterVec> {
    let about = "Requests to API servers, by kind of cluster, verb and result.";
    let opts = Opts::new("machinist_api_requests_total", about);
    let count = IntCounterVec::new(opts, &["cluster_kind", "verb", "result"])?;
    Ok(ReadOff::new(count, move |metric| {
        for (cluster, traffic) in [("user", &user), ("infra", &infra)] {
            for count in traffic.counts() {
                for (result, value) in [("ok", count.ok), ("error", count.error)] {
                    let counter = metric.with_label_values(&[cluster, count.verb, result]);
                    counter.inc_by(value.saturating_sub(counter.get()));
                }
            }
        }
    }))
}

/// Objects that are left out because they cannot be read.
pub fn unreadable_objects() -> Registered<IntCounterVec> {
    let about = "Objects read by a list or watch and left out because they cannot be decoded or are too large; the log names them.";
    let opts = Opts::new("machinist_unreadable_objects_total", about);
    Ok(ReadOff::new(IntCounterVec::new(opts, &["kind"])?, |metric| {
        for (kind, count) in unreadable::counts() {
            let counter = metric.with_label_values(&[&kind]);
            counter.inc_by(count.saturating_sub(counter.get()));
        }
    }))
}

/// What waits to be worked on, by controller. Zero while another process leads: what it works on waits here, too.
pub fn depths(queues: Queues, metrics: Metrics) -> Registered<IntGaugeVec> {
    let opts = Opts::new(
        "machinist_queue_depth",
        "Objects waiting to be worked on, by controller.",
    );
    by_label(opts, "controller", move || {
        let depth = |queue: &Queue<Key>| {
            if metrics.leader.get() > 0 {
                queue.depth()
            } else {
                0
            }
        };
        Some(vec![
            ("machine", depth(&queues.machines)),
            ("machineset", depth(&queues.sets)),
            ("machinedeployment", depth(&queues.deployments)),
        ])
    })
}

/// Pods of draining Nodes that a PodDisruptionBudget does not let go. Most of them are never asked for, for what a budget
/// allows is known; so nothing happens that could be counted.
pub fn blocked_evictions(count: impl Fn() -> Option<usize> + Send + Sync + 'static) -> Registered<IntGauge> {
    let about = "Pods of draining Nodes that a PodDisruptionBudget does not let go now.";
    let gauge = IntGauge::new("machinist_evictions_blocked", about)?;
    Ok(ReadOff::new(gauge, move |gauge| {
        if let Some(pods) = count() {
            gauge.set(number(pods));
        }
    }))
}

/// How far the clocks differ.
pub fn clock_skew(clock: ServerClock) -> Registered<Gauge> {
    let about = "Seconds that the clock of the user cluster's API server is ahead of the controller's.";
    let gauge = Gauge::new("machinist_clock_skew_seconds", about)?;
    Ok(ReadOff::new(gauge, move |gauge| {
        gauge.set(clock.ahead().map_or(f64::NAN, |ahead| ahead.as_secs_f64()));
    }))
}

/// Infra clusters (server, CA and namespace) by their state.
pub fn infra_clusters(count: impl Fn() -> Option<Counts> + Send + Sync + 'static) -> Registered<IntGaugeVec> {
    let about = "Infra clusters and namespaces in use, and those of them that do not answer or have lost many VMs at once.";
    by_label(Opts::new("machinist_infra_clusters", about), "state", count)
}

/// Machines that start, by their state.
pub fn starts(count: impl Fn() -> Option<Counts> + Send + Sync + 'static) -> Registered<IntGaugeVec> {
    let about = "Machines whose VM is being created, those that have a VM and have never been Ready, and those whose VM waits for one of them.";
    by_label(Opts::new("machinist_starting_machines", about), "state", count)
}

/// What is counted by one label; `None` at the end of the process.
fn by_label(
    opts: Opts,
    label: &str,
    count: impl Fn() -> Option<Counts> + Send + Sync + 'static,
) -> Registered<IntGaugeVec> {
    Ok(ReadOff::new(IntGaugeVec::new(opts, &[label])?, move |gauge| {
        for (value, found) in count().into_iter().flatten() {
            gauge.with_label_values(&[value]).set(number(found));
        }
    }))
}

/// For a gauge. It is far below the limit.
pub(super) fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
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
        self.workers.set(number(self.worker_count));
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
    fn states_are_counted_whenever_they_are_scraped() {
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
            by_label(Opts::new("some", "Some."), "state", move || Some(count())).unwrap()
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
        // Nothing reports it.
        used.store(0, Ordering::Relaxed);
        assert_eq!(shown(), want(0.0));
    }
}
