//! Checks whether a credential works for an infra cluster, and what it may watch.

use std::sync::Arc;
use std::time::Duration;

use kube::api::{ListParams, WatchParams};
use kube::{Api, Client};
use tokio::task::AbortHandle;

use super::credential::{Credential, CredentialState};
use super::entry::{Entry, SyncState};
use super::kind::{Kind, Missing};
use crate::backoff::{Backoff, Jitter};
use crate::kube::client::infra_client_through;
use crate::kube::error::{RemoteError, is_forbidden};
use crate::kubevirt::objects::{Cached, Claim, DataVolume, Vm, Vmi};

/// Pauses before a refused credential is tried again.
const RETRY_BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(500),
    longest: Duration::from_secs(30),
};

/// Starts the check.
pub(super) fn start(entry: &Arc<Entry>, credential: &Arc<Credential>) -> AbortHandle {
    tokio::spawn(check(Arc::clone(entry), Arc::clone(credential))).abort_handle()
}

/// Checks whether a credential works, and again after each rejected request, until it is no longer used.
async fn check(entry: Arc<Entry>, credential: Arc<Credential>) {
    let client =
        match infra_client_through(&credential.kubeconfig, &entry.options.client, &entry.breaker).await {
            Ok(client) => client,
            Err(error) => {
                credential.set_state(CredentialState::Refused(RemoteError::other(error.to_string())));
                entry.emit_for_credential(&credential);
                return;
            }
        };
    credential.has_client(client.clone());
    entry.credentials_changed();
    let mut pauses = RETRY_BACKOFF.pauses();
    loop {
        entry.breaker.closed().await;
        let (state, wait) = match rights(&entry, &client).await {
            Ok(missing) if missing.is_empty() => (CredentialState::Works(Arc::new(missing)), None),
            Ok(missing) => (
                CredentialState::Works(Arc::new(missing)),
                Some(Jitter::default().spread(entry.options.poll_interval)),
            ),
            Err(error) if error.is_unanswered() => {
                // The breaker has recorded the failure; its own probe reports whether the cluster is broken.
                tokio::time::sleep(RETRY_BACKOFF.first).await;
                continue;
            }
            Err(error) => (CredentialState::Refused(error), Some(pauses.after_failure())),
        };
        if let CredentialState::Works(_) = state {
            pauses.reset();
            entry.learn_namespace(&client).await;
        }
        if credential.set_state(state.clone()) {
            let tells = match &state {
                // Its stores are not complete yet; all its Machines are notified when they are.
                CredentialState::Works(missing) => entry.sync_state(missing) != SyncState::Syncing,
                _ => true,
            };
            match state {
                CredentialState::Refused(error) => {
                    tracing::warn!(server = entry.key.server, namespace = entry.key.namespace, %error, "an infra cluster rejects a credential");
                }
                CredentialState::Works(missing) if !missing.is_empty() => {
                    tracing::warn!(server = entry.key.server, namespace = entry.key.namespace, %missing, "a credential lacks the permission to watch");
                }
                _ => tracing::info!(
                    server = entry.key.server,
                    namespace = entry.key.namespace,
                    "a credential works"
                ),
            }
            if tells {
                entry.emit_for_credential(&credential);
            } else {
                entry.credentials_changed();
            }
        }
        let doubted = credential.doubted.notified();
        match wait {
            None => doubted.await,
            Some(wait) => {
                let _ = tokio::time::timeout(wait, doubted).await;
            }
        }
    }
}

/// The permissions that the credential lacks, determined by small requests.
async fn rights(entry: &Entry, client: &Client) -> Result<Missing, RemoteError> {
    let namespace = &entry.key.namespace;
    let (vms, instances, volumes, claims) = tokio::try_join!(
        missing::<Vm>(client, namespace),
        missing::<Vmi>(client, namespace),
        missing::<DataVolume>(client, namespace),
        missing::<Claim>(client, namespace),
    )?;
    let mut all = Missing::default();
    for (kind, verbs) in Kind::ALL.into_iter().zip([vms, instances, volumes, claims]) {
        all.add(kind, verbs);
    }
    Ok(all)
}

async fn missing<K: Cached>(client: &Client, namespace: &str) -> Result<Vec<&'static str>, RemoteError> {
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let mut verbs = Vec::new();
    let mut version = None;
    match api.list_metadata(&ListParams::default().limit(1)).await {
        Ok(list) => version = list.metadata.resource_version,
        Err(error) if is_forbidden(&error) => verbs.push("list"),
        Err(error) => return Err(RemoteError::from(&error)),
    }
    // Only the response's status matters.
    let params = WatchParams::default().timeout(1);
    let version = version.unwrap_or_else(|| "0".to_owned());
    match api.watch_metadata(&params, &version).await.map(drop) {
        Ok(()) => {}
        Err(error) if is_forbidden(&error) => verbs.push("watch"),
        Err(error) => return Err(RemoteError::from(&error)),
    }
    Ok(verbs)
}
