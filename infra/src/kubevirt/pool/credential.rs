//! One credential at one infra cluster: whether it works there, and what it may watch.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kube::Client;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::kind::{Kind, Missing};
use super::look::Looks;
use crate::kube::error::RemoteError;
use crate::kube::kubeconfig::InfraKubeconfig;

/// What is known of a credential.
#[derive(Debug, Clone)]
pub(super) enum Standing {
    /// Being found out.
    Checking,
    /// The API server takes it; what it may not watch.
    Works(Arc<Missing>),
    /// The API server does not take it, or it cannot be used.
    Refused(RemoteError),
}

/// A credential in use.
pub(super) struct Credential {
    pub(super) digest: String,
    pub(super) kubeconfig: InfraKubeconfig,
    client: OnceLock<Client>,
    standing: Mutex<Standing>,
    pub(super) doubted: Notify,
    /// What was looked up one by one, because it may not be watched.
    pub(super) looks: Looks,
}

impl Credential {
    pub(super) fn new(kubeconfig: InfraKubeconfig, look_every: Duration) -> Self {
        Self {
            digest: kubeconfig.credential_digest(),
            kubeconfig,
            client: OnceLock::new(),
            standing: Mutex::new(Standing::Checking),
            doubted: Notify::new(),
            looks: Looks::every(look_every),
        }
    }

    pub(super) fn standing(&self) -> Standing {
        self.standing.lock().clone()
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
        matches!(self.standing(), Standing::Works(missing) if !missing.has(kind))
    }

    /// The API server refused it where it had been taken: it counts as unknown until that is cleared up.
    pub(super) fn doubt(&self) {
        let mut standing = self.standing.lock();
        if matches!(*standing, Standing::Works(_)) {
            *standing = Standing::Checking;
            self.doubted.notify_one();
        }
    }

    /// Notes what is known of it. Whether that is news.
    pub(super) fn stands(&self, standing: Standing) -> bool {
        let mut now = self.standing.lock();
        let same = match (&*now, &standing) {
            (Standing::Checking, Standing::Checking) => true,
            (Standing::Works(a), Standing::Works(b)) => a == b,
            (Standing::Refused(a), Standing::Refused(b)) => a == b,
            _ => false,
        };
        *now = standing;
        !same
    }
}
