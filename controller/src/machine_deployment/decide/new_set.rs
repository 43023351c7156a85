//! The new set: the one of the deployment's template.

use std::cmp::Reverse;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use machinist_shared::admission::template;
use machinist_shared::api::names::annotation;

use super::super::conditions::Reason;
use super::super::snapshot::types::{Deployment, Likeness, Machines, Set, Snapshot, Texts};
use super::hash::{hash_of, with_hash};
use super::pool::Pool;
use super::revision;
use super::writes::until;
use crate::cache::labels_of;

/// Finds the new set: one of the same template, however that is written. One that is being deleted comes last.
///
/// Where several are of the same template, machine-controller has rolled from one to the other for bytes that mean nothing.
/// The one that it would go on with is taken, which has the very bytes; else the one that most Machines need not leave.
///
/// A deployment that may be changed in place keeps the one that it has as long as that is of the same virtual machines:
/// the newest, so that no older set of the very template takes the Machines over. It gets the template once that one is
/// gone, so that no template ever has two.
///
/// The deployment's template is copied into the set, byte for byte: machine-controller compares bytes, and
/// would roll the pool on the way back.
pub(super) fn find(pool: Pool<'_>) -> Pool<'_> {
    let deployment = &pool.observed.deployment;
    let alike = |likeness| {
        let members = pool.members();
        members.filter(move |(_, set)| set.likeness >= likeness)
    };
    let found = if deployment.in_place {
        alike(Likeness::InPlace)
            .min_by_key(|(_, set)| (set.deleting, Reverse(revision::of(set)), set.age_order()))
    } else {
        alike(Likeness::Equal).min_by_key(|(_, set)| {
            let (size, likeness) = (Reverse(set.replicas), Reverse(set.likeness));
            (
                set.deleting,
                size,
                likeness,
                Reverse(revision::of(set)),
                set.age_order(),
            )
        })
    };
    let Some(index) = found.map(|(index, _)| index) else {
        return pool;
    };
    let taken =
        deployment.in_place && alike(Likeness::Equal).any(|(other, set)| other != index && !set.deleting);
    let pool = Pool {
        new: Some(index),
        ..pool
    };
    pool.with(index, |set| {
        if set.likeness != Likeness::Identical && !set.deleting && !taken {
            set.template = match hash_of(set) {
                Some(hash) => with_hash(&deployment.template, &hash),
                None => deployment.template.clone(),
            };
            set.likeness = Likeness::Identical;
        }
    })
}

/// With a new set of size 0, unless there is one.
pub(super) fn create(mut pool: Pool<'_>) -> Pool<'_> {
    if pool.new.is_some() {
        return pool;
    }
    let deployment = &pool.observed.deployment;
    let (name, hash) = free_name(deployment, |name| pool.observed.names.contains(name));
    let template = with_hash(&deployment.template, &hash);
    let set = Set {
        name,
        uid: String::new(),
        created: None,
        generation: 0,
        deleting: false,
        owners: vec![deployment.owner()],
        matches: true,
        likeness: Likeness::Identical,
        labels: labels_of(&template),
        template,
        replicas: 0,
        min_ready_seconds: deployment.min_ready_seconds,
        annotations: Texts::from([(
            annotation::CLUSTER_DNS.to_owned(),
            annotation::FIND_DNS.to_owned(),
        )]),
        existing: 0,
        ready: 0,
        available: 0,
        observed_generation: 0,
        error: None,
        machines: Machines::default(),
    };
    pool.new = Some(pool.sets.len());
    pool.sets.push(set);
    pool
}

/// Why no set may be created now.
pub(super) struct Held {
    pub(super) reason: Reason,
    pub(super) message: String,
    pub(super) requeue_after: Option<Duration>,
}

/// Why no set may be created now: what was created last is not as it was sent, or does not stay the deployment's.
pub(super) fn held(observed: &Snapshot, now: Timestamp) -> Option<Held> {
    let creations = &observed.creations;
    match &creations.halt {
        Some(halt) if halt.until > now => Some(Held {
            reason: Reason::MachineSetChangedAtAdmission,
            message: halt.message.clone(),
            requeue_after: Some(until(now, halt.until)),
        }),
        None if creations.left == 0 => {
            let message = "the MachineSets that it creates do not stay its own: another controller, an admission webhook or a \
                           policy changes their labels, owners or templates, or removes them. It creates one about every 5 \
                           minutes until one stays; it goes on at once when its selector or template changes, or when it is \
                           paused and resumed";
            Some(Held {
                reason: Reason::TooManyCreations,
                message: message.to_owned(),
                requeue_after: creations.next,
            })
        }
        _ => None,
    }
}

/// A name that no set bears, and the hash that it is made of. It is the same in every reconcile until the set is there, so a
/// crash or a stale cache creates no second one: the API server knows the name. Only if a set of another template or owner
/// bears it, the next one is tried.
fn free_name(deployment: &Deployment, taken: impl Fn(&str) -> bool) -> (String, String) {
    // A step that reaches every number before it comes back to one.
    const STEP: u32 = 0x9E37_79B1;
    let mut hash = template::hash(&deployment.template);
    loop {
        let name = format!("{}-{}", deployment.name, template::name_suffix(hash));
        if !taken(&name) {
            return (name, hash.to_string());
        }
        hash = hash.wrapping_add(STEP);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::super::plan::Step;
    use super::super::fixtures;
    use super::super::hash::likeness_of;
    use super::*;

    #[test]
    fn a_taken_name_leads_to_the_next_and_always_to_the_same() {
        let deployment = fixtures::deployment(1);
        let (first, _) = free_name(&deployment, |_| false);
        let (second, hash) = free_name(&deployment, |name| name == first);
        assert_ne!(first, second);
        assert_eq!(
            free_name(&deployment, |name| name == first),
            (second.clone(), hash.clone())
        );
        assert!(second.ends_with(&template::name_suffix(hash.parse().unwrap())));
    }

    /// What is planned for a deployment of the template 2 that may be changed in place, with these sets.
    fn in_place(sets: Vec<Set>) -> Vec<Step> {
        let mut deployment = fixtures::deployment(1);
        deployment.in_place = true;
        let plan = super::super::decide(&fixtures::observed(deployment, sets), fixtures::at(100));
        plan.steps
    }

    #[test]
    fn a_set_of_the_same_virtual_machines_is_given_the_template_in_place() {
        let mut set = fixtures::set(1, 1);
        let steps = |set: &Set| in_place(vec![set.clone()]);
        let makes_another = |steps: &[Step]| steps.iter().any(|step| matches!(step, Step::CreateSet(_)));
        assert!(makes_another(&steps(&set)), "other virtual machines");
        set.likeness = Likeness::InPlace;
        let planned = steps(&set);
        assert!(!makes_another(&planned), "{planned:?}");
        let copied = planned.iter().find_map(|step| match step {
            Step::CopyTemplate { template, .. } => Some(template),
            _ => None,
        });
        let hash = hash_of(&set).unwrap();
        assert_eq!(
            copied,
            Some(&with_hash(&fixtures::deployment(1).template, &hash)),
            "under its own hash"
        );
        let reported = |step: &Step| matches!(step, Step::Event(event) if event.reason == "ChangedInPlace");
        assert!(planned.iter().any(reported));
    }

    #[test]
    fn the_newest_set_is_changed_once_the_one_of_the_very_template_is_gone() {
        let (mut double, mut newest) = (fixtures::set(2, 0), fixtures::set(3, 1));
        (double.likeness, newest.likeness) = (Likeness::Equal, Likeness::InPlace);
        let planned = in_place(vec![double.clone(), newest.clone()]);
        let copied = |step: &Step| matches!(step, Step::CopyTemplate { name, .. } if *name == newest.name);
        let deleted = |step: &Step| matches!(step, Step::DeleteSet { name, .. } if *name == double.name);
        assert!(planned.iter().any(deleted), "{planned:?}");
        assert!(
            !planned.iter().any(copied),
            "two sets of one template: {planned:?}"
        );
        // One that still has Machines goes when they are gone.
        let mut busy = double.clone();
        busy.existing = 1;
        let planned = in_place(vec![busy, newest.clone()]);
        assert!(
            !planned.iter().any(|step| deleted(step) || copied(step)),
            "{planned:?}"
        );
        let mut going = double.clone();
        going.deleting = true;
        assert!(in_place(vec![going, newest.clone()]).iter().any(copied));
    }

    #[test]
    fn without_leave_the_very_template_counts_and_the_leave_is_taken_from_the_set() {
        let (mut old, newest) = (fixtures::set(1, 1), fixtures::set(2, 0));
        old.annotations
            .insert(annotation::IN_PLACE.to_owned(), "true".to_owned());
        let mut deployment = fixtures::deployment(1);
        let mut other = deployment.template.as_object().unwrap().clone();
        other.insert(
            "spec".to_owned(),
            json!({"number": 2, "taints": [{"key": "a", "effect": "NoSchedule"}]}),
        );
        old.template = with_hash(&json!(other), "7");
        assert_eq!(likeness_of(&old, &deployment), Likeness::Different);
        deployment.in_place = true;
        assert_eq!(likeness_of(&old, &deployment), Likeness::InPlace);

        let mut given = newest;
        given
            .annotations
            .insert(annotation::IN_PLACE.to_owned(), "true".to_owned());
        let observed = fixtures::observed(fixtures::deployment(0), vec![given]);
        let plan = super::super::decide(&observed, fixtures::at(100));
        let taken = plan.steps.iter().any(|step| match step {
            Step::PatchSet { patch, .. } => {
                let annotations = &patch["metadata"]["annotations"];
                annotations.get(annotation::IN_PLACE) == Some(&Value::Null)
            }
            _ => false,
        });
        assert!(taken, "{:?}", plan.steps);
    }
}
