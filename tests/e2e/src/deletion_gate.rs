//! A gate inside the API server: an admission webhook of the test that blocks the deletion of Machines. The API server calls
//! it after it has checked for finalizers and before it removes the object.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use kube::api::DeleteParams;
use machinist_certs::{CertificateFiles, Clients, CurrentCertificate, Identity, MinimumTls, server_config};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use crate::Case;

/// Reviews every deletion of a Machine, until it is dropped.
pub struct Gate {
    door: Arc<GateState>,
    server: Handle<std::net::SocketAddr>,
}

struct GateState {
    open: watch::Sender<bool>,
    asked: Mutex<Vec<Value>>,
    came: Notify,
}

impl Gate {
    /// Installs a closed gate for the deletion of Machines. Uses the given Machine to see when it is active.
    pub async fn close(case: &Case, machine: &str) -> Result<Self> {
        let door = Arc::new(GateState {
            open: watch::Sender::new(true),
            asked: Mutex::default(),
            came: Notify::new(),
        });
        let certs = case.bed.webhook_cert_dir();
        let files = CertificateFiles::new(certs.join("tls.crt"), certs.join("tls.key"));
        let identity = Identity::load(&files, SystemTime::now())?;
        let tls = server_config(
            Arc::new(CurrentCertificate::new(identity)),
            MinimumTls::default(),
            Clients::Any,
        )?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let server = Handle::new();
        let router = Router::new().route("/", post(ask)).with_state(Arc::clone(&door));
        tokio::spawn(
            axum_server::from_tcp_rustls(listener, RustlsConfig::from_config(tls))?
                .handle(server.clone())
                .serve(router.into_make_service()),
        );
        let gate = Self { door, server };
        case.apply(&json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "gate"},
            "webhooks": [{
                "name": "gate.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "failurePolicy": "Fail", "timeoutSeconds": 30,
                "clientConfig": {"url": format!("https://{address}/"), "caBundle": case.bed.webhook_ca().base64()},
                "rules": [{
                    "apiGroups": ["cluster.k8s.io"], "apiVersions": ["*"], "operations": ["DELETE"],
                    "resources": ["machines"],
                }],
            }],
        }))
        .await?;
        // The API server takes a moment to load the configuration, and reports that nowhere.
        let probe = DeleteParams {
            dry_run: true,
            ..DeleteParams::default()
        };
        while gate.door.asked().is_empty() {
            case.machines().delete(machine, &probe).await?;
        }
        gate.door.asked().clear();
        gate.door.open.send_replace(false);
        Ok(gate)
    }

    /// Admits every deletion from now on, and those that wait.
    pub fn open(&self) {
        self.door.open.send_replace(true);
    }

    /// Waits for review number `count`, and returns it.
    pub async fn asked(&self, count: usize) -> Result<Value> {
        let asked = async {
            loop {
                let came = self.door.came.notified();
                if let Some(review) = self.door.asked().get(count - 1) {
                    return review.clone();
                }
                came.await;
            }
        };
        tokio::time::timeout(crate::case::WAIT_TIMEOUT, asked)
            .await
            .with_context(|| format!("there was no review number {count}"))
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
        self.server.shutdown();
    }
}

impl GateState {
    fn asked(&self) -> std::sync::MutexGuard<'_, Vec<Value>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask(State(door): State<Arc<GateState>>, Json(review): Json<Value>) -> Json<Value> {
    let answer = json!({
        "apiVersion": review["apiVersion"], "kind": review["kind"],
        "response": {"uid": review["request"]["uid"], "allowed": true},
    });
    door.asked().push(review);
    door.came.notify_waiters();
    let mut open = door.open.subscribe();
    // The sender lives as long as the gate's state.
    let _ = open.wait_for(|open| *open).await;
    Json(answer)
}
