//! What all reconcilers have in common. What one of them remembers is its own.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use machinist_infra::kube::clock::ServerClock;
use machinist_infra::providers::Providers;
use machinist_shared::provider::Env;

use crate::bootstrap::Access;
use crate::cache::{CacheSync, References, Stores, Synced};
use crate::config::Settings;
use crate::leader::Fence;
use crate::runtime::queue::Queues;
use crate::telemetry::events::Events;
use crate::telemetry::metrics::Metrics;

/// What all reconcilers have in common.
pub struct Context {
    /// Client of the user cluster.
    pub client: Client,
    /// What time it is there.
    pub clock: ServerClock,
    /// Its objects.
    pub stores: Arc<Stores>,
    /// Those that know what earlier leaders wrote.
    pub cache_sync: CacheSync,
    /// Referenced Secrets and ConfigMaps.
    pub references: References,
    /// Infra clusters.
    pub infra: Providers,
    /// What is to be reconciled.
    pub queues: Queues,
    /// What holds for all Machines.
    pub settings: Arc<Settings>,
    /// The environment that specs may fall back to.
    pub env: Env,
    /// How kubelets reach the user cluster.
    pub access: Access,
    /// Writes Events.
    pub events: Events,
    /// Counts.
    pub metrics: Metrics,
    /// Says whether this process may still write.
    pub fence: Fence,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}

impl Context {
    /// The time, as the API server of the user cluster has it: it stamps most of what this is compared with.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Returns once those stores know what earlier leaders wrote.
    pub async fn synced(&self, needed: &[Synced]) {
        self.cache_sync.wait(needed, &self.client, &self.stores).await;
    }

    /// Whether a write may start now.
    pub fn may_write(&self) -> bool {
        self.fence.may_write()
    }
}
