//! The registry of providers.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::cache::key::Key;
use crate::kubevirt::pool::{InfraPool, PoolOptions};
use crate::provider::concurrency_limit::ConcurrencyLimit;
use crate::provider::{InfraEvent, InfraKey, Orphan, Provider};

/// The built-in providers, by name in `cloudProvider`. Add a line for a new one.
pub fn shipped(options: PoolOptions, events: mpsc::UnboundedSender<InfraEvent>) -> Providers {
    Providers::new(vec![Arc::new(InfraPool::new(options, events))])
}

/// The providers in use.
#[derive(Debug)]
pub struct Providers(Vec<Arc<dyn Provider>>);

impl Providers {
    /// These providers; the first one is the default.
    pub fn new(providers: Vec<Arc<dyn Provider>>) -> Self {
        Self(providers)
    }

    /// The provider with that name. If the name is unreadable, the first one: only a Machine in deletion gets this far,
    /// and its instance must be searched somewhere.
    pub fn get(&self, name: Option<&str>) -> Option<Arc<dyn Provider>> {
        let mut all = self.0.iter();
        let found = match name {
            Some(name) => all.find(|provider| provider.name() == name),
            None => all.next(),
        };
        found.cloned()
    }

    /// See [`Provider::release_unused`].
    pub fn release_unused(&self, user: &Key) {
        self.0.iter().for_each(|provider| provider.release_unused(user));
    }

    /// See [`Provider::release`].
    pub fn release(&self, user: &Key) {
        self.0.iter().for_each(|provider| provider.release(user));
    }

    /// See [`Provider::state_reasons`].
    pub fn state_reasons(&self) -> Vec<String> {
        self.0
            .iter()
            .flat_map(|provider| provider.state_reasons())
            .collect()
    }

    /// See [`Provider::users`].
    pub fn users(&self, place: &InfraKey) -> Vec<Key> {
        let all = self.0.iter();
        all.flat_map(|provider| provider.users(place)).collect()
    }

    /// See [`Provider::concurrency_limit`].
    pub fn concurrency_limit(&self, user: &Key) -> Option<Arc<ConcurrencyLimit>> {
        self.0
            .iter()
            .find_map(|provider| provider.concurrency_limit(user))
    }

    /// See [`Provider::has_instance_elsewhere`].
    pub fn has_instance_elsewhere(&self, user: &Key, but: &InfraKey, uid: &str) -> bool {
        let mut all = self.0.iter();
        all.any(|provider| provider.has_instance_elsewhere(user, but, uid))
    }

    /// See [`Provider::orphans`].
    pub fn orphans(&self, cluster_uid: &str, lives: &dyn Fn(&str) -> bool) -> Vec<Orphan> {
        let all = self.0.iter();
        all.flat_map(|provider| provider.orphans(cluster_uid, lives))
            .collect()
    }

    /// See [`Provider::count`].
    pub fn count(&self) -> (usize, usize) {
        let counts = self.0.iter().map(|provider| provider.count());
        counts.fold((0, 0), |(used, broken), (u, b)| (used + u, broken + b))
    }
}
