//! What is watched: two Secrets and two webhook configurations, each by its name.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, Resource};
use machinist_infra::cache::reflect::{Signal, reflect};
use machinist_infra::cache::store::{Key, Store};
use machinist_infra::cache::watch::Selector;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use super::Settings;

/// The objects, as the watches show them.
pub(super) struct Stores {
    pub(super) authority: Arc<Store<Secret>>,
    pub(super) serving: Arc<Store<Secret>>,
    pub(super) mutating: Arc<Store<MutatingWebhookConfiguration>>,
    pub(super) validating: Arc<Store<ValidatingWebhookConfiguration>>,
    /// Notified whenever one of them changes.
    pub(super) changed: Notify,
}

impl Stores {
    pub(super) fn new() -> Self {
        Self {
            authority: store(),
            serving: store(),
            mutating: store(),
            validating: store(),
            changed: Notify::new(),
        }
    }

    /// Watches for as long as it is polled.
    pub(super) async fn watch(&self, client: &Client, settings: &Settings) {
        let namespace = &settings.serving.namespace;
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        tokio::join!(
            self.follow(secrets.clone(), &settings.authority, &self.authority),
            self.follow(secrets, &settings.serving.name, &self.serving),
            self.follow(Api::all(client.clone()), &settings.configuration, &self.mutating),
            self.follow(
                Api::all(client.clone()),
                &settings.configuration,
                &self.validating
            ),
        );
    }

    async fn follow<K>(&self, api: Api<K>, name: &str, store: &Arc<Store<K>>)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync,
    {
        let config = Selector::default().fields(&format!("metadata.name={name}"));
        let on = |signal: Signal<'_, K>| match signal {
            Signal::Failed(error) => {
                let kind = K::kind(&());
                tracing::warn!(%kind, name, %error, "cannot watch what the webhook's certificate depends on");
            }
            Signal::Changed(_) | Signal::Synced | Signal::Restored => self.changed.notify_one(),
        };
        reflect(api, config, store.clone(), on).await;
    }

    /// Returns once all of them are known.
    pub(super) async fn synced(&self) {
        loop {
            let changed = self.changed.notified();
            if self.authority.is_synced()
                && self.serving.is_synced()
                && self.mutating.is_synced()
                && self.validating.is_synced()
            {
                return;
            }
            changed.await;
        }
    }
}

fn store<K: Resource<DynamicType = ()> + Clone>() -> Arc<Store<K>> {
    Arc::new(Store::new(|_: &K| Vec::new()))
}

/// The Secret of that name.
pub(super) fn secret(store: &Store<Secret>, namespace: &str, name: &str) -> Option<Arc<Secret>> {
    store.get(&Key::new(namespace, name))
}

/// The configuration of that name.
pub(super) fn configuration<K>(store: &Store<K>, name: &str) -> Option<Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone,
{
    store.get(&Key::new("", name))
}
