//! How many Machines to make or delete, and which go first.

use std::sync::Arc;

use jiff::Timestamp;
use machinist_shared::api::names::annotation;

use super::{INVALID_CONFIGURATION, MACHINE_CHANGED_AT_ADMISSION, Trouble, until};
use crate::cache::StoredMachine;
use crate::machine::evacuation;
use crate::machine_set::observed::{Member, NodeState, Observed};
use crate::machine_set::plan::{Plan, Step};
use crate::runtime::creation_limit::TOO_MANY_CREATIONS;

/// Machines that one plan deletes or changes at most: in between, a new number of replicas is heard, and the status told.
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

/// Plans to make what is missing, or to delete what is too much. Orphans count when something is missing, for they
/// will be ours; and not when something is too much, for they are not yet.
pub(super) fn scale(
    observed: &Observed,
    active: &[&Member],
    now: Timestamp,
    plan: &mut Plan,
) -> Result<(), Trouble> {
    let set = &observed.set;
    let policy = DeletePolicy::parse(&set.delete_policy).ok_or_else(|| Trouble {
        reason: INVALID_CONFIGURATION,
        message: format!(
            "spec.deletePolicy: {:?} is not one of \"Random\", \"Newest\", \"Oldest\"; nothing is scaled down",
            set.delete_policy
        ),
    });
    // A missing number is reported by the caller.
    let wanted = set.replicas.and_then(|replicas| usize::try_from(replicas).ok());
    let Some(wanted) = wanted else { return Ok(()) };
    // One that goes is more than was asked for.
    let is_going = |member: &&&Member| evacuation::is_going(&member.machine);
    let staying: Vec<&Member> = active
        .iter()
        .filter(|member| !is_going(member))
        .copied()
        .collect();
    let counted = staying.len();
    let missing = wanted.saturating_sub(counted + observed.orphans.len());
    let mut held = None;
    // Under the strategy OnDelete, what a person takes from an older template comes back from the newer one.
    if missing > 0 && set.annotation(annotation::NO_NEW_MACHINES) != Some("true") {
        // While VMs are not made, neither are Machines that would wait for them in any number. An event of one of those that
        // wait tells that it has its VM.
        let waiting = staying.iter().filter(|member| member.waits_for_vm()).count();
        let count = missing.min(WAITING.saturating_sub(waiting));
        let paused = observed
            .recreation
            .as_ref()
            .filter(|recreation| recreation.until > now);
        if let Some(recreation) = paused {
            plan.look_again(until(now, recreation.until));
        }
        let (most, why) = if count > 0 && paused.is_none() {
            allowed(observed, now, plan)
        } else {
            (0, None)
        };
        held = why;
        let count = count.min(most);
        if count > 0 {
            plan.steps.push(Step::Create(count));
        }
        plan.more = missing > count && count > 0 && paused.is_none();
    }
    let policy = policy?;
    // One of those that are about to be taken may be missed less. Should they not let themselves be taken, it is not waited
    // for.
    let waits = !observed.orphans.is_empty() && observed.failure.is_none();
    let surplus = counted.saturating_sub(wanted);
    if surplus > 0 && !waits {
        let class = |member: &Member| class(member, set.min_ready_seconds, now);
        let victims = first_to_go(&staying, class, policy, surplus.min(AT_ONCE));
        plan.steps.push(Step::Delete(victims));
        plan.more = surplus > AT_ONCE;
    }
    held.map_or(Ok(()), Err)
}

/// How many Machines may be created, and why not any number.
fn allowed(observed: &Observed, now: Timestamp, plan: &mut Plan) -> (usize, Option<Trouble>) {
    let creations = &observed.creations;
    if let Some(next) = creations.next {
        plan.look_again(next);
    }
    if let Some(halt) = &creations.halt {
        let trouble = Trouble {
            reason: MACHINE_CHANGED_AT_ADMISSION,
            message: halt.message.clone(),
        };
        if halt.until > now {
            plan.look_again(until(now, halt.until));
            return (0, Some(trouble));
        }
        return (creations.left, Some(trouble));
    }
    if creations.left > 0 {
        return (creations.left, None);
    }
    let trouble = Trouble {
        reason: TOO_MANY_CREATIONS,
        message: "the Machines that it creates do not stay its own: another controller, an admission webhook or a policy \
                  changes their labels or owners, or removes them. It creates one about every 5 minutes until one stays; \
                  it goes on at once when its selector or template changes, or when it is paused and resumed"
            .to_owned(),
    };
    (0, Some(trouble))
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

/// FNV-1a: arbitrary, and the same every time, so that two looks at one state choose the same Machines.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
