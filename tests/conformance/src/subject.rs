//! The provider under test, and its events.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use machinist_infra::cache::store::Key;
use machinist_infra::provider::{
    AdoptParams, InfraClient, InfraEvent, Instance, InstanceView, Provider, WatchStatus,
};
use machinist_shared::api::names::label;
use machinist_shared::provider::{InstanceParams, ResolvedProviderSpec};
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::{ProviderBed, pure};

/// Longer than anything takes on a busy machine.
const WAIT_TIMEOUT: Duration = Duration::from_mins(2);

/// UID of the Machine that every instance is made for.
pub(crate) const MACHINE: &str = "5c1b0c2e-8a55-4b5e-9d0c-0d6c1f0a9c11";
/// UID of the user cluster.
pub(crate) const CLUSTER: &str = "7f0e0d3a-2f1c-4f6e-8b59-3f3f5a3a1e22";

/// A provider without memory at the start, used by one Machine.
pub struct Subject<'a, B> {
    /// The bed that it runs on.
    pub bed: &'a B,
    provider: Arc<dyn Provider>,
    events: UnboundedReceiver<InfraEvent>,
    user: Key,
}

impl<'a, B: ProviderBed> Subject<'a, B> {
    /// A provider that has just started.
    pub fn new(bed: &'a B) -> Self {
        let (sender, events) = unbounded_channel();
        Self {
            bed,
            provider: bed.provider(sender),
            events,
            user: Key::new("kube-system", "conformance"),
        }
    }

    /// The bed's spec, resolved.
    pub fn resolved(&self) -> Result<Arc<dyn ResolvedProviderSpec>> {
        pure::resolved(self.bed)
    }

    /// The status of the infra cluster, with the valid or with the invalid credential.
    pub fn watch(&self, invalid: bool) -> WatchStatus {
        let credential = if invalid {
            self.bed.invalid_credential()
        } else {
            self.bed.credential()
        };
        let watched = self.provider.watch(&self.user, &credential, self.bed.namespace());
        self.provider.release_unused(&self.user);
        watched
    }

    /// Waits for the next event, which must come by itself.
    async fn event(&mut self, what: &str) -> Result<()> {
        let next = tokio::time::timeout(WAIT_TIMEOUT, self.events.recv()).await;
        next.with_context(|| format!("no event arrived while waiting for {what}"))?
            .context("the provider has ended")?;
        Ok(())
    }

    /// Waits until the status of the infra cluster fits.
    pub async fn known<T>(
        &mut self,
        what: &str,
        invalid: bool,
        fits: impl Fn(WatchStatus) -> Option<T>,
    ) -> Result<T> {
        loop {
            if let Some(found) = fits(self.watch(invalid)) {
                return Ok(found);
            }
            self.event(what).await?;
        }
    }

    /// The client of the infra cluster, as soon as it is open.
    pub async fn open(&mut self) -> Result<Arc<dyn InfraClient>> {
        let open = |watched| match watched {
            WatchStatus::Open(client) => Some(client),
            _ => None,
        };
        self.known("the infra cluster to open", false, open).await
    }

    /// Waits until the view of a name fits. Reads again only after an event.
    pub async fn until(
        &mut self,
        name: &str,
        what: &str,
        fits: impl Fn(&InstanceView) -> bool,
    ) -> Result<InstanceView> {
        loop {
            let client = self.open().await?;
            match self.view_of(client.as_ref(), name).await {
                Ok(view) if fits(&view) => return Ok(view),
                _ => self.event(&format!("{name} to be {what}")).await?,
            }
        }
    }

    /// The view of a name.
    pub async fn view_of(&self, client: &dyn InfraClient, name: &str) -> Result<InstanceView> {
        let disks = self.resolved()?.disks(name);
        let read = client.get(name, &disks).await;
        read.map_err(|unavailable| anyhow::anyhow!("{name} cannot be seen: {}", unavailable.why))
    }

    /// The instance of that name, which must be there.
    pub async fn instance(&self, client: &dyn InfraClient, name: &str) -> Result<Arc<Instance>> {
        let view = self.view_of(client, name).await?;
        view.instance
            .with_context(|| format!("no instance {name} is seen"))
    }

    /// The instance that the Machine asks for, as the pure half renders it.
    pub async fn rendered(&self, client: &dyn InfraClient, name: &str) -> Result<Value> {
        let resolved = self.resolved()?;
        let facts = client.facts(&resolved.facts_needed()).await?;
        let none = BTreeMap::new();
        let params = InstanceParams {
            name,
            uid: MACHINE,
            labels: &none,
            annotations: &none,
            machine_deployment: None,
            cluster_uid: CLUSTER,
            namespace: self.bed.namespace(),
            user_data: &user_data_name(name),
            ignition: None,
        };
        let rendered = resolved.render(&params, &facts);
        rendered.context("the two halves do not agree on facts")
    }

    /// Creates the instance of that name. The provider has it in memory at once.
    pub async fn made(&self, client: &dyn InfraClient, name: &str) -> Result<Arc<Instance>> {
        client.create(self.rendered(client, name).await?).await?;
        self.instance(client, name).await
    }

    /// Deletes the instance of that name, and waits until it is gone.
    pub async fn gone(&mut self, name: &str) -> Result<()> {
        let client = self.open().await?;
        if let Some(instance) = self.view_of(client.as_ref(), name).await?.instance {
            client.delete(name, uid(&instance)).await?;
        }
        self.until(name, "gone", |view| view.instance.is_none()).await?;
        if let Some(left) = self.bed.stored(name).await? {
            bail!("{name} is reported as gone and still exists: {left:#}");
        }
        Ok(())
    }
}

/// Name of the user data of an instance.
pub(crate) fn user_data_name(instance: &str) -> String {
    format!("userdata-{instance}")
}

/// UID of an instance.
pub(crate) fn uid(instance: &Instance) -> &str {
    instance.metadata.uid.as_deref().unwrap_or_default()
}

/// UID of the Machine in the label of an instance.
pub(crate) fn owner(instance: &Instance) -> Option<&str> {
    let labels = instance.metadata.labels.as_ref()?;
    labels.get(label::MACHINE_UID).map(String::as_str)
}

/// Machinist's labels, for exactly that instance.
pub(crate) fn adopt_params<'a>(uid: &'a str, version: &'a str) -> AdoptParams<'a> {
    AdoptParams {
        uid,
        resource_version: version,
        labels: &[(label::MACHINE_UID, MACHINE), (label::CLUSTER_UID, CLUSTER)],
    }
}
