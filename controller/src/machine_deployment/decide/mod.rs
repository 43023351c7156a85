//! What happens next to a MachineDeployment: a pure function from what is observed to a plan.
//!
//! In this order: whose the sets are ([`select`]), which of them is the new one ([`new_set`]), which revision they are
//! ([`revision`]), whether the template has proven itself ([`rollout_halt`]), how large each set should be ([`rolling`],
//! [`on_delete`], [`paused`]), what its nodes will have ([`capacity`]), what the status shows ([`status`]), and which old sets
//! are deleted ([`history`]). Each takes the sets as far as they are decided and returns them with its own changes; [`writes`]
//! makes a plan of the difference to what is stored.

mod capacity;
mod hash;
mod history;
mod new_set;
mod on_delete;
mod paused;
mod pool;
mod revision;
mod rollback;
mod rolling;
mod rollout_halt;
mod select;
mod status;
mod writes;

#[cfg(test)]
pub(super) mod fixtures;
#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;

use k8s_openapi::jiff::Timestamp;
use machinist_shared::admission::autoscaler::Changes;
use machinist_shared::api::names::{annotation, finalizer};

pub use hash::{likeness_of, with_hash};

use super::plan::{Plan, Step};
use super::snapshot::types::{Snapshot, Strategy};
use pool::Pool;
use status::Findings;
use writes::Decision;

/// The plan for a deployment as observed at `now`. The same observation and time give the same plan.
pub fn decide(observed: &Snapshot, now: Timestamp) -> Plan {
    let deployment = &observed.deployment;
    // Garbage collection deletes its sets, and its author expects nothing else.
    if deployment.deleting {
        return Plan::default();
    }
    let stored = Pool::of(observed);
    if deployment.fault.is_some() || deployment.held_by.is_some() {
        let pool = new_set::find(stored);
        let shown = status::decide(&pool, &Findings::default(), now);
        return writes::plan(Decision::of_status(pool, shown.status, shown.requeue_after), now);
    }
    let pool = select::claim(stored);
    let decision = rollback::decide(&pool, now).unwrap_or_else(|| rolled(pool, now));
    let rejected = rejected(observed);
    writes::plan(Decision { rejected, ..decision }, now)
}

/// What follows from the spec.
fn rolled(pool: Pool<'_>, now: Timestamp) -> Decision<'_> {
    let (observed, deployment) = (pool.observed, &pool.observed.deployment);
    let pool = new_set::find(pool);
    let held = match &pool.new {
        None if !deployment.paused => new_set::held(observed, now),
        _ => None,
    };
    let pool = match held {
        None if !deployment.paused => new_set::create(pool),
        _ => pool,
    };
    let pool = rollout_halt::note(revision::assign(pool));
    let halted = rollout_halt::cause(&pool);
    let pool = match deployment.strategy {
        _ if deployment.paused || held.is_some() => paused::scale(pool),
        Strategy::RollingUpdate => rolling::scale(pool, halted.is_some()),
        Strategy::OnDelete => on_delete::scale(pool),
    };
    let pool = on_delete::mark(pool);
    let doubles = history::doubles(&pool);
    let requeue_after = held.as_ref().and_then(|held| held.requeue_after);
    let findings = Findings { held, halted };
    let shown = status::decide(&pool, &findings, now);
    let mut deletions = doubles;
    if shown.is_complete && !deployment.paused {
        deletions.extend(history::surplus(&pool));
    }
    deletions.dedup();
    let revision = pool.new_set().and_then(revision::text);
    let revision = revision.map(|text| (annotation::REVISION.to_owned(), Some(text.to_owned())));
    let (capacity, capacity_again) = capacity::changes(observed);
    Decision {
        rejected: Vec::new(),
        finalizers: with_finalizer(&deployment.finalizers),
        annotations: revision.into_iter().chain(capacity).collect::<Changes>(),
        request: None,
        deletions,
        status: Some(shown.status),
        events: Vec::new(),
        requeue_after: [requeue_after, capacity_again, shown.requeue_after]
            .into_iter()
            .flatten()
            .min(),
        pool,
    }
}

/// Deletions of sets of its making that are not as they were sent. One that failed is tried again with everything else.
fn rejected(observed: &Snapshot) -> Vec<Step> {
    if observed.failure.is_some() {
        return Vec::new();
    }
    let rejected = observed.rejected.iter().cloned();
    rejected
        .map(|(name, uid)| Step::DeleteSet { name, uid })
        .collect()
}

/// Those finalizers and the one that makes garbage collection delete what the deployment owns first; nothing if it is there.
fn with_finalizer(stored: &[String]) -> Option<Vec<String>> {
    let is_there = stored.iter().any(|f| f == finalizer::FOREGROUND_DELETION);
    let added = finalizer::FOREGROUND_DELETION.to_owned();
    (!is_there).then(|| stored.iter().cloned().chain([added]).collect())
}
