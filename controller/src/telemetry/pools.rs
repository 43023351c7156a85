//! Machines and rollouts by their state: numbers that do not grow with the cluster. Only the leader exports them.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Weak};

use k8s_openapi::jiff::Timestamp;
use machinist_shared::api::names::condition;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGauge, IntGaugeVec, Opts};

use super::collectors::number;
use crate::cache::{StoredMachine, StoredMachineDeployment};
use crate::context::Context;
use crate::machine::{self, phase::Phase};
use crate::machine_deployment::conditions::{self, Reason};

/// How a rollout goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rollout {
    Complete,
    Progressing,
    Halted,
    DeadlineExceeded,
    Paused,
    Failed,
}

impl Rollout {
    const ALL: [(Self, &str); 6] = [
        (Self::Complete, "complete"),
        (Self::Progressing, "progressing"),
        (Self::Halted, "halted"),
        (Self::DeadlineExceeded, "deadline_exceeded"),
        (Self::Paused, "paused"),
        (Self::Failed, "failed"),
    ];

    fn of(deployment: &StoredMachineDeployment) -> Self {
        let stored = deployment.status.conditions.as_deref().unwrap_or_default();
        let Some(progressing) = conditions::find(stored, conditions::PROGRESSING) else {
            return Self::Progressing;
        };
        let is = |reason: Reason| progressing.reason.as_deref() == Some(reason.as_str());
        if is(Reason::NewMachineSetAvailable) {
            Self::Complete
        } else if is(Reason::RolloutHalted) {
            Self::Halted
        } else if is(Reason::ProgressDeadlineExceeded) {
            Self::DeadlineExceeded
        } else if is(Reason::DeploymentPaused) {
            Self::Paused
        } else if progressing.status == "False" {
            Self::Failed
        } else {
            Self::Progressing
        }
    }
}

/// What is counted of all Machines and MachineDeployments.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    phases: BTreeMap<&'static str, usize>,
    /// Seconds that the Machine has been in the phase that has been in it for longest.
    longest: BTreeMap<&'static str, i64>,
    reasons: BTreeMap<String, usize>,
    rollouts: BTreeMap<Rollout, usize>,
    short: usize,
}

impl Counts {
    /// Counts a Machine; a reason that neither the controller nor a provider has is `Other`.
    fn add_machine(&mut self, machine: &StoredMachine, reasons: &HashSet<String>, now: Timestamp) {
        let phase = if machine.is_deleting() {
            Phase::Deleting
        } else {
            let stored = machine.status.phase.as_deref().and_then(Phase::stored);
            stored.unwrap_or(Phase::Pending)
        };
        *self.phases.entry(phase.text()).or_default() += 1;
        let stored = machine.status.conditions.as_deref().unwrap_or_default();
        let ready = stored.iter().find(|stored| stored.type_ == condition::READY);
        let metadata = &machine.metadata;
        let transition = ready.and_then(|ready| ready.last_transition_time.as_ref());
        let since = metadata
            .deletion_timestamp
            .as_ref()
            .or(transition)
            .or(metadata.creation_timestamp.as_ref());
        if let Some(since) = since {
            let seconds = now.duration_since(since.0).as_secs().max(0);
            let longest = self.longest.entry(phase.text()).or_default();
            *longest = seconds.max(*longest);
        }
        if let Some(ready) = ready.filter(|ready| ready.status != "True") {
            let reason = ready.reason.clone().filter(|reason| reasons.contains(reason));
            *self
                .reasons
                .entry(reason.unwrap_or_else(|| "Other".to_owned()))
                .or_default() += 1;
        }
    }

    fn add_deployment(&mut self, deployment: &StoredMachineDeployment) {
        *self.rollouts.entry(Rollout::of(deployment)).or_default() += 1;
        let stored = deployment.status.conditions.as_deref().unwrap_or_default();
        let available = conditions::find(stored, conditions::AVAILABLE);
        self.short += usize::from(available.is_some_and(|available| available.status == "False"));
    }
}

/// The metrics of pools.
pub struct Pools {
    context: Weak<Context>,
    /// Reasons of `Ready` that are counted by name.
    reasons: HashSet<String>,
    machines: IntGaugeVec,
    longest: IntGaugeVec,
    not_ready: IntGaugeVec,
    rollouts: IntGaugeVec,
    short: IntGauge,
}

impl Pools {
    /// To be registered.
    pub fn new(context: &Arc<Context>) -> Result<Self, prometheus::Error> {
        let vec = |name: &str, about: &str, label: &str| IntGaugeVec::new(Opts::new(name, about), &[label]);
        let own = machine::reason::Reason::ALL.iter();
        let own = own.map(|reason| reason.as_str().to_owned());
        Ok(Self {
            context: Arc::downgrade(context),
            reasons: own.chain(context.infra.state_reasons()).collect(),
            machines: vec("machinist_machines", "Machines, by phase.", "phase")?,
            longest: vec(
                "machinist_machine_longest_in_phase_seconds",
                "Seconds that the Machine has been in the phase that has been in it for longest.",
                "phase",
            )?,
            not_ready: vec(
                "machinist_machines_not_ready",
                "Machines that are not Ready, by the reason of their condition Ready.",
                "reason",
            )?,
            rollouts: vec(
                "machinist_rollouts",
                "MachineDeployments, by how their rollout goes.",
                "state",
            )?,
            short: IntGauge::new(
                "machinist_pools_short",
                "MachineDeployments with fewer available Machines than their strategy allows.",
            )?,
        })
    }

    fn all(&self) -> [&dyn Collector; 5] {
        [
            &self.machines,
            &self.longest,
            &self.not_ready,
            &self.rollouts,
            &self.short,
        ]
    }

    fn count(&self) -> Counts {
        let mut counts = Counts::default();
        let Some(context) = self
            .context
            .upgrade()
            .filter(|context| context.metrics.leader.get() > 0)
        else {
            return counts;
        };
        let now = context.now();
        for machine in context.stores.machines.all() {
            counts.add_machine(&machine, &self.reasons, now);
        }
        for deployment in context.stores.machine_deployments.all() {
            counts.add_deployment(&deployment);
        }
        counts
    }

    fn show(&self, counts: &Counts) {
        for phase in Phase::ALL.map(Phase::text) {
            let machines = counts.phases.get(phase).copied().unwrap_or_default();
            self.machines.with_label_values(&[phase]).set(number(machines));
            let longest = counts.longest.get(phase).copied().unwrap_or_default();
            self.longest.with_label_values(&[phase]).set(longest);
        }
        self.not_ready.reset();
        for (reason, machines) in &counts.reasons {
            self.not_ready.with_label_values(&[reason]).set(number(*machines));
        }
        for (state, text) in Rollout::ALL {
            let rollouts = counts.rollouts.get(&state).copied().unwrap_or_default();
            self.rollouts.with_label_values(&[text]).set(number(rollouts));
        }
        self.short.set(number(counts.short));
    }
}

impl Collector for Pools {
    fn desc(&self) -> Vec<&Desc> {
        self.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.show(&self.count());
        let families = self.all().into_iter().flat_map(Collector::collect);
        // A family without a series is left out.
        families
            .filter(|family| !family.get_metric().is_empty())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    const NOW: &str = "2026-01-01T12:00:00Z";

    fn machine(change: &Value) -> StoredMachine {
        let mut machine = json!({"apiVersion": "cluster.k8s.io/v1alpha1", "kind": "Machine",
            "metadata": {"name": "a", "namespace": "n", "uid": "u", "creationTimestamp": "2026-01-01T11:00:00Z"}, "spec": {}});
        json_patch::merge(&mut machine, change);
        serde_json::from_value(machine).unwrap()
    }

    fn not_ready(reason: &str) -> Value {
        json!({"status": {"phase": "Provisioning", "conditions": [
            {"type": "Ready", "status": "False", "reason": reason, "lastTransitionTime": "2026-01-01T11:59:00Z"}]}})
    }

    #[rstest]
    #[case::that_is_new(json!({}), ("Pending", 3600, None))]
    #[case::that_is_not_ready(not_ready("Unschedulable"), ("Provisioning", 60, Some("Unschedulable")))]
    #[case::with_a_reason_of_the_machine_itself(not_ready("WaitingForNode"), ("Provisioning", 60, Some("WaitingForNode")))]
    #[case::with_a_reason_of_another_controller(not_ready("x9f"), ("Provisioning", 60, Some("Other")))]
    #[case::in_a_phase_of_another_controller(json!({"status": {"phase": "x9f"}}), ("Pending", 3600, None))]
    #[case::that_is_deleted(
        json!({"metadata": {"deletionTimestamp": "2026-01-01T11:30:00Z"}, "status": {"phase": "Running"}}),
        ("Deleting", 1800, None))]
    fn a_machine(#[case] change: Value, #[case] (phase, seconds, reason): (&'static str, i64, Option<&str>)) {
        let mut counts = Counts::default();
        let reasons = ["WaitingForNode", "Unschedulable"].map(str::to_owned).into();
        counts.add_machine(&machine(&change), &reasons, NOW.parse().unwrap());
        let expected = Counts {
            phases: BTreeMap::from([(phase, 1)]),
            longest: BTreeMap::from([(phase, seconds)]),
            reasons: reason.map(|reason| (reason.to_owned(), 1)).into_iter().collect(),
            ..Counts::default()
        };
        assert_eq!(counts, expected);
    }

    #[rstest]
    #[case("True", "NewMachineSetAvailable", Rollout::Complete)]
    #[case("True", "MachineSetUpdated", Rollout::Progressing)]
    #[case("False", "RolloutHalted", Rollout::Halted)]
    #[case("False", "ProgressDeadlineExceeded", Rollout::DeadlineExceeded)]
    #[case("Unknown", "DeploymentPaused", Rollout::Paused)]
    #[case("False", "WriteFailed", Rollout::Failed)]
    fn a_rollout(#[case] status: &str, #[case] reason: &str, #[case] expected: Rollout) {
        let deployment: StoredMachineDeployment = serde_json::from_value(json!({
            "apiVersion": "cluster.k8s.io/v1alpha1", "kind": "MachineDeployment",
            "metadata": {"name": "a", "namespace": "n"}, "spec": {},
            "status": {"conditions": [
                {"type": "Progressing", "status": status, "reason": reason},
                {"type": "Available", "status": "False"}]},
        }))
        .unwrap();
        let mut counts = Counts::default();
        counts.add_deployment(&deployment);
        assert_eq!(
            (counts.rollouts, counts.short),
            (BTreeMap::from([(expected, 1)]), 1)
        );
    }
}
