//! The state of one credential for one infra cluster: whether it works, and what it may watch.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kube::Client;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::kind::{Kind, Missing};
use super::poll::Polls;
use crate::kube::error::RemoteError;
use crate::kube::kubeconfig::InfraKubeconfig;

/// The state of a credential.
#[derive(Debug, Clone)]
pub(super) enum CredentialState {
    /// Being found out.
    Checking,
    /// The API server accepts it; the kinds that it may not watch.
    Works(Arc<Missing>),
    /// The API server rejects it, or it is malformed.
    Refused(RemoteError),
}

/// A credential in use.
pub(super) struct Credential {
    pub(super) digest: String,
    pub(super) kubeconfig: InfraKubeconfig,
    client: OnceLock<Client>,
    state: Mutex<CredentialState>,
    pub(super) doubted: Notify,
    /// Objects that were polled, because the credential may not watch them.
    pub(super) polls: Polls,
}

impl Credential {
    pub(super) fn new(kubeconfig: InfraKubeconfig, poll_interval: Duration) -> Self {
        Self {
            digest: kubeconfig.credential_digest(),
            kubeconfig,
            client: OnceLock::new(),
            state: Mutex::new(CredentialState::Checking),
            doubted: Notify::new(),
            polls: Polls::every(poll_interval),
        }
    }

    pub(super) fn state(&self) -> CredentialState {
        self.state.lock().clone()
    }

    /// Its client, once there is one.
    pub(super) fn client(&self) -> Option<Client> {
        self.client.get().cloned()
    }

    pub(super) fn has_client(&self, client: Client) {
        let _ = self.client.set(client);
    }

    /// Whether it may watch that kind.
    pub(super) fn may_watch(&self, kind: Kind) -> bool {
        matches!(self.state(), CredentialState::Works(missing) if !missing.has(kind))
    }

    /// The API server rejected it after accepting it: its state is unknown until it is checked again.
    pub(super) fn recheck_credential(&self) {
        let mut state = self.state.lock();
        if matches!(*state, CredentialState::Works(_)) {
            *state = CredentialState::Checking;
            self.doubted.notify_one();
        }
    }

    /// Sets its state. Returns whether it changed.
    pub(super) fn set_state(&self, state: CredentialState) -> bool {
        let mut now = self.state.lock();
        let same = match (&*now, &state) {
            (CredentialState::Checking, CredentialState::Checking) => true,
            (CredentialState::Works(a), CredentialState::Works(b)) => a == b,
            (CredentialState::Refused(a), CredentialState::Refused(b)) => a == b,
            _ => false,
        };
        *now = state;
        !same
    }
}
