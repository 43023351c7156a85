//! What the status of a MachineSet says.

use std::cmp::Ordering;

use jiff::Timestamp;
use machinist_shared::api::MachineSetStatus;
use machinist_shared::api::count::{are, counted};
use serde_json::{Value, json};

use super::Trouble;
use crate::cache::StoredMachineSet;
use crate::kstatus::{self, Health};
use crate::machine_set::snapshot::types::Member;

/// The Machines of a set, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Counts {
    replicas: i32,
    fully_labeled: i32,
    ready: i32,
    available: i32,
    /// When the next Machine becomes available, if nothing happens.
    pub next_available: Option<Timestamp>,
}

pub(super) fn count(set: &StoredMachineSet, active: &[&Member], now: Timestamp) -> Counts {
    let mut counts = Counts::default();
    let template = set
        .template
        .pointer("/metadata/labels")
        .and_then(Value::as_object);
    for member in active {
        counts.replicas += 1;
        let labels = member.machine.metadata.labels.as_ref();
        let labeled = template.into_iter().flatten().all(|(key, value)| {
            labels.and_then(|labels| labels.get(key)).map(String::as_str) == value.as_str()
        });
        counts.fully_labeled += i32::from(labeled);
        counts.ready += i32::from(member.is_ready());
        match member.available_at(set.min_ready_seconds) {
            Some(at) if at <= now => counts.available += 1,
            Some(at) => {
                counts.next_available = Some(counts.next_available.map_or(at, |next| next.min(at)));
            }
            None => {}
        }
    }
    counts
}

/// The merge patch that makes the status say so; nothing if it does.
pub(super) fn patch(
    set: &StoredMachineSet,
    counts: &Counts,
    trouble: Option<&Trouble>,
    now: Timestamp,
) -> Option<Value> {
    let text = set.selector.text();
    let (health, reason, message) = health(set, counts, trouble);
    let mut conditions = set.status.conditions.clone().unwrap_or_default();
    kstatus::put_health(&mut conditions, health, (reason, &message), now);
    let wanted = MachineSetStatus {
        replicas: Some(counts.replicas),
        fully_labeled_replicas: Some(counts.fully_labeled),
        ready_replicas: Some(counts.ready),
        available_replicas: Some(counts.available),
        observed_generation: set.metadata.generation,
        label_selector: text.or_else(|| set.status.label_selector.clone()),
        error_reason: trouble.map(|trouble| trouble.reason.to_owned()),
        error_message: trouble.map(|trouble| trouble.message.clone()),
        conditions: Some(conditions),
    };
    if normal(&wanted) == normal(&set.status) && set.status.replicas.is_some() {
        return None;
    }
    Some(json!({"status": {
        "replicas": wanted.replicas,
        "fullyLabeledReplicas": wanted.fully_labeled_replicas,
        "readyReplicas": wanted.ready_replicas,
        "availableReplicas": wanted.available_replicas,
        "observedGeneration": wanted.observed_generation,
        "labelSelector": wanted.label_selector,
        "errorReason": wanted.error_reason,
        "errorMessage": wanted.error_message,
        "conditions": wanted.conditions,
    }}))
}

/// What a tool that waits for the set reads, and why.
fn health<'a>(
    set: &StoredMachineSet,
    counts: &Counts,
    trouble: Option<&'a Trouble>,
) -> (Health, &'a str, String) {
    let desired = set.replicas.unwrap_or_default();
    if let Some(trouble) = trouble {
        let health = if trouble.needs_person() {
            Health::Failed
        } else {
            Health::InProgress
        };
        return (health, trouble.reason, trouble.message.clone());
    }
    let available = format!(
        "{} of {} {} available",
        counts.available,
        counted(desired, "Machine"),
        are(desired)
    );
    if counts.available == desired && counts.replicas == desired {
        return (Health::Current, "MachinesAvailable", available);
    }
    if let Some(annotation) = set.paused_by() {
        let message = format!("{available}; not reconciled because of the annotation {annotation}");
        return (Health::InProgress, "Paused", message);
    }
    let reason = match counts.replicas.cmp(&desired) {
        Ordering::Less => "ScalingUp",
        Ordering::Greater => "ScalingDown",
        Ordering::Equal => "MachinesUnavailable",
    };
    (Health::InProgress, reason, available)
}

/// Go clients leave out a count that is 0.
fn normal(status: &MachineSetStatus) -> MachineSetStatus {
    let count = |count: Option<i32>| Some(count.unwrap_or_default());
    MachineSetStatus {
        replicas: count(status.replicas),
        fully_labeled_replicas: count(status.fully_labeled_replicas),
        ready_replicas: count(status.ready_replicas),
        available_replicas: count(status.available_replicas),
        ..status.clone()
    }
}
