//! Probes whether an infra cluster is reachable, with one request at a time.

use std::sync::Arc;
use std::time::Duration;

use kube::Resource as _;
use kube::api::ListParams;
use tokio::task::AbortHandle;

use super::entry::Entry;
use crate::kube::breaker::{PROBE_BACKOFF, Probe};
use crate::kube::error::RemoteError;
use crate::kubevirt::objects::Vm;

/// Timeout of a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// Starts the probe task; it waits for a credential.
pub(super) fn start(entry: &Arc<Entry>) -> AbortHandle {
    tokio::spawn(probe(Arc::clone(entry))).abort_handle()
}

/// Probes a suspected cluster, and retries a broken one until it responds.
async fn probe(entry: Arc<Entry>) {
    loop {
        entry.breaker.suspected().await;
        let mut pauses = PROBE_BACKOFF.pauses();
        loop {
            match ask(&entry).await {
                Ok(()) => break,
                Err(cause) => {
                    if entry.breaker.open(cause.clone()) {
                        tracing::warn!(server = entry.key.server, namespace = entry.key.namespace, %cause, "the infra cluster does not answer");
                        entry.emit_for_all();
                    }
                }
            }
            tokio::time::sleep(pauses.after_failure()).await;
        }
        if entry.breaker.close() {
            tracing::info!(
                server = entry.key.server,
                namespace = entry.key.namespace,
                "the infra cluster answers again"
            );
            entry.emit_for_all();
        }
    }
}

/// Sends a small request. Any response counts, except that of a gateway without a backend.
async fn ask(entry: &Entry) -> Result<(), RemoteError> {
    let Some(client) = entry.probing() else {
        return Err(RemoteError::other("no Machine has a credential for it"));
    };
    let path = Vm::url_path(&(), Some(&entry.key.namespace));
    let request = kube::core::Request::new(path).list_metadata(&ListParams::default().limit(1));
    let mut request = request.map_err(|_| RemoteError::other("its URL cannot be used"))?;
    request.extensions_mut().insert(Probe);
    let request = request.map(kube::client::Body::from);
    match tokio::time::timeout(PROBE_TIMEOUT, client.send(request)).await {
        Err(_) => Err(RemoteError::other(format!("no answer within {PROBE_TIMEOUT:?}"))),
        Ok(Err(error)) => Err(RemoteError::from(&error)),
        Ok(Ok(answer)) if matches!(answer.status().as_u16(), 502..=504) => {
            Err(RemoteError::other(format!("HTTP {}", answer.status().as_u16())))
        }
        Ok(Ok(_)) => Ok(()),
    }
}
