//! The writes. A Secret is written in the version that was seen, and only if it is ours; of the webhook configurations nothing but
//! `caBundle`, of webhooks that are there, as a field of our own (server-side apply).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Resource, ResourceExt as _};
use machinist_certs::rotation::{Action, Cause};
use machinist_certs::{Authority, AuthorityError, Root, bundle_pem};
use machinist_infra::cache::store::Store;
use machinist_infra::kube::error::RemoteError;
use machinist_shared::api::names::{self, annotation, label};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Keeper, stores};
use crate::telemetry::events::Event;

/// Why a write failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    /// The API server did not take it.
    #[error("{0}")]
    Request(#[from] RemoteError),
    /// No certificate could be made.
    #[error("{0}")]
    Make(#[from] AuthorityError),
    /// The CA's Secret is gone meanwhile.
    #[error("the CA is gone")]
    Gone,
}

impl From<kube::Error> for WriteError {
    fn from(error: kube::Error) -> Self {
        Self::Request(RemoteError::from(&error))
    }
}

impl Keeper {
    pub(super) async fn write(&self, action: &Action) -> Result<(), WriteError> {
        match action {
            Action::NewAuthority(cause) => self.new_authority(cause).await,
            Action::Trust(roots) => self.trust(roots).await,
            Action::Issue(cause) => self.issue(cause).await,
        }
    }

    async fn new_authority(&self, cause: &Cause) -> Result<(), WriteError> {
        let (settings, now) = (&self.settings, SystemTime::now());
        let made_at = jiff::Timestamp::try_from(now).unwrap_or_default();
        let name = format!("machinist-webhook-ca {made_at:.0}");
        let authority = Authority::new(&name, now, settings.policy.authority_lifetime)?;
        let data = [("tls.crt", authority.root().pem()), ("tls.key", authority.key())];
        self.put(
            &self.stores.authority,
            &settings.authority,
            label::CERTIFICATE_AUTHORITY,
            data,
        )
        .await?;
        let message = format!("made a new CA for the webhook, because {cause}");
        tracing::info!(secret = settings.authority, ca = name, %cause, "made a new CA for the webhook");
        self.event(&settings.authority, false, "WebhookCAMade", message)
            .await;
        Ok(())
    }

    async fn issue(&self, cause: &Cause) -> Result<(), WriteError> {
        let (settings, policy) = (&self.settings, &self.settings.policy);
        let secret = stores::secret(
            &self.stores.authority,
            &settings.serving.namespace,
            &settings.authority,
        );
        let data = secret
            .and_then(|secret| secret.data.clone())
            .ok_or(WriteError::Gone)?;
        let part = |key: &str| data.get(key).map(|bytes| bytes.0.as_slice()).unwrap_or_default();
        let authority = Authority::from_pem(part("tls.crt"), part("tls.key"))?;
        let names: Vec<&str> = policy.names.iter().map(String::as_str).collect();
        let leaf = authority.issue(&names, SystemTime::now(), policy.leaf_lifetime)?;
        let ca = authority.root().name();
        let data = [
            ("tls.crt", leaf.certificate),
            ("tls.key", leaf.key),
            ("ca.crt", authority.root().pem()),
        ];
        self.put(
            &self.stores.serving,
            &settings.serving.name,
            label::CERTIFICATE_SERVING,
            data,
        )
        .await?;
        let message = format!("issued a new certificate for the webhook, because {cause}");
        tracing::info!(secret = %settings.serving, ca, %cause, "issued a new certificate for the webhook");
        self.event(&settings.serving.name, false, "WebhookCertificateIssued", message)
            .await;
        Ok(())
    }

    async fn trust(&self, roots: &BTreeSet<Root>) -> Result<(), WriteError> {
        let bundle = STANDARD.encode(bundle_pem(roots));
        let stores = &self.stores;
        let of = |name: &String| webhook(name, &bundle);
        self.apply(&stores.mutating, |found: &MutatingWebhookConfiguration| {
            found
                .webhooks
                .iter()
                .flatten()
                .map(|webhook| of(&webhook.name))
                .collect()
        })
        .await?;
        self.apply(&stores.validating, |found: &ValidatingWebhookConfiguration| {
            found
                .webhooks
                .iter()
                .flatten()
                .map(|webhook| of(&webhook.name))
                .collect()
        })
        .await?;
        let trusted: Vec<_> = roots.iter().map(Root::name).collect();
        tracing::info!(?trusted, "the webhook configurations trust these CAs");
        Ok(())
    }

    /// Writes the fields of the webhooks that are there. An entry that is not would be made, and lack all else.
    async fn apply<K>(&self, store: &Store<K>, webhooks: impl Fn(&K) -> Vec<Value>) -> Result<(), WriteError>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
    {
        let name = &self.settings.configuration;
        let Some(found) = stores::configuration(store, name) else {
            return Ok(());
        };
        let webhooks = webhooks(&found);
        if webhooks.is_empty() {
            return Ok(());
        }
        let patch = json!({
            "apiVersion": K::api_version(&()), "kind": K::kind(&()),
            // Of that UID or none: what is not there is not made.
            "metadata": {"name": name, "uid": found.uid()},
            "webhooks": webhooks,
        });
        let params = PatchParams::apply(names::CA_BUNDLE_MANAGER).force();
        let api: Api<K> = Api::all(self.hands.client.clone());
        store.written(api.patch(name, &params, &Patch::Apply(patch)).await?);
        Ok(())
    }

    /// Writes a Secret of ours. What others have put on it stays.
    async fn put<const N: usize>(
        &self,
        store: &Store<Secret>,
        name: &str,
        role: &str,
        data: [(&str, String); N],
    ) -> Result<(), WriteError> {
        let namespace = &self.settings.serving.namespace;
        let api: Api<Secret> = Api::namespaced(self.hands.client.clone(), namespace);
        let data = data
            .map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes())))
            .into();
        let params = PostParams::default();
        let written = if let Some(found) = stores::secret(store, namespace, name) {
            api.replace(name, &params, &renewed(&found, data)).await?
        } else {
            let owner = stores::configuration(&self.stores.mutating, &self.settings.configuration);
            let secret = made(name, role, owner.as_deref(), data);
            api.create(&params, &secret).await?
        };
        store.written(written);
        Ok(())
    }

    /// Reports a Secret of ours.
    pub(super) async fn event(&self, secret: &str, warning: bool, reason: &'static str, message: String) {
        let namespace = &self.settings.serving.namespace;
        let stores = [&self.stores.authority, &self.stores.serving];
        let found = stores
            .into_iter()
            .find_map(|store| stores::secret(store, namespace, secret));
        let Some(about) = found.map(Arc::unwrap_or_clone) else {
            return;
        };
        let event = Event {
            warning,
            reason,
            message,
        };
        self.hands.events.publish(&about, &event).await;
    }
}

fn webhook(name: &str, bundle: &str) -> Value {
    json!({"name": name, "clientConfig": {"caBundle": bundle}})
}

fn renewed(found: &Secret, data: BTreeMap<String, ByteString>) -> Secret {
    let mut secret = found.clone();
    secret.annotations_mut().remove(annotation::ROTATE);
    secret.data = Some(data);
    secret
}

/// A new one. It goes with the webhook configuration, so that nothing is left of a release that is uninstalled.
fn made(
    name: &str,
    role: &str,
    owner: Option<&MutatingWebhookConfiguration>,
    data: BTreeMap<String, ByteString>,
) -> Secret {
    let owner = owner.and_then(|owner| {
        Some(OwnerReference {
            api_version: MutatingWebhookConfiguration::api_version(&()).into_owned(),
            kind: MutatingWebhookConfiguration::kind(&()).into_owned(),
            name: owner.metadata.name.clone()?,
            uid: owner.metadata.uid.clone()?,
            ..OwnerReference::default()
        })
    });
    let labels = [
        (label::CERTIFICATE, role),
        ("app.kubernetes.io/name", "machinist"),
        ("app.kubernetes.io/managed-by", names::CONTROLLER),
    ];
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(
                labels
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
            ),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(data),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_put_on_a_secret_stays_and_the_wish_for_another_goes() {
        let found = json!({
            "metadata": {
                "name": "s", "resourceVersion": "7", "labels": {"a": "b"},
                "annotations": {"machinist.dev/rotate": "", "c": "d"},
            },
            "type": "kubernetes.io/tls", "data": {"tls.crt": "b2xk"},
        });
        let found = serde_json::from_value(found).unwrap();
        let data = BTreeMap::from([("tls.crt".to_owned(), ByteString(b"new".to_vec()))]);
        let want = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "s", "resourceVersion": "7", "labels": {"a": "b"}, "annotations": {"c": "d"}},
            "type": "kubernetes.io/tls", "data": {"tls.crt": "bmV3"},
        });
        assert_eq!(serde_json::to_value(renewed(&found, data)).unwrap(), want);
    }

    #[test]
    fn a_new_secret_says_whose_it_is_and_goes_with_the_release() {
        let owner = json!({"metadata": {"name": "machinist", "uid": "u"}, "webhooks": []});
        let owner = serde_json::from_value(owner).unwrap();
        let want = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "data": {},
            "metadata": {
                "name": "s",
                "labels": {
                    "machinist.dev/certificate": "serving", "app.kubernetes.io/name": "machinist",
                    "app.kubernetes.io/managed-by": "machinist-controller",
                },
                "ownerReferences": [{
                    "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
                    "name": "machinist", "uid": "u",
                }],
            },
        });
        let made = made("s", label::CERTIFICATE_SERVING, Some(&owner), BTreeMap::new());
        assert_eq!(serde_json::to_value(made).unwrap(), want);
    }
}
