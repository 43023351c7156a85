//! What is known of the instancetypes of node groups, and when it is to be asked for again.

use std::collections::HashMap;
use std::time::Duration;

use machinist_shared::admission::Subject;
use machinist_shared::admission::autoscaler;
use machinist_shared::api::ValueAt;
use machinist_shared::api::config_var::ConfigVarString;
use machinist_shared::kubevirt::spec::Matcher;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

use crate::cache::NodeGroup;

/// How long an answer is believed.
const EVERY: Duration = Duration::from_mins(5);
/// How soon it is asked again after no answer, or for what does not exist.
const AGAIN: Duration = Duration::from_mins(1);

/// An instancetype, and whose credential may read it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct InstancetypeSource {
    pub(super) matcher: Matcher,
    pub(super) kubeconfig: ConfigVarString,
}

impl InstancetypeSource {
    /// What must be read before the capacity of a node group is known.
    pub(crate) fn of(object: &Value) -> Option<Self> {
        let subject = Subject::new(object, ValueAt::TEMPLATE);
        let matcher = autoscaler::instancetype_needed(None, &subject)?;
        let kubeconfig = subject
            .config()
            .cloud_provider_spec
            .as_ref()?
            .credential()
            .clone();
        Some(Self { matcher, kubeconfig })
    }
}

/// What was found, and when to ask again. What is known stays in use until there is an answer, unlike in a cache whose entries
/// expire.
#[derive(Debug)]
struct Entry {
    wanted: InstancetypeSource,
    spec: Option<Value>,
    /// Nothing while it is being asked.
    due: Option<Instant>,
}

/// What is known of an instancetype.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Known {
    /// Its `spec`, if it was ever seen.
    pub(crate) spec: Option<Value>,
    /// How long until it must be asked for again.
    pub(crate) again: Option<Duration>,
}

/// The instancetypes of node groups.
#[derive(Debug, Default)]
pub(super) struct Instancetypes(Mutex<HashMap<NodeGroup, Entry>>);

impl Instancetypes {
    /// What that group needs.
    pub(super) fn note(&self, group: &NodeGroup, wanted: Option<&InstancetypeSource>, now: Instant) {
        let mut known = self.0.lock();
        let Some(wanted) = wanted else {
            known.remove(group);
            return;
        };
        if known.get(group).is_none_or(|entry| entry.wanted != *wanted) {
            let new = Entry {
                wanted: wanted.clone(),
                spec: None,
                due: Some(now),
            };
            known.insert(group.clone(), new);
        }
    }

    /// Whether it must be asked for now, by the caller.
    pub(super) fn begin(&self, group: &NodeGroup, now: Instant) -> bool {
        let mut known = self.0.lock();
        let due = known
            .get_mut(group)
            .and_then(|entry| entry.due.take_if(|due| *due <= now));
        due.is_some()
    }

    /// What is known for that group.
    pub(super) fn known(&self, group: &NodeGroup, now: Instant) -> Known {
        let known = self.0.lock();
        known.get(group).map_or_else(Known::default, |entry| Known {
            spec: entry.spec.clone(),
            again: entry.due.map(|due| due.duration_since(now)),
        })
    }

    /// What came of asking. What is not answered stays as it was known; what is not there is not known.
    pub(super) fn answered(
        &self,
        group: &NodeGroup,
        wanted: &InstancetypeSource,
        answer: Result<Option<Value>, String>,
        now: Instant,
    ) {
        let mut known = self.0.lock();
        let Some(entry) = known.get_mut(group).filter(|entry| entry.wanted == *wanted) else {
            return;
        };
        let found = matches!(answer, Ok(Some(_)));
        if let Ok(spec) = answer {
            entry.spec = spec;
        }
        entry.due = Some(now + if found { EVERY } else { AGAIN });
    }

    /// The object is gone.
    pub(crate) fn forget(&self, group: &NodeGroup) {
        self.0.lock().remove(group);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinist_infra::cache::store::Key;
    use machinist_shared::api::names::autoscaler::MAX_SIZE;
    use serde_json::json;

    fn object(instancetype: &str) -> Value {
        json!({
            "metadata": {"annotations": {MAX_SIZE: "5"}},
            "spec": {"template": {"spec": {"providerSpec": {"value": {
                "cloudProvider": "kubevirt", "operatingSystem": "ubuntu", "cloudProviderSpec": {
                    "auth": {"kubeconfig": {"secretKeyRef": {"namespace": "n", "name": "s", "key": "k"}}},
                    "virtualMachine": {"instancetype": {"name": instancetype}, "template": {"primaryDisk": {"size": "10Gi"}}},
                },
            }}}}},
        })
    }

    #[test]
    fn an_instancetype_is_asked_for_once_and_again_after_a_while_and_at_once_if_it_is_another() {
        let all = Instancetypes::default();
        let group = NodeGroup::Set(Key::new("ns", "s"));
        let other = NodeGroup::Deployment(Key::new("ns", "s"));
        let note = |group: &NodeGroup, wanted: Option<&InstancetypeSource>, now| {
            all.note(group, wanted, now);
            all.begin(group, now)
        };
        let (wanted, start) = (InstancetypeSource::of(&object("small")).unwrap(), Instant::now());
        assert!(note(&group, Some(&wanted), start));
        assert!(!note(&group, Some(&wanted), start), "it is being asked for");
        assert_eq!(all.known(&group, start), Known::default());
        all.answered(&group, &wanted, Ok(Some(json!(1))), start);
        assert!(!note(&group, Some(&wanted), start));
        let known = all.known(&group, start);
        assert_eq!((known.spec, known.again), (Some(json!(1)), Some(EVERY)));

        // There is no answer: what is known stays, and is asked for sooner.
        let later = start + EVERY;
        assert!(note(&group, Some(&wanted), later));
        all.answered(&group, &wanted, Err("no".to_owned()), later);
        let known = all.known(&group, later);
        assert_eq!((known.spec, known.again), (Some(json!(1)), Some(AGAIN)));

        assert!(note(&other, Some(&wanted), later), "a namesake");
        let large = InstancetypeSource::of(&object("large")).unwrap();
        assert!(note(&group, Some(&large), later));
        assert_eq!(all.known(&group, later).spec, None);
        // An answer to the question before says nothing.
        all.answered(&group, &wanted, Ok(Some(json!(2))), later);
        assert_eq!(all.known(&group, later), Known::default());
    }

    #[test]
    fn what_is_no_node_group_needs_none() {
        let mut object = object("small");
        object["metadata"] = json!({});
        assert_eq!(InstancetypeSource::of(&object), None);
    }
}
