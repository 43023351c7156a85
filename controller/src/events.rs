//! Events about Machines, for `kubectl describe`.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event as KubeEvent, EventType, Recorder, Reporter};
use machinist_shared::names;

use crate::machine::plan::Event;
use crate::user::StoredMachine;

/// Writes Events about Machines.
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

    /// Writes one Event about a Machine. Equal Events of the last minutes are counted up, not repeated.
    pub async fn publish(&self, machine: &StoredMachine, event: &Event) -> Result<(), kube::Error> {
        let about = ObjectReference {
            api_version: Some(names::API_VERSION.to_owned()),
            kind: Some("Machine".to_owned()),
            name: machine.metadata.name.clone(),
            namespace: machine.metadata.namespace.clone(),
            uid: machine.metadata.uid.clone(),
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
