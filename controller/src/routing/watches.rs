//! The watches of the user cluster, each with what its events enqueue.

use std::sync::Arc;

use futures::future::BoxFuture;
use kube::{Api, Client};
use machinist_infra::cache::reflect::{Signal, reflect};
use machinist_infra::cache::store::{Change, Key, Store};
use machinist_infra::cache::watch::Selector;
use machinist_shared::api::names;
use tokio::sync::Notify;

use super::{machine, machine_deployment, machine_set, node, request, token};
use crate::cache::{StoredMachine, Stores, TOKEN_NAMESPACE};
use crate::csr::{client as client_requests, serving};
use crate::runtime::queue::Queues;

/// Runs the watches; `queues` get the keys of what is to be reconciled.
pub fn watches(stores: &Arc<Stores>, client: &Client, queues: &Queues) -> Vec<BoxFuture<'static, ()>> {
    let of_signer = |signer: &str| format!("spec.signerName={signer}");
    let routes = Routes { stores, queues };
    let all = || client.clone();
    let requests = of_signer(client_requests::SIGNER);
    let mut watches = vec![
        routes.watch(Api::all(all()), "", &stores.nodes, each(node::enqueue)),
        routes.watch(
            Api::all(all()),
            &requests,
            &stores.requests,
            each(request::enqueue),
        ),
    ];
    if stores.approver_only {
        watches.push(routes.watch(Api::all(all()), "", &stores.machines, each(machine::enqueue)));
        return watches;
    }
    let tokens = Api::namespaced(all(), TOKEN_NAMESPACE);
    let token_type = format!("type={}", names::TOKEN_SECRET_TYPE);
    let serving = of_signer(serving::SIGNER);
    watches.extend([
        routes.watch(Api::all(all()), "", &stores.machines, |change, stores, queues| {
            // An API server that was restored from a backup lists fewer, and no client has deleted those.
            let reported =
                |machine: &Arc<StoredMachine>| stores.machines.saw_deletion(&Key::of(machine.as_ref()));
            let reported = change.before.as_ref().is_some_and(reported);
            stores.tombstones.note(change, reported, stores.clock.now());
            each(machine::enqueue)(change, stores, queues);
        }),
        routes.watch(
            Api::all(all()),
            "",
            &stores.attachments,
            each(node::enqueue_attached),
        ),
        routes.watch(
            Api::all(all()),
            "",
            &stores.machine_sets,
            each(machine_set::enqueue),
        ),
        routes.watch(
            Api::all(all()),
            "",
            &stores.machine_deployments,
            each(machine_deployment::enqueue),
        ),
        routes.watch(tokens, &token_type, &stores.tokens, each(token::enqueue)),
        routes.watch(
            Api::all(all()),
            &serving,
            &stores.serving,
            each(request::enqueue_serving),
        ),
    ]);
    watches
}

struct Routes<'a> {
    stores: &'a Arc<Stores>,
    queues: &'a Queues,
}

impl Routes<'_> {
    fn watch<K>(
        &self,
        api: Api<K>,
        fields: &str,
        store: &Arc<Store<K>>,
        enqueue: impl Fn(&Change<K>, &Stores, &Queues) + Send + 'static,
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
        let (stores, queues) = (self.stores.clone(), self.queues.clone());
        let config = if fields.is_empty() {
            Selector::default()
        } else {
            Selector::default().fields(fields)
        };
        let restored = Arc::new(Notify::new());
        let noticed = restored.clone();
        let on = move |signal: Signal<'_, K>| match signal {
            Signal::Changed(change) => enqueue(change, &stores, &queues),
            Signal::Synced => stores.changed.notify_waiters(),
            Signal::Restored => noticed.notify_one(),
            Signal::Failed(error) => {
                tracing::warn!(kind = %K::kind(&()), %error, "watch of the user cluster failed");
            }
        };
        let store = store.clone();
        Box::pin(async move {
            tokio::select! {
                () = reflect(api, config, store, on) => {}
                // What is in memory, here and everywhere else, may never have been. The process ends with this, and its
                // successor knows nothing of it.
                () = restored.notified() => {}
            }
        })
    }
}

/// What a change enqueues, if that is what either version of the object does.
fn each<K: 'static>(
    enqueue: fn(&K, &Stores, &Queues),
) -> impl Fn(&Change<K>, &Stores, &Queues) + Send + 'static {
    move |change, stores, queues| {
        for object in change.versions() {
            enqueue(object, stores, queues);
        }
    }
}
