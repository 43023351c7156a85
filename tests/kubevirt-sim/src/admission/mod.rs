//! virt-api's admission webhooks: served over TLS on loopback and registered by URL, so that the API server
//! calls them as it would call KubeVirt's.

mod dns;
mod matchers;
pub mod mutate;
pub mod validate;

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::routing::post;
use axum::{Json, Router};
use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use thiserror::Error;

use crate::instancetype;
use crate::objects::{Kind, object};
use crate::world::World;

/// Why the webhooks do not work.
#[derive(Debug, Error)]
pub enum AdmissionError {
    /// The listener cannot be opened.
    #[error("cannot listen on {0} for admission reviews: {1}")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// The serving certificate cannot be made.
    #[error("cannot make the webhook's certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// rustls does not accept it.
    #[error("cannot serve TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The registration was refused.
    #[error("cannot register the admission webhooks: {0}")]
    Register(#[from] kube::Error),
    /// The API server did not call them.
    #[error("the API server does not ask the admission webhooks at {0}: {1}")]
    Unused(SocketAddr, String),
}

/// The running webhooks.
pub struct Admission {
    handle: Handle<SocketAddr>,
    client: Client,
    name: String,
    address: SocketAddr,
}

impl Admission {
    /// Serves, registers, and returns when the API server calls the webhooks.
    pub async fn start(
        client: Client,
        namespace: &str,
        listen: SocketAddr,
        world: Arc<Mutex<World>>,
    ) -> Result<Self, AdmissionError> {
        let failed = |error| AdmissionError::Listen(listen, error);
        let listener = TcpListener::bind(listen).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (config, ca) = certificate(address)?;
        let handle = Handle::new();
        let mutate = post(|Json(review): Json<Value>| async move { Json(mutated(&review)) });
        let validate = post(move |Json(review): Json<Value>| async move { Json(validated(&review, &world)) });
        let router = Router::new()
            .route("/mutate", mutate)
            .route("/validate", validate);
        let server = axum_server::from_tcp_rustls(listener, config)
            .map_err(failed)?
            .handle(handle.clone());
        tokio::spawn(server.serve(router.into_make_service()));
        let admission = Self {
            handle,
            client,
            name: format!("virt-api-{namespace}"),
            address,
        };
        admission.register(namespace, &ca).await?;
        admission.await_use(namespace).await?;
        Ok(admission)
    }

    /// Deletes the registration, then stops the server.
    pub async fn stop(self) {
        let params = DeleteParams::default();
        let mutating: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let validating: Api<ValidatingWebhookConfiguration> = Api::all(self.client.clone());
        if let Err(error) = mutating.delete(&self.name, &params).await {
            tracing::warn!(%error, "the mutating webhook stays registered");
        }
        if let Err(error) = validating.delete(&self.name, &params).await {
            tracing::warn!(%error, "the validating webhook stays registered");
        }
        self.handle.graceful_shutdown(Some(Duration::from_secs(1)));
    }

    async fn register(&self, namespace: &str, ca: &str) -> Result<(), AdmissionError> {
        let webhook = |name: &str, path: &str, operations: &[&str]| {
            json!({
                "name": name,
                "clientConfig": {"url": format!("https://{}/{path}", self.address), "caBundle": STANDARD.encode(ca)},
                "rules": [{
                    "apiGroups": ["kubevirt.io"], "apiVersions": ["v1"], "resources": ["virtualmachines"],
                    "operations": operations, "scope": "Namespaced",
                }],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                // Both look at the spec alone; finalizers and annotations change more often.
                "matchConditions": [{
                    "name": "spec-changes",
                    "expression": "request.operation == 'CREATE' || object.spec != oldObject.spec",
                }],
                "failurePolicy": "Fail", "sideEffects": "None", "admissionReviewVersions": ["v1"],
                "timeoutSeconds": 10,
            })
        };
        let configuration = |kind: &str, webhook: Value| {
            json!({
                "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
                "metadata": {"name": self.name}, "webhooks": [webhook],
            })
        };
        let params = PatchParams::apply("kubevirt-sim").force();
        let mutating: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let hook = webhook(
            "virtualmachines-mutator.kubevirt.io",
            "mutate",
            &["CREATE", "UPDATE"],
        );
        let hook = configuration("MutatingWebhookConfiguration", hook);
        mutating.patch(&self.name, &params, &Patch::Apply(hook)).await?;
        let validating: Api<ValidatingWebhookConfiguration> = Api::all(self.client.clone());
        let hook = webhook(
            "virtualmachine-validator.kubevirt.io",
            "validate",
            &["CREATE", "UPDATE"],
        );
        let hook = configuration("ValidatingWebhookConfiguration", hook);
        validating.patch(&self.name, &params, &Patch::Apply(hook)).await?;
        Ok(())
    }

    /// The API server takes a moment to load a new webhook: sends dry runs of a VM that the validator refuses until they are
    /// refused.
    async fn await_use(&self, namespace: &str) -> Result<(), AdmissionError> {
        let probe = object(
            Kind::Vm,
            "admission-probe",
            json!({"spec": {"template": {"spec": {"domain": {"devices": {}}}}}}),
        );
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), namespace, &Kind::Vm.resource());
        let params = PostParams {
            dry_run: true,
            field_manager: None,
        };
        let mut last = "it was never asked".to_owned();
        for _ in 0..300 {
            match api.create(&params, &probe).await {
                Err(kube::Error::Api(status))
                    if status.message.contains("virtualmachine-validator") && status.code == 422 =>
                {
                    return Ok(());
                }
                Err(error) => last = error.to_string(),
                Ok(_) => "a VM without run strategy was admitted".clone_into(&mut last),
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        Err(AdmissionError::Unused(self.address, last))
    }
}

/// A serving certificate for the address, and the PEM of the CA that signed it.
fn certificate(address: SocketAddr) -> Result<(RustlsConfig, String), AdmissionError> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new(vec![address.ip().to_string()])?.signed_by(&key, &ca)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((RustlsConfig::from_config(Arc::new(config)), ca.pem()))
}

fn answer(review: &Value, mut response: Value) -> Value {
    response["uid"] = review["request"]["uid"].clone();
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}

fn mutated(review: &Value) -> Value {
    let vm = &review["request"]["object"];
    if let Some(message) = validate::undecodable(vm) {
        return answer(
            review,
            json!({"allowed": false, "status": {"code": 400, "message": message}}),
        );
    }
    if review["request"]["operation"] != "CREATE" {
        return answer(review, json!({"allowed": true}));
    }
    let after = mutate::with_defaults(vm, &mutate::random_uuid(), &mutate::random_uuid());
    // A list of operations made of two JSON values is JSON itself.
    let patch = serde_json::to_vec(&json_patch::diff(vm, &after)).unwrap_or_default();
    let response = json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(patch)});
    answer(review, response)
}

fn validated(review: &Value, world: &Mutex<World>) -> Value {
    let vm = &review["request"]["object"];
    let untouched = vm["spec"] == review["request"]["oldObject"]["spec"];
    if untouched || vm.pointer("/metadata/deletionTimestamp").is_some() {
        return answer(review, json!({"allowed": true}));
    }
    let found = match serde_json::from_value::<DynamicObject>(vm.clone()) {
        // An unknown instancetype is admitted; the VM fails later.
        Ok(vm) => instancetype::find(&crate::lock(world), &vm).unwrap_or_default(),
        Err(_) => instancetype::Found::default(),
    };
    let causes = validate::causes(vm, &found);
    if causes.is_empty() {
        return answer(review, json!({"allowed": true}));
    }
    let messages: Vec<&str> = causes.iter().map(|cause| cause.message.as_str()).collect();
    let causes: Vec<Value> = causes.iter().map(validate::Cause::json).collect();
    let status = json!({
        "code": 422, "reason": "Invalid", "message": messages.join(", "), "details": {"causes": causes},
    });
    answer(review, json!({"allowed": false, "status": status}))
}
