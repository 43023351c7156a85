//! The environment that a provider is tested in: an infra cluster, and the changes that other actors make there.

use std::future::Future;
use std::sync::Arc;

use anyhow::Result;
use machinist_infra::provider::{InfraEvent, Provider};
use machinist_shared::provider::Secret;
use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;

/// An object on the infra cluster that Machinist did not create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// An instance of another owner.
    Instance,
    /// An instance as machine-controller creates it for the Machine of its name, in the cluster [`PEER_CLUSTER`].
    MachineController,
    /// A disk of another owner.
    Disk,
}

/// The cluster of [`Foreign::MachineController`].
pub const PEER_CLUSTER: &str = "conformance";

/// An infra cluster, through one provider.
pub trait ProviderBed: Sync {
    /// The provider without any memory, as in a process that has just started.
    fn provider(&self, events: UnboundedSender<InfraEvent>) -> Arc<dyn Provider>;

    /// A credential that works.
    fn credential(&self) -> Secret;

    /// A credential for the same infra cluster that is rejected.
    fn invalid_credential(&self) -> Secret;

    /// Namespace of the instances.
    fn namespace(&self) -> &str;

    /// The pure half.
    fn pure(&self) -> &'static dyn machinist_shared::provider::Provider;

    /// `cloudProviderSpec` of an instance with one disk, in the cluster [`PEER_CLUSTER`], without references but the credential's.
    fn cloud_provider_spec(&self) -> Value;

    /// Creates a foreign object of that name.
    fn create(&self, name: &str, what: Foreign) -> impl Future<Output = Result<()>> + Send;

    /// Removes the instance of that name and returns when it is gone.
    fn remove(&self, name: &str) -> impl Future<Output = Result<()>> + Send;

    /// Starts the guest of an instance that has its user data, where that does not happen by itself.
    fn boot(&self, name: &str) -> impl Future<Output = Result<()>> + Send;

    /// The instance of that name as it is stored: UID, labels and spec, `None` if there is none.
    fn stored(&self, name: &str) -> impl Future<Output = Result<Option<Value>>> + Send;

    /// Makes the infra cluster unreachable until [`ProviderBed::reconnect`].
    fn disconnect(&self) -> impl Future<Output = Result<()>> + Send;

    /// Makes it reachable again.
    fn reconnect(&self) -> impl Future<Output = Result<()>> + Send;

    /// Runs `then` while no event reaches the provider. The events of that time are lost.
    fn with_watches_cut<F: Future<Output = Result<()>> + Send>(
        &self,
        then: F,
    ) -> impl Future<Output = Result<()>> + Send;
}
