//! The controller's view of the user cluster, and which Machines an event there concerns.

use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use machinist_infra::reflect::{Signal, reflect};
use machinist_infra::store::{Key, Store};
use machinist_shared::names::{self, label};
use tokio::sync::Notify;

use super::owner::MachineSetMeta;
use super::{Node, StoredMachine};
use crate::queue::Queue;

/// Namespace of bootstrap tokens.
pub const TOKEN_NAMESPACE: &str = "kube-system";

/// The controller's view of the user cluster.
#[derive(Debug)]
pub struct Stores {
    /// Machines, indexed by name and by UID.
    pub machines: Arc<Store<StoredMachine>>,
    /// Nodes.
    pub nodes: Arc<Store<Node>>,
    /// MachineSets.
    pub machine_sets: Arc<Store<MachineSetMeta>>,
    /// Our bootstrap tokens, indexed by the UID of their Machine.
    pub tokens: Arc<Store<Secret>>,
    /// Signing requests of kubelets, indexed by requester.
    pub requests: Arc<Store<CertificateSigningRequest>>,
    changed: Notify,
}

impl Default for Stores {
    fn default() -> Self {
        Self {
            machines: Arc::new(Store::new(|m: &StoredMachine| {
                vec![m.name().to_owned(), m.uid().to_owned()]
            })),
            nodes: Arc::new(Store::new(|_| Vec::new())),
            machine_sets: Arc::new(Store::new(|_| Vec::new())),
            tokens: Arc::new(Store::new(|s: &Secret| {
                s.labels().get(label::MACHINE_UID).cloned().into_iter().collect()
            })),
            requests: Arc::new(Store::new(|r: &CertificateSigningRequest| {
                r.spec.username.clone().into_iter().collect()
            })),
            changed: Notify::new(),
        }
    }
}

impl Stores {
    /// Whether all of them are complete.
    pub fn is_synced(&self) -> bool {
        self.machines.is_synced()
            && self.nodes.is_synced()
            && self.machine_sets.is_synced()
            && self.tokens.is_synced()
            && self.requests.is_synced()
    }

    /// Returns once all of them are complete.
    pub async fn synced(&self) {
        loop {
            let changed = self.changed.notified();
            if self.is_synced() {
                return;
            }
            changed.await;
        }
    }

    /// Name of the MachineDeployment above a Machine.
    pub fn machine_deployment(&self, machine: &StoredMachine) -> Option<String> {
        let set = self
            .machine_sets
            .get(&Key::new(machine.namespace(), machine.machine_set()?))?;
        set.machine_deployment().map(str::to_owned)
    }

    /// MachineSets of the Machine's MachineDeployment that are newer than its own, the newest first.
    pub fn newer_machine_sets(&self, machine: &StoredMachine) -> Vec<Arc<MachineSetMeta>> {
        let own = machine.metadata.owner_references.iter().flatten();
        let own = own.filter(|owner| owner.kind == "MachineSet").find_map(|owner| {
            let set = self
                .machine_sets
                .get(&Key::new(machine.namespace(), &owner.name))?;
            (set.metadata.uid.as_deref() == Some(&owner.uid)).then_some(set)
        });
        let Some(own) = own else { return Vec::new() };
        let Some(deployment) = own.machine_deployment_uid() else {
            return Vec::new();
        };
        let created = |set: &MachineSetMeta| set.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let mut sets = self.machine_sets.all();
        sets.retain(|set| {
            set.machine_deployment_uid() == Some(deployment)
                && set.metadata.namespace == own.metadata.namespace
                && set.metadata.uid != own.metadata.uid
                && created(set) >= created(&own)
        });
        sets.sort_by_key(|set| std::cmp::Reverse(created(set)));
        sets
    }

    /// Runs the watches; `machines` is told which Machines, `requests` which signing requests to look at.
    pub fn watches(
        self: &Arc<Self>,
        client: &Client,
        machines: &Arc<Queue<Key>>,
        requests: &Arc<Queue<Key>>,
    ) -> Vec<BoxFuture<'static, ()>> {
        let kubelet_signer = format!(
            "spec.signerName={}",
            "kubernetes.io/kube-apiserver-client-kubelet"
        );
        let token_type = format!("type={}", names::TOKEN_SECRET_TYPE);
        let by_name = |name: &str, stores: &Self, queue: &Queue<Key>| {
            for machine in stores.machines.by_index(name) {
                queue.add(Key::of(machine.as_ref()));
            }
        };
        vec![
            self.watch(
                Api::all(client.clone()),
                "",
                &self.machines,
                machines,
                |m: &StoredMachine, stores, queue| {
                    // Namesakes too: one of them may now win or lose the name.
                    for namesake in stores.machines.by_index(m.name()) {
                        queue.add(Key::of(namesake.as_ref()));
                    }
                    queue.add(Key::of(m));
                },
            ),
            self.watch(
                Api::all(client.clone()),
                "",
                &self.nodes,
                machines,
                move |node: &Node, stores, queue| {
                    by_name(node.name(), stores, queue);
                },
            ),
            self.watch(
                Api::all(client.clone()),
                "",
                &self.machine_sets,
                machines,
                |_: &MachineSetMeta, _, _| {},
            ),
            self.watch(
                Api::namespaced(client.clone(), TOKEN_NAMESPACE),
                &token_type,
                &self.tokens,
                machines,
                |token: &Secret, stores, queue| {
                    if let Some(uid) = token.labels().get(label::MACHINE_UID) {
                        for machine in stores.machines.by_index(uid) {
                            queue.add(Key::of(machine.as_ref()));
                        }
                    }
                },
            ),
            self.watch(
                Api::all(client.clone()),
                &kubelet_signer,
                &self.requests,
                requests,
                |request: &CertificateSigningRequest, _, queue| queue.add(Key::of(request)),
            ),
        ]
    }

    fn watch<K>(
        self: &Arc<Self>,
        api: Api<K>,
        fields: &str,
        store: &Arc<Store<K>>,
        queue: &Arc<Queue<Key>>,
        concerns: impl Fn(&K, &Self, &Queue<Key>) + Send + 'static,
    ) -> BoxFuture<'static, ()>
    where
        K: kube::Resource<DynamicType = ()>
            + Clone
            + serde::de::DeserializeOwned
            + std::fmt::Debug
            + Send
            + Sync
            + 'static,
    {
        let (stores, queue) = (self.clone(), queue.clone());
        let config = if fields.is_empty() {
            watcher::Config::default()
        } else {
            watcher::Config::default().fields(fields)
        };
        let on = move |signal: Signal<'_, K>| match signal {
            Signal::Changed(change) => {
                for object in change.versions() {
                    concerns(object, &stores, &queue);
                }
            }
            Signal::Synced => stores.changed.notify_waiters(),
            Signal::Failed(error) => {
                tracing::warn!(kind = %K::kind(&()), %error, "watch of the user cluster failed");
            }
        };
        Box::pin(reflect(api, config, store.clone(), on))
    }
}
