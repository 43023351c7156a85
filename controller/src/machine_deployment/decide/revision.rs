//! Revisions: which template came when. Written as machine-controller writes them, and again under the names that the
//! cluster-autoscaler looks for.

use machinist_shared::api::names::{annotation, label};

use super::super::rollout_limits::Limits;
use super::super::snapshot::types::{Set, Texts};
use super::pool::Pool;

/// No more of the history is kept than fits into this many bytes.
const HISTORY: usize = 2000;

/// Annotations of the deployment that its sets do not get.
const NOT_COPIED: [&str; 10] = [
    annotation::LAST_APPLIED,
    annotation::REVISION,
    annotation::REVISION_HISTORY,
    annotation::DESIRED_REPLICAS,
    annotation::MAX_REPLICAS,
    annotation::ROLLOUT_GUARD,
    // The strategy decides on this one.
    annotation::NO_NEW_MACHINES,
    // These speak to the deployment alone.
    annotation::PAUSED,
    annotation::INITIALIZERS,
    annotation::ROLLBACK_TO,
];

/// The revision of a set; 0 if it has none that is a number.
pub(super) fn of(set: &Set) -> i64 {
    text(set).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The revision of a set as it is written.
pub(super) fn text(set: &Set) -> Option<&str> {
    set.annotation(annotation::REVISION)
        .filter(|text| !text.is_empty())
}

/// Copies the deployment's annotations and gives the new set its revision: higher than that of all old ones, and never
/// lower than before.
pub(super) fn assign(pool: Pool<'_>) -> Pool<'_> {
    let deployment = &pool.observed.deployment;
    let newest = pool.old().map(of).max().unwrap_or(0).saturating_add(1);
    let is_creating = pool.is_creating();
    let pool = match pool.new {
        None => pool,
        Some(index) => pool.with(index, |set| {
            let before = set.annotations.clone();
            set.min_ready_seconds = deployment.min_ready_seconds;
            copy(&deployment.annotations, &mut set.annotations);
            // Unlike the others, this one has an effect on the set; so it is removed, too.
            if !deployment.in_place {
                set.annotations.remove(annotation::IN_PLACE);
            }
            revise(set, &before, newest);
            if is_creating {
                Limits::of(deployment).annotate(&mut set.annotations);
            }
        }),
    };
    guard(pool)
}

fn copy(from: &Texts, to: &mut Texts) {
    for (key, value) in from {
        if !NOT_COPIED.contains(&key.as_str()) {
            to.insert(key.clone(), value.clone());
        }
    }
}

fn revise(set: &mut Set, before: &Texts, newest: i64) {
    let had = text(set).map(str::to_owned);
    if had.as_ref().is_some_and(|had| had.parse::<i64>().is_err()) {
        // Another controller's numbering: nothing here would be right.
        set.annotations.clone_from(before);
        return;
    }
    if of(set) < newest {
        set.annotations
            .insert(annotation::REVISION.to_owned(), newest.to_string());
        // It is tried again: an earlier failure means nothing.
        set.annotations.remove(annotation::MACHINE_FAILED);
    }
    if let Some(had) = had
        && set.annotations != *before
    {
        let history = set.annotations.entry(annotation::REVISION_HISTORY.to_owned());
        let history = history.or_default();
        if !history.is_empty() {
            history.push(',');
        }
        history.push_str(&had);
        while history.len() > HISTORY
            && let Some((_, later)) = history.split_once(',')
        {
            *history = later.to_owned();
        }
    }
}

/// Marks every set for the cluster-autoscaler, which removes no node of a pool that is being rolled. It needs the label
/// and the annotation on every set, or neither: a set with the label alone would count as old for ever.
///
/// A set without the mark is new here. machine-controller copies all annotations of its deployment, and removes none: a pause
/// that has long ended there would hold the set for ever.
fn guard(pool: Pool<'_>) -> Pool<'_> {
    const LONGEST_LABEL: usize = 63;
    let name = &pool.observed.deployment.name;
    if name.len() > LONGEST_LABEL {
        return pool;
    }
    pool.with_members(|_, set| {
        if !set.annotations.contains_key(annotation::ROLLOUT_GUARD) {
            set.annotations.remove(annotation::PAUSED);
            set.annotations.remove(annotation::INITIALIZERS);
        }
        let revision = of(set).to_string();
        set.labels.insert(label::DEPLOYMENT_NAME.to_owned(), name.clone());
        set.annotations
            .insert(annotation::ROLLOUT_GUARD.to_owned(), revision);
    })
}
