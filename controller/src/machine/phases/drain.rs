//! The drain of a deleting Machine's Node: cordoned, its pods evicted.

use std::time::Duration;

use machinist_shared::api::count::{are, counted};
use machinist_shared::api::names::{annotation, condition};
use serde_json::json;

use super::super::clock::Deadlines;
use super::super::conditions::{Condition, Status, Words};
use super::super::drain::sort::{Sorted, sort};
use super::super::drain::target::Target;
use super::super::drain::watch::{Pods, Seen};
use super::super::node_conflicts::Item;
use super::super::plan::Step;
use super::super::reason::Reason;
use super::super::record::{Deletion, WaitingFor};
use super::super::snapshot::types::SchedulableTargets;
use super::result::{Drained, Fate, Found};
use super::{PhaseResult, View, drain_timeout};
use crate::cache::{Node, Remnant};

/// When it is decided again whether there is a drain slot, should no event come.
const SLOT_INTERVAL: Duration = Duration::from_secs(30);

/// For so long nothing is shown of a drain that has just begun: mostly there is more to show before.
const QUIET_PERIOD: Duration = Duration::from_secs(2);

/// Why a Node is not drained at the end of a cluster.
const NOWHERE: &str =
    "its pods have nowhere to go: all other Nodes are cordoned and no Machine is about to join";

pub(super) fn run(view: &View<'_>) -> PhaseResult {
    let (Some(Fate::Stays), Some(node)) = (&view.before.found.vm, view.own_node()) else {
        return PhaseResult::default();
    };
    // Whatever holds the end up may have pods there that must see it: what comes late is not evicted any more.
    if view.deletion().is_drain_final() {
        return PhaseResult::default();
    }
    let mut deadlines = Deadlines::default();
    let result = match drain_timeout::why_not(view, node, &mut deadlines) {
        Some((drained, why)) => {
            let message = format!("the Node {} is not drained: {why}", node.name());
            skipped(view, drained, why)
                .event(true, "DrainSkipped", message)
                .once(condition::DRAINED, Reason::DrainSkipped)
        }
        // Who ends a cluster knows, and would get as many Events as there are Machines.
        None if view.observed.workload.schedulable_targets == SchedulableTargets::None => {
            skipped(view, Drained::SkippedWithVolumes, NOWHERE.to_owned())
        }
        None => drain(view, node),
    };
    result.requeue(deadlines.0)
}

fn ended(drained: Drained) -> PhaseResult {
    PhaseResult {
        found: Found {
            drain: Some(drained),
            ..Found::default()
        },
        ..PhaseResult::default()
    }
}

fn shown(status: Status, reason: Reason, message: impl Into<String>) -> Condition {
    Condition::new(condition::DRAINED, status, reason, message)
}

fn skipped(view: &View<'_>, drained: Drained, why: String) -> PhaseResult {
    let deletion = view.deletion();
    let deletion = Deletion {
        drain_started_at: deletion.drain_started_at.or(Some(view.now)),
        drain_ended_at: deletion.drain_ended_at.or(Some(view.now)),
        ..deletion
    };
    ended(drained)
        .condition(shown(Status::False, Reason::DrainSkipped, why))
        .progress(view.progress().with_deletion(deletion))
}

fn drain(view: &View<'_>, node: &Node) -> PhaseResult {
    let workload = &view.observed.workload;
    if let Some(turn) = workload.drain_slot.filter(|turn| turn.ahead >= turn.limit) {
        let message = format!(
            "{} of the MachineDeployment {} drained first, {} at a time ({})",
            counted(turn.ahead, "Machine"),
            are(turn.ahead),
            turn.limit,
            annotation::MAX_CONCURRENT_DRAINS
        );
        let deletion = Deletion {
            waiting_for: Some(WaitingFor::DrainSlot),
            ..view.deletion()
        };
        return PhaseResult::stop()
            .condition(Condition::deleting(Reason::WaitingForOtherDrains, message).lazy())
            .progress(view.progress().with_deletion(deletion))
            .requeue(SLOT_INTERVAL);
    }
    let (cordon, held_back) = cordon(view, node);
    let result = match cordon {
        Some(cordon) => begins(view, node, "the Node is being cordoned").step(cordon),
        None => empty(view, node),
    };
    result.requeue(held_back)
}

/// Evicts the pods of a Node that is cordoned.
fn empty(view: &View<'_>, node: &Node) -> PhaseResult {
    let listing = "the Node's pods are being listed";
    match &view.observed.workload.pods {
        Seen::Unwatched => begins(view, node, listing).step(Step::WatchPods),
        Seen::Opening(None) => begins(view, node, listing),
        Seen::Opening(Some(why)) => {
            let message = format!("the Node's pods cannot be listed, which is tried again: {why}");
            draining(view, node, shown(Status::False, Reason::Draining, message).lazy())
        }
        Seen::Pods(pods) => evict(view, node, pods),
    }
}

/// What cordons the Node, and notes on it what a controller has to know that begins when the Machine is gone. What the kubelet or
/// another controller takes away is put back later and later, and the drain goes on meanwhile: after how long, for the requeue.
fn cordon(view: &View<'_>, node: &Node) -> (Option<Step>, Option<Duration>) {
    let mark = Item::Annotation(annotation::DELETING.to_owned());
    let remnant = view.record().map(|record| Remnant::new(view.machine(), record));
    let remnant = remnant.filter(|_| !Remnant::is_on(node, view.machine().uid()));
    let missing = (!node.spec.unschedulable)
        .then_some(Item::Unschedulable)
        .into_iter()
        .chain(remnant.is_some().then(|| mark.clone()));
    let waits = &view.observed.waits;
    let (held_back, puts): (Vec<Item>, Vec<Item>) = missing.partition(|item| waits.contains_key(item));
    let held_back = held_back.iter().filter_map(|item| waits.get(item)).min().copied();
    if puts.is_empty() {
        return (None, held_back);
    }
    let mut patch =
        json!({"metadata": {"uid": node.uid(), "resourceVersion": node.metadata.resource_version}});
    if puts.contains(&Item::Unschedulable) {
        patch["spec"] = json!({"unschedulable": true});
    }
    if let Some(remnant) = remnant.filter(|_| puts.contains(&mark)) {
        let remnant = json!(remnant).to_string();
        patch["metadata"]["annotations"] = json!({annotation::DELETING: remnant});
    }
    let uid = node.uid().to_owned();
    (Some(Step::PatchNode { uid, patch, puts }), held_back)
}

/// Nothing is known of the pods yet. Where others wait for a drain slot, it shows who has it.
fn begins(view: &View<'_>, node: &Node, message: &str) -> PhaseResult {
    let result = draining(view, node, shown(Status::False, Reason::Draining, message).lazy());
    let machine = view.machine();
    let is_shown = machine.progress.deletion().drain_started_at.is_some();
    let asked_for = machine.metadata.deletion_timestamp.as_ref();
    let Some(asked_for) = asked_for.filter(|_| view.observed.workload.drain_slot.is_none() && !is_shown)
    else {
        return result;
    };
    let mut deadlines = Deadlines::default();
    let is_over = deadlines.is_over(view.wait(asked_for.0, QUIET_PERIOD));
    PhaseResult {
        is_momentary: !is_over,
        ..result.requeue(deadlines.0)
    }
}

/// Evicts what there is to evict.
fn evict(view: &View<'_>, node: &Node, pods: &Pods) -> PhaseResult {
    let sorted = sort(&pods.pods, &pods.answers, &pods.budgets, view.now);
    if sorted.is_over() {
        let message = format!("no pod is left on the Node {} that must go", node.name());
        let deletion = view.deletion();
        let deletion = Deletion {
            drain_started_at: None,
            drain_ended_at: deletion.drain_ended_at.or(Some(view.now)),
            ..deletion
        };
        return ended(Drained::Over(sorted.kept_claims))
            .condition(shown(Status::True, Reason::NodeDrained, message))
            .progress(view.progress().with_deletion(deletion));
    }
    let condition = if sorted.is_blocked() {
        // That it is blocked is news, by which pods it is not.
        shown(Status::False, Reason::EvictionBlocked, sorted.message()).words(Words::Late)
    } else {
        shown(Status::False, Reason::Draining, sorted.message()).lazy()
    };
    let mut result = draining(view, node, condition).requeue(sorted.again.map(|again| view.until(again)));
    result.steps.extend(evictions(&sorted));
    result
}

fn evictions(sorted: &Sorted<'_>) -> Option<Step> {
    let targets = sorted.evict.iter().map(|(pod, budget)| Target {
        namespace: pod.namespace().to_owned(),
        name: pod.name().to_owned(),
        uid: pod.uid().to_owned(),
        budget: budget.and_then(|budget| budget.metadata.name.clone()),
    });
    let targets: Vec<Target> = targets.collect();
    (!targets.is_empty()).then_some(Step::EvictPods(targets))
}

fn draining(view: &View<'_>, node: &Node, drained: Condition) -> PhaseResult {
    let message = format!(
        "the Node {} is being drained; see the condition Drained",
        node.name()
    );
    let deletion = view.deletion();
    let deletion = Deletion {
        drain_started_at: deletion.drain_started_at.or(Some(view.now)),
        drain_ended_at: None,
        ..deletion
    };
    PhaseResult::stop()
        .condition(drained)
        .condition(Condition::deleting(Reason::DrainingNode, message))
        .progress(view.progress().with_deletion(deletion))
}
