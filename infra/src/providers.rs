//! The registry of providers.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::cache::key::Key;
use crate::kubevirt::pool::{InfraPool, PoolOptions};
use crate::provider::concurrency_limit::ConcurrencyLimit;
use crate::provider::{InfraEvent, InfraKey, Orphan, Provider};

/// The providers that ship, by what `cloudProvider` calls them. A new one is a line here.
pub fn shipped(options: PoolOptions, events: mpsc::UnboundedSender<InfraEvent>) -> Providers {
    Providers::new(vec![Arc::new(InfraPool::new(options, events))])
}

/// The providers in use.
#[derive(Debug)]
pub struct Providers(Vec<Arc<dyn Provider>>);

impl Providers {
    /// These, the first of which is the one of Machines that name none.
    pub fn new(providers: Vec<Arc<dyn Provider>>) -> Self {
        Self(providers)
    }

    /// The one that `cloudProvider` calls so. Where nobody can tell what it says, the first: only what is being deleted
    /// gets so far, and must be looked for somewhere.
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
