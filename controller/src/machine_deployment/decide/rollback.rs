//! Going back to an earlier revision, asked for by annotation: its template becomes the deployment's.

use k8s_openapi::jiff::Timestamp;
use machinist_shared::api::count::are;
use machinist_shared::api::names::{annotation, label};
use serde_json::{Value, json};

use super::super::conditions::{self, ROLLED_BACK, Reason, Verdict};
use super::super::plan::Step;
use super::super::snapshot::types::{Likeness, Set};
use super::pool::Pool;
use super::revision;
use super::writes::{Decision, event};
use crate::cache::Template;

/// The rollback that is asked for, if one is. The same write removes the annotation, so it is done once. While a write that
/// failed waits to be tried again, the deployment goes on as if nothing were asked for.
pub(super) fn decide<'a>(pool: &Pool<'a>, now: Timestamp) -> Option<Decision<'a>> {
    let observed = pool.observed;
    if observed.failure.is_some() {
        return None;
    }
    let asked = observed.deployment.annotation(annotation::ROLLBACK_TO)?.trim();
    let (answer, request) = answer(pool, asked);
    let mut status = observed.deployment.status.clone();
    conditions::put(&mut status.conditions, ROLLED_BACK, &answer, Some(now), now);
    Some(Decision {
        request: Some(request),
        events: vec![event(answer.status == "False", "Rollback", answer.message)],
        ..Decision::of_status(pool.clone(), status, None)
    })
}

/// How the rollback to the revision `asked` ends, and the write that does it.
fn answer(pool: &Pool<'_>, asked: &str) -> (Verdict, Step) {
    let drop_request =
        || Step::PatchDeployment(json!({"metadata": {"annotations": {annotation::ROLLBACK_TO: null}}}));
    let target = target(pool, asked);
    if let Some(why) = &pool.observed.rollback_refused {
        let message = format!("{why}; fix that, and set the annotation again");
        return (
            Verdict::new("False", Reason::RollbackRefused, message),
            drop_request(),
        );
    }
    match target {
        Some(set) if set.likeness >= Likeness::Equal => {
            let message = format!("revision {} is the current template already", revision::of(set));
            (
                Verdict::new("True", Reason::RevisionRestored, message),
                drop_request(),
            )
        }
        Some(set) => {
            let (revision, name) = (revision::of(set), &set.name);
            let message = format!("restored the template of revision {revision} (MachineSet {name})");
            let template = without_hash(&set.template);
            (
                Verdict::new("True", Reason::RevisionRestored, message),
                Step::RollBack(template),
            )
        }
        None => {
            let known: Vec<String> = pool.old().map(revision::of).map(|r| r.to_string()).collect();
            let known = if known.is_empty() {
                "none is kept".to_owned()
            } else {
                format!("kept {} {}", are(known.len()), known.join(", "))
            };
            let which = if is_previous(asked) {
                "there is no earlier revision".to_owned()
            } else {
                format!("there is no revision {asked:?}")
            };
            let message = format!("{which}; {known}");
            (
                Verdict::new("False", Reason::RevisionNotFound, message),
                drop_request(),
            )
        }
    }
}

fn is_previous(asked: &str) -> bool {
    asked.is_empty() || asked == "0"
}

/// The set of the revision that is asked for; without one, the one before the current.
fn target<'a>(pool: &'a Pool<'_>, asked: &str) -> Option<&'a Set> {
    let sets = pool.members().map(|(_, set)| set);
    if is_previous(asked) {
        return sets
            .filter(|set| set.likeness < Likeness::Equal && revision::of(set) > 0)
            .max_by_key(|set| revision::of(set));
    }
    let asked: i64 = asked.parse().ok()?;
    let bore = |set: &&Set| {
        let history = set.annotation(annotation::REVISION_HISTORY).unwrap_or_default();
        history.split(',').any(|revision| revision.parse() == Ok(asked))
    };
    sets.clone()
        .find(|set| revision::of(set) == asked)
        .or_else(|| sets.clone().find(bore))
}

/// A set's template as its deployment had it.
fn without_hash(template: &Value) -> Template {
    let mut template = template.clone();
    if let Some(labels) = template
        .pointer_mut("/metadata/labels")
        .and_then(Value::as_object_mut)
    {
        labels.remove(label::TEMPLATE_HASH);
    }
    Template::from(template)
}
