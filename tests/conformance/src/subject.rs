//! The provider under test, and what it says.

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

use crate::{Bed, pure};

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// UID of the Machine that every instance is made for.
pub(crate) const MACHINE: &str = "5c1b0c2e-8a55-4b5e-9d0c-0d6c1f0a9c11";
/// UID of the user cluster.
pub(crate) const CLUSTER: &str = "7f0e0d3a-2f1c-4f6e-8b59-3f3f5a3a1e22";

/// A provider without memory at the start, used by one Machine.
pub struct Subject<'a, B> {
    /// Where.
    pub bed: &'a B,
    provider: Arc<dyn Provider>,
    events: UnboundedReceiver<InfraEvent>,
    user: Key,
}

impl<'a, B: Bed> Subject<'a, B> {
    /// One that has just started.
    pub fn new(bed: &'a B) -> Self {
        let (sender, events) = unbounded_channel();
        Self {
            bed,
            provider: bed.provider(sender),
            events,
            user: Key::new("kube-system", "conformance"),
        }
    }

    /// What the bed's spec comes to.
    pub fn blueprint(&self) -> Result<Arc<dyn ResolvedProviderSpec>> {
        pure::blueprint(self.bed)
    }

    /// What is known of the place, by that credential.
    pub fn watch(&self, junk: bool) -> WatchStatus {
        let credential = if junk {
            self.bed.junk()
        } else {
            self.bed.credential()
        };
        let watched = self.provider.watch(&self.user, &credential, self.bed.namespace());
        self.provider.release_unused(&self.user);
        watched
    }

    /// Waits for the next event, which must come by itself.
    async fn event(&mut self, what: &str) -> Result<()> {
        let next = tokio::time::timeout(PATIENCE, self.events.recv()).await;
        next.with_context(|| format!("nothing was told any more while waiting for {what}"))?
            .context("the provider has ended")?;
        Ok(())
    }

    /// Waits until the place is known to be like that.
    pub async fn known<T>(
        &mut self,
        what: &str,
        junk: bool,
        fits: impl Fn(WatchStatus) -> Option<T>,
    ) -> Result<T> {
        loop {
            if let Some(found) = fits(self.watch(junk)) {
                return Ok(found);
            }
            self.event(what).await?;
        }
    }

    /// The place, as soon as it is open.
    pub async fn open(&mut self) -> Result<Arc<dyn InfraClient>> {
        let open = |watched| match watched {
            WatchStatus::Open(place) => Some(place),
            _ => None,
        };
        self.known("the place to open", false, open).await
    }

    /// Waits until what is seen under a name fits: looks anew only when something is told.
    pub async fn until(
        &mut self,
        name: &str,
        what: &str,
        fits: impl Fn(&InstanceView) -> bool,
    ) -> Result<InstanceView> {
        loop {
            let place = self.open().await?;
            match self.see(place.as_ref(), name).await {
                Ok(sight) if fits(&sight) => return Ok(sight),
                _ => self.event(&format!("{name} to be {what}")).await?,
            }
        }
    }

    /// What is seen under a name.
    pub async fn see(&self, place: &dyn InfraClient, name: &str) -> Result<InstanceView> {
        let disks = self.blueprint()?.disks(name);
        let seen = place.get(name, &disks).await;
        seen.map_err(|blind| anyhow::anyhow!("{name} cannot be seen: {}", blind.why))
    }

    /// The instance of that name, which must be there.
    pub async fn instance(&self, place: &dyn InfraClient, name: &str) -> Result<Arc<Instance>> {
        let sight = self.see(place, name).await?;
        sight
            .instance
            .with_context(|| format!("no instance {name} is seen"))
    }

    /// The instance that the Machine asks for, as the pure half renders it.
    pub async fn rendered(&self, place: &dyn InfraClient, name: &str) -> Result<Value> {
        let blueprint = self.blueprint()?;
        let facts = place.facts(&blueprint.facts_needed()).await?;
        let none = BTreeMap::new();
        let order = InstanceParams {
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
        let rendered = blueprint.render(&order, &facts);
        rendered.context("the two halves do not agree on facts")
    }

    /// Makes the instance of that name; it is in memory at once.
    pub async fn made(&self, place: &dyn InfraClient, name: &str) -> Result<Arc<Instance>> {
        place.create(self.rendered(place, name).await?).await?;
        self.instance(place, name).await
    }

    /// Deletes the instance of that name, and waits until it is gone.
    pub async fn gone(&mut self, name: &str) -> Result<()> {
        let place = self.open().await?;
        if let Some(instance) = self.see(place.as_ref(), name).await?.instance {
            place.delete(name, uid(&instance)).await?;
        }
        self.until(name, "gone", |sight| sight.instance.is_none()).await?;
        if let Some(left) = self.bed.stored(name).await? {
            bail!("{name} is said to be gone and is still there: {left:#}");
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

/// UID of the Machine that an instance bears as a label.
pub(crate) fn owner(instance: &Instance) -> Option<&str> {
    let labels = instance.metadata.labels.as_ref()?;
    labels.get(label::MACHINE_UID).map(String::as_str)
}

/// Our labels, for that very instance.
pub(crate) fn labelling<'a>(uid: &'a str, version: &'a str) -> AdoptParams<'a> {
    AdoptParams {
        uid,
        resource_version: version,
        labels: &[(label::MACHINE_UID, MACHINE), (label::CLUSTER_UID, CLUSTER)],
    }
}
