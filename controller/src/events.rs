//! Events about our objects, for `kubectl describe`.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event as KubeEvent, EventType, Recorder, Reporter};
use kube::{Client, Resource};

use crate::machine::plan::Event;

/// Writes Events.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    /// Events are reported by this process.
    pub fn new(client: Client, instance: &str) -> Self {
        let reporter = Reporter {
            controller: "machine-controller".to_owned(),
            instance: Some(instance.to_owned()),
        };
        Self {
            recorder: Recorder::new(client, reporter),
        }
    }

    /// Writes one Event about an object of ours. Equal Events of the last minutes are counted up, not repeated.
    pub async fn publish<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        event: &Event,
    ) -> Result<(), kube::Error> {
        let metadata = object.meta();
        let about = ObjectReference {
            api_version: Some(K::api_version(&()).into_owned()),
            kind: Some(K::kind(&()).into_owned()),
            name: metadata.name.clone(),
            namespace: metadata.namespace.clone(),
            uid: metadata.uid.clone(),
            ..ObjectReference::default()
        };
        self.record(&about, event).await
    }

    /// Writes one Event about the cluster as a whole: about its namespace kube-system.
    pub async fn publish_about_cluster(&self, uid: &str, event: &Event) -> Result<(), kube::Error> {
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Namespace".to_owned()),
            name: Some("kube-system".to_owned()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        };
        self.record(&about, event).await
    }

    async fn record(&self, about: &ObjectReference, event: &Event) -> Result<(), kube::Error> {
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
        self.recorder.publish(&event, about).await
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
