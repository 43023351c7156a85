//! What is there.

use std::time::SystemTime;

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::WebhookClientConfig;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use machinist_certs::Bundle;
use machinist_certs::rotation::{Observed, RotationState, SecretState, Serving, Signer, in_transition};
use machinist_shared::api::names::{annotation, label};

use super::{Keeper, stores};

impl Keeper {
    /// All that the decision depends on. Replicas are asked only while it matters what they serve.
    pub(super) async fn snapshot(&self, memory: &mut RotationState) -> Observed {
        self.stores.synced().await;
        let (settings, stores) = (&self.settings, &self.stores);
        let namespace = &settings.serving.namespace;
        let now = SystemTime::now();
        let signer = stores::secret(&stores.authority, namespace, &settings.authority);
        let signer = signer.map_or(SecretState::Absent, |secret| signer_of(&secret));
        let serving = stores::secret(&stores.serving, namespace, &settings.serving.name);
        let serving = serving.map_or(SecretState::Absent, |secret| {
            serving_of(&secret, &settings.serving.to_string(), now)
        });
        let bundles = self.bundles();
        let since = memory.note(&signer, &serving, &bundles, now);
        let replicas = if in_transition(&signer, &serving, &bundles, now) {
            settings.replicas.ask(&self.hands.client, settings).await
        } else {
            None
        };
        Observed {
            now,
            signer,
            serving,
            bundles,
            replicas,
            since,
        }
    }

    fn bundles(&self) -> Vec<Bundle> {
        let name = &self.settings.configuration;
        let mut bundles = Vec::new();
        if let Some(found) = stores::configuration(&self.stores.mutating, name) {
            let webhooks = found.webhooks.iter().flatten();
            bundles.extend(webhooks.map(|webhook| bundle(&webhook.client_config)));
        }
        if let Some(found) = stores::configuration(&self.stores.validating, name) {
            let webhooks = found.webhooks.iter().flatten();
            bundles.extend(webhooks.map(|webhook| bundle(&webhook.client_config)));
        }
        bundles
    }
}

fn bundle(config: &WebhookClientConfig) -> Bundle {
    let pem = config.ca_bundle.as_ref().map(|bytes| bytes.0.as_slice());
    Bundle::from_pem(pem.unwrap_or_default())
}

fn signer_of(secret: &Secret) -> SecretState<Signer> {
    if !is_ours(secret, label::CERTIFICATE_AUTHORITY) {
        return SecretState::Foreign;
    }
    Signer::read(
        data(secret, "tls.crt"),
        data(secret, "tls.key"),
        wants_another(secret),
    )
}

fn serving_of(secret: &Secret, name: &str, now: SystemTime) -> SecretState<Serving> {
    if !is_ours(secret, label::CERTIFICATE_SERVING) {
        return SecretState::Foreign;
    }
    let data = ["tls.crt", "tls.key", "ca.crt"].map(|key| data(secret, key));
    Serving::read(name, data, wants_another(secret), now)
}

fn is_ours(secret: &Secret, role: &str) -> bool {
    secret
        .labels()
        .get(label::CERTIFICATE)
        .is_some_and(|value| value == role)
}

fn wants_another(secret: &Secret) -> bool {
    secret.annotations().contains_key(annotation::ROTATE)
}

fn data<'a>(secret: &'a Secret, key: &str) -> &'a [u8] {
    let found = secret.data.as_ref().and_then(|data| data.get(key));
    found
        .map(|ByteString(bytes)| bytes.as_slice())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn secret(labels: &Value, annotations: &Value) -> Secret {
        let secret = json!({"metadata": {"labels": labels, "annotations": annotations}});
        serde_json::from_value(secret).unwrap()
    }

    #[rstest]
    #[case::without_a_label(json!({}), true)]
    #[case::with_the_label_of_the_other(json!({"machinist.dev/certificate": "serving"}), true)]
    #[case::with_ours(json!({"machinist.dev/certificate": "authority"}), false)]
    fn a_secret_without_our_label_is_foreign_(#[case] labels: Value, #[case] foreign: bool) {
        let found = signer_of(&secret(&labels, &json!({})));
        assert_eq!(found == SecretState::Foreign, foreign, "{found:?}");
    }

    #[test]
    fn an_empty_secret_of_ours_is_to_be_filled() {
        let found = serving_of(
            &secret(&json!({"machinist.dev/certificate": "serving"}), &json!({})),
            "a/b",
            SystemTime::now(),
        );
        let SecretState::Unusable(why) = found else {
            panic!("{found:?}")
        };
        assert!(
            why.starts_with("tls.crt of the Secret a/b contains no certificate"),
            "{why}"
        );
    }

    #[test]
    fn the_annotation_asks_for_another_whatever_its_text() {
        assert!(wants_another(&secret(
            &json!({}),
            &json!({"machinist.dev/rotate": ""})
        )));
        assert!(!wants_another(&secret(&json!({}), &json!({"other": ""}))));
    }
}
