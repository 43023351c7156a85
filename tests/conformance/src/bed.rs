//! Where a provider is tested: a place for instances, and a hand that does there what the provider does not.

use std::future::Future;
use std::sync::Arc;

use anyhow::Result;
use machinist_infra::provider::{InfraEvent, Provider};
use machinist_shared::provider::Secret;
use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;

/// Something that is at the place and was not made by us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// Somebody's instance.
    Instance,
    /// An instance as machine-controller makes it for the Machine of its name, in the cluster [`PEER`].
    Peers,
    /// Somebody's disk.
    Disk,
}

/// The cluster of [`Foreign::Peers`].
pub const PEER: &str = "conformance";

/// A place for instances.
pub trait Bed: Sync {
    /// The provider without any memory, as in a process that has just started.
    fn provider(&self, events: UnboundedSender<InfraEvent>) -> Arc<dyn Provider>;

    /// A credential that works.
    fn credential(&self) -> Secret;

    /// One for the same place that does not.
    fn junk(&self) -> Secret;

    /// Namespace of the instances.
    fn namespace(&self) -> &str;

    /// The pure half.
    fn pure(&self) -> &'static dyn machinist_shared::provider::Provider;

    /// `cloudProviderSpec` of an instance with one disk, in the cluster [`PEER`], without references but the credential's.
    fn written(&self) -> Value;

    /// Makes something of that name.
    fn make(&self, name: &str, what: Foreign) -> impl Future<Output = Result<()>> + Send;

    /// Removes the instance of that name and returns when it is gone.
    fn remove(&self, name: &str) -> impl Future<Output = Result<()>> + Send;

    /// Starts the guest of an instance that has its user data, where that does not happen by itself.
    fn boot(&self, name: &str) -> impl Future<Output = Result<()>> + Send;

    /// The instance of that name as it is stored: UID, labels and spec, `None` if there is none.
    fn stored(&self, name: &str) -> impl Future<Output = Result<Option<Value>>> + Send;

    /// Nothing of the place can be reached until [`Bed::find`].
    fn lose(&self) -> impl Future<Output = Result<()>> + Send;

    /// It can be reached again.
    fn find(&self) -> impl Future<Output = Result<()>> + Send;

    /// Does `then` while no event reaches the provider; those of that time never do.
    fn unheard<F: Future<Output = Result<()>> + Send>(
        &self,
        then: F,
    ) -> impl Future<Output = Result<()>> + Send;
}
