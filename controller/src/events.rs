//! Events about our objects, for `kubectl describe`.

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
        let event = KubeEvent {
            type_: if event.warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: event.reason.to_owned(),
            note: Some(event.message.chars().take(1000).collect()),
            action: event.reason.to_owned(),
            secondary: None,
        };
        self.recorder.publish(&event, &about).await
    }
}
