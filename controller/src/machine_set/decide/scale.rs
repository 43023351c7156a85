//! How many Machines to make or delete, and which go first.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use machinist_shared::api::names::annotation;

use super::{INVALID_CONFIGURATION, MACHINE_CHANGED_AT_ADMISSION, Trouble, Work, restore, until};
use crate::cache::StoredMachine;
use crate::machine::disruption_budget;
use crate::machine_set::plan::Step;
use crate::machine_set::snapshot::types::{Member, NodeState, Snapshot};
use crate::runtime::creation_limit::TOO_MANY_CREATIONS;

/// Machines that one plan deletes or changes at most: in between, the next reconcile sees a new number of replicas and writes the
/// status.
pub(super) const AT_ONCE: usize = 250;

/// Machines that wait for their VM at most: more would cost the API server and gain nothing.
const WAITING: usize = 32;

/// Which of the healthy go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DeletePolicy {
    Random,
    Newest,
    Oldest,
}

impl DeletePolicy {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Random" => Some(Self::Random),
            "Newest" => Some(Self::Newest),
            "Oldest" => Some(Self::Oldest),
            _ => None,
        }
    }
}

/// Creates what is missing, or deletes what is too much. Orphans count when something is missing, for they will be adopted; and
/// not when something is too much, for they are not yet.
pub(super) fn scale(observed: &Snapshot, active: &[&Member], now: Timestamp) -> Work {
    let set = &observed.set;
    // A missing number is reported by the caller.
    let Some(replicas) = set.replicas.and_then(|replicas| usize::try_from(replicas).ok()) else {
        return Work::default();
    };
    // One that is being replaced is more than was asked for.
    let staying: Vec<&Member> = active
        .iter()
        .filter(|member| !disruption_budget::is_replaced(&member.machine))
        .copied()
        .collect();
    let missing = replicas.saturating_sub(staying.len() + observed.orphans.len());
    let surplus = staying.len().saturating_sub(replicas);
    let deleted = delete(observed, &staying, surplus, now);
    deleted.and(create(observed, &staying, missing, now))
}

/// Creates as many of the missing Machines as is allowed now.
fn create(observed: &Snapshot, staying: &[&Member], missing: usize, now: Timestamp) -> Work {
    let set = &observed.set;
    // Under the strategy OnDelete, what a person deletes of an older template comes back from the newer one.
    if missing == 0 || set.annotation(annotation::NO_NEW_MACHINES) == Some("true") {
        return Work::default();
    }
    // While no VMs are created, neither are Machines that would wait for them in any number. When one of those that wait has its
    // VM, its event enqueues the set.
    let waiting = staying.iter().filter(|member| member.waits_for_vm()).count();
    let count = missing.min(WAITING.saturating_sub(waiting));
    let paused = observed.recreation.as_ref();
    if let Some(recreation) = paused.filter(|recreation| recreation.until > now) {
        return Work {
            requeue_after: Some(until(now, recreation.until)),
            ..Work::default()
        };
    }
    if count == 0 {
        return Work::default();
    }
    if let Some(waits) = restore::wait(observed, now) {
        return waits;
    }
    let (most, held) = allowed(observed, now);
    let count = count.min(most);
    held.and(Work {
        steps: (count > 0).then_some(Step::Create(count)).into_iter().collect(),
        more: missing > count && count > 0,
        ..Work::default()
    })
}

/// Deletes those Machines of the surplus that are missed least.
fn delete(observed: &Snapshot, staying: &[&Member], surplus: usize, now: Timestamp) -> Work {
    let set = &observed.set;
    let Some(policy) = DeletePolicy::parse(&set.delete_policy) else {
        return Work {
            trouble: Some(Trouble {
                reason: INVALID_CONFIGURATION,
                message: format!(
                    "spec.deletePolicy: {:?} is not one of \"Random\", \"Newest\", \"Oldest\"; nothing is scaled down",
                    set.delete_policy
                ),
            }),
            ..Work::default()
        };
    };
    // One of those that are about to be adopted may be missed less. Should their adoption fail, it is not waited for.
    let waits = !observed.orphans.is_empty() && observed.failure.is_none();
    if surplus == 0 || waits {
        return Work::default();
    }
    let class = |member: &Member| class(member, set.min_ready_seconds, now);
    let victims = first_to_go(staying, class, policy, surplus.min(AT_ONCE));
    Work {
        steps: vec![Step::Delete(victims)],
        more: surplus > AT_ONCE,
        ..Work::default()
    }
}

/// How many Machines may be created, and why not any number.
fn allowed(observed: &Snapshot, now: Timestamp) -> (usize, Work) {
    let creations = &observed.creations;
    let held = |reason, message: &str, again: Option<Duration>| Work {
        requeue_after: creations.next.into_iter().chain(again).min(),
        trouble: Some(Trouble {
            reason,
            message: message.to_owned(),
        }),
        ..Work::default()
    };
    match &creations.halt {
        Some(halt) => {
            let again = (halt.until > now).then(|| until(now, halt.until));
            let most = if again.is_some() { 0 } else { creations.left };
            (most, held(MACHINE_CHANGED_AT_ADMISSION, &halt.message, again))
        }
        None if creations.left > 0 => (
            creations.left,
            Work {
                requeue_after: creations.next,
                ..Work::default()
            },
        ),
        None => (
            0,
            held(
                TOO_MANY_CREATIONS,
                "the Machines that it creates do not stay its own: another controller, an admission webhook or a policy \
                 changes their labels or owners, or removes them. It creates one about every 5 minutes until one stays; \
                 it goes on at once when its selector or template changes, or when it is paused and resumed",
                None,
            ),
        ),
    }
}

/// The `count` Machines that are missed least.
fn first_to_go(
    active: &[&Member],
    class: impl Fn(&Member) -> Class,
    policy: DeletePolicy,
    count: usize,
) -> Vec<Arc<StoredMachine>> {
    let mut candidates: Vec<_> = active.to_vec();
    candidates.sort_by_cached_key(|member| {
        let machine = &member.machine;
        let created = machine.metadata.creation_timestamp.as_ref();
        let created = created.map_or(Timestamp::MIN, |time| time.0);
        // Seconds since 1970: far from the limits.
        let age_order = match policy {
            DeletePolicy::Random => 0,
            DeletePolicy::Newest => -created.as_second(),
            DeletePolicy::Oldest => created.as_second(),
        };
        let arbitrary = if policy == DeletePolicy::Random {
            hash(machine.uid())
        } else {
            0
        };
        (class(member), age_order, arbitrary, machine.name().to_owned())
    });
    candidates
        .into_iter()
        .take(count)
        .map(|member| member.machine.clone())
        .collect()
}

/// What is missed least comes first, whatever the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Marked,
    Failed,
    WithoutNode,
    NotReady,
    /// Ready, and not for long enough: a MachineDeployment counts on such ones to go before those that are.
    NotAvailable,
    Healthy,
}

fn class(member: &Member, min_ready_seconds: i32, now: Timestamp) -> Class {
    if member.machine.is_marked() {
        Class::Marked
    } else if member.has_failed() {
        Class::Failed
    } else {
        match member.node {
            NodeState::Absent => Class::WithoutNode,
            NodeState::NotReady => Class::NotReady,
            NodeState::Ready { .. } => {
                let available = member.available_at(min_ready_seconds);
                if available.is_some_and(|at| at <= now) {
                    Class::Healthy
                } else {
                    Class::NotAvailable
                }
            }
        }
    }
}

/// FNV-1a: arbitrary, and the same every time, so that two reconciles of one state choose the same Machines.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
