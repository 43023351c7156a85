//! Going back to an earlier revision, asked for by annotation: its template becomes the deployment's.

use machinist_shared::api::names::{annotation, label};
use serde_json::{Value, json};

use super::super::conditions::{self, ROLLED_BACK, Reason, Verdict};
use super::super::observed::{Likeness, Set};
use super::super::plan::Step;
use super::draft::Draft;
use super::revision;
use crate::cache::Template;

/// Rolls back if that is asked for; whether it was. The annotation goes with the same write, so it is done once. While
/// a write that failed waits to be tried again, the deployment goes on as if nothing were asked for.
pub(super) fn decide(draft: &mut Draft<'_>) -> bool {
    if draft.observed.failure.is_some() {
        return false;
    }
    let Some(asked) = draft.observed.deployment.annotation(annotation::ROLLBACK_TO) else {
        return false;
    };
    let asked = asked.trim().to_owned();
    let answer = match target(draft, &asked) {
        _ if let Some(why) = &draft.observed.rollback_refused => {
            let message = format!("{why}; mend that, and ask again");
            draft.forget_changes();
            draft.requests.push(forget());
            Verdict::new("False", Reason::RollbackRefused, message)
        }
        Some(set) if set.likeness >= Likeness::Equal => {
            let message = format!("revision {} is the current template already", revision::of(set));
            draft.forget_changes();
            draft.requests.push(forget());
            Verdict::new("True", Reason::RevisionRestored, message)
        }
        Some(set) => {
            let message = format!(
                "the template of revision {} (MachineSet {}) is back",
                revision::of(set),
                set.name
            );
            let template = without_hash(&set.template);
            draft.forget_changes();
            draft.requests.push(Step::RollBack(template));
            Verdict::new("True", Reason::RevisionRestored, message)
        }
        None => {
            let known: Vec<String> = draft.old().map(revision::of).map(|r| r.to_string()).collect();
            let known = if known.is_empty() {
                "none is kept".to_owned()
            } else {
                format!("kept are {}", known.join(", "))
            };
            let which = if is_previous(&asked) {
                "there is no earlier revision".to_owned()
            } else {
                format!("there is no revision {asked:?}")
            };
            draft.forget_changes();
            draft.requests.push(forget());
            Verdict::new("False", Reason::RevisionNotFound, format!("{which}; {known}"))
        }
    };
    draft.tell(answer.status == "False", "Rollback", answer.message.clone());
    let mut status = draft.observed.deployment.status.clone();
    conditions::put(
        &mut status.conditions,
        ROLLED_BACK,
        &answer,
        Some(draft.now),
        draft.now,
    );
    draft.status = Some(status);
    true
}

fn is_previous(asked: &str) -> bool {
    asked.is_empty() || asked == "0"
}

/// The set of the revision that is asked for; without one, the one before the current.
fn target<'a>(draft: &'a Draft<'_>, asked: &str) -> Option<&'a Set> {
    let sets = draft.members().map(|(_, set)| set);
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

fn forget() -> Step {
    Step::PatchDeployment(json!({"metadata": {"annotations": {annotation::ROLLBACK_TO: null}}}))
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
