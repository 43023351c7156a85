//! Events about our objects, for `kubectl describe`.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::runtime::events::{Event as KubeEvent, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use machinist_infra::kube::error::RemoteError;
use parking_lot::Mutex;

use crate::telemetry::metrics::Metrics;

/// How many Events about one object and of one reason are written at once, and how often one more: those of a Machine's whole life fit, and what
/// others do to it, like forging signing requests, fills neither etcd nor anybody's view. As client-go's recorder has it.
const BURST: u32 = 25;
const ONE_MORE_EVERY: Duration = Duration::from_mins(5);

/// Something that a person would want to know, said once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Whether it is trouble.
    pub warning: bool,
    /// CamelCase reason.
    pub reason: &'static str,
    /// For a person. Never holds a secret.
    pub message: String,
}

/// Writes Events.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
    written: Arc<Mutex<HashMap<String, Written>>>,
    metrics: Metrics,
}

/// Events of one reason about one object: how many were written of what may be, as of when.
#[derive(Debug, Clone, Copy)]
struct Written {
    count: u32,
    since: Instant,
}

impl Written {
    /// With what has become writable since.
    fn at(mut self, now: Instant) -> Self {
        while self.count > 0 && now.saturating_duration_since(self.since) >= ONE_MORE_EVERY {
            self.count -= 1;
            self.since += ONE_MORE_EVERY;
        }
        self
    }
}

/// Whether one more Event of that subject may be written.
fn may_write(written: &mut HashMap<String, Written>, subject: &str, now: Instant) -> bool {
    let known = written.get(subject).map(|known| known.at(now));
    // Of objects that are gone, nothing is kept.
    if known.is_none() && written.len() >= MAX_SUBJECTS {
        written.retain(|_, known| known.at(now).count > 0);
    }
    let known = known
        .filter(|known| known.count > 0)
        .unwrap_or(Written { count: 0, since: now });
    let may = known.count < BURST;
    let count = known.count + u32::from(may);
    written.insert(subject.to_owned(), Written { count, ..known });
    may
}

/// Of so many subjects the Events are counted before those are forgotten about which more may be written.
const MAX_SUBJECTS: usize = 4096;

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    /// Events are reported by this process.
    pub fn new(client: Client, instance: &str, metrics: Metrics) -> Self {
        let reporter = Reporter {
            controller: "machine-controller".to_owned(),
            instance: Some(instance.to_owned()),
        };
        Self {
            recorder: Recorder::new(client, reporter),
            written: Arc::default(),
            metrics,
        }
    }

    /// Writes one Event about an object of ours. Equal Events of the last minutes are counted up, not repeated. Events are for
    /// people: one that cannot be written is logged and stops nothing.
    pub async fn publish<K: Resource<DynamicType = ()>>(&self, object: &K, event: &Event) {
        let metadata = object.meta();
        let about = ObjectReference {
            api_version: Some(K::api_version(&()).into_owned()),
            kind: Some(K::kind(&()).into_owned()),
            name: metadata.name.clone(),
            namespace: metadata.namespace.clone(),
            uid: metadata.uid.clone(),
            ..ObjectReference::default()
        };
        self.record(&about, event).await;
    }

    /// Writes one Event about the cluster as a whole: about its namespace kube-system.
    pub async fn publish_about_cluster(&self, uid: &str, event: &Event) {
        let about = ObjectReference {
            uid: Some(uid.to_owned()),
            namespace: None,
            ..namespace("kube-system")
        };
        self.record(&about, event).await;
    }

    /// Writes one Event about the owner of an object of that namespace.
    pub async fn publish_about(&self, owner: &OwnerReference, namespace: &str, event: &Event) {
        let about = ObjectReference {
            api_version: Some(owner.api_version.clone()),
            kind: Some(owner.kind.clone()),
            name: Some(owner.name.clone()),
            namespace: Some(namespace.to_owned()),
            uid: Some(owner.uid.clone()),
            ..ObjectReference::default()
        };
        self.record(&about, event).await;
    }

    /// Writes one Event about a namespace, into it: `kubectl get events` shows it among those of the namespace's objects.
    pub async fn publish_about_namespace(&self, name: &str, event: &Event) {
        self.record(&namespace(name), event).await;
    }

    async fn record(&self, about: &ObjectReference, event: &Event) {
        // By reason, too: forged signing requests hide no failure.
        let about_what = about.uid.as_deref().or(about.name.as_deref());
        let subject = format!("{}/{}", about_what.unwrap_or_default(), event.reason);
        let may = may_write(&mut self.written.lock(), &subject, Instant::now());
        if !may {
            tracing::debug!(
                object = about.name,
                reason = event.reason,
                "too many Events about it; left out"
            );
            return;
        }
        let message = &event.message;
        let event = KubeEvent {
            type_: if event.warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: event.reason.to_owned(),
            note: Some(event.message.chars().take(1000).collect()),
            action: action(event),
            secondary: None,
        };
        let result = self.recorder.publish(&event, about).await;
        self.metrics.count_write("record an Event", result.is_ok());
        if let Err(error) = result {
            let error = RemoteError::from(&error);
            let ObjectReference {
                kind,
                namespace,
                name,
                uid,
                ..
            } = about;
            tracing::warn!(kind, namespace, name, uid, %error, "cannot record an Event: {message}");
        }
    }
}

/// A namespace, and Events about it in itself.
fn namespace(name: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Namespace".to_owned()),
        name: Some(name.to_owned()),
        namespace: Some(name.to_owned()),
        ..ObjectReference::default()
    }
}

/// What an Event's field `action` says. The recorder counts up what agrees in it, whatever the messages are, and shows the
/// first message only; so Events that say different things must differ in it.
fn action(event: &Event) -> String {
    let mut hasher = DefaultHasher::new();
    event.message.hash(&mut hasher);
    format!("{}-{:016x}", event.reason, hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_about_one_object_are_limited_and_those_about_another_are_not() {
        let (mut written, now) = (HashMap::new(), Instant::now());
        let count = |written: &mut HashMap<String, Written>, uid: &str, now| {
            (0..300).filter(|_| may_write(written, uid, now)).count()
        };
        assert_eq!(count(&mut written, "a", now), 25);
        assert_eq!(count(&mut written, "b", now), 25);
        assert_eq!(count(&mut written, "a", now + ONE_MORE_EVERY * 2), 2);
        assert_eq!(count(&mut written, "a", now + ONE_MORE_EVERY * 100), 25);
    }

    #[test]
    fn the_memory_of_events_does_not_grow_with_the_objects_that_there_have_been() {
        let (mut written, mut now) = (HashMap::new(), Instant::now());
        for uid in 0..20_000 {
            assert!(may_write(&mut written, &uid.to_string(), now));
            now += Duration::from_secs(1);
        }
        assert!(written.len() <= MAX_SUBJECTS);
    }

    #[test]
    fn only_events_that_say_the_same_are_counted_as_one() {
        let event = |message: &str| Event {
            warning: true,
            reason: "SigningRequestNotApproved",
            message: message.to_owned(),
        };
        assert_eq!(action(&event("a")), action(&event("a")));
        assert_ne!(action(&event("a")), action(&event("b")));
        assert!(action(&event("a")).len() <= 128, "what the API server takes");
    }
}
