//! Makes sure that a store knows the past: a new leader's cache may lag behind what the leader before it wrote.

use std::collections::HashMap;
use std::time::Duration;

use kube::api::ListParams;
use kube::{Api, Client};
use machinist_infra::cache::store::{Key, Listed, Store};
use machinist_infra::kube::error::RemoteError;
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;

use super::Stores;

/// Objects on one page of a list.
const PAGE: u32 = 500;

/// How long the watch gets to bring what a list has shown, before the list is taken again.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How often it is looked whether the watch has.
const LOOK: Duration = Duration::from_millis(20);

/// A store that has to know the past.
#[derive(Debug, Clone, Copy)]
pub enum Synced {
    /// That of Machines.
    Machines,
    /// That of MachineSets.
    MachineSets,
    /// That of MachineDeployments.
    MachineDeployments,
}

/// The stores that are known to know the past. Each is held against the API server once, for all who need it.
#[derive(Debug, Default)]
pub struct CacheSync([OnceCell<()>; 3]);

impl CacheSync {
    /// Returns once those stores know the past.
    pub async fn wait(&self, needed: &[Synced], client: &Client, stores: &Stores) {
        for needed in needed {
            let catch_up = async || match needed {
                Synced::Machines => catch_up(client, &stores.machines).await,
                Synced::MachineSets => catch_up(client, &stores.machine_sets).await,
                Synced::MachineDeployments => catch_up(client, &stores.machine_deployments).await,
            };
            self.0[*needed as usize].get_or_init(catch_up).await;
        }
    }
}

/// Returns once `store` knows of every write to its kind that had been answered before this was called.
///
/// The list is consistent (KEP-2340), and of metadata only. That the numbers of its objects can be compared with those in
/// the store is KEP-5504.
async fn catch_up<K>(client: &Client, store: &Store<K>)
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let api = Api::<K>::all(client.clone());
    loop {
        match list(&api).await {
            Ok(listed) => {
                if tokio::time::timeout(TIMEOUT, until_known(store, &listed))
                    .await
                    .is_ok()
                {
                    return;
                }
                tracing::warn!(kind = %K::kind(&()), "the watch lags behind; waiting before anything is made or deleted");
            }
            Err(error) => {
                let error = RemoteError::from(&error);
                tracing::warn!(kind = %K::kind(&()), %error, "cannot list; waiting before anything is made or deleted");
                tokio::time::sleep(TIMEOUT).await;
            }
        }
    }
}

async fn until_known<K: kube::Resource>(store: &Store<K>, listed: &Listed) {
    while !store.includes(listed) {
        tokio::time::sleep(LOOK).await;
    }
}

async fn list<K>(api: &Api<K>) -> Result<Listed, kube::Error>
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut params = ListParams::default().limit(PAGE);
    let (mut at, mut versions) = (None, HashMap::new());
    loop {
        let page = api.list_metadata(&params).await?;
        // All pages show one instant. One that cannot be reported apart from later ones shows nothing to be gone.
        at = at.or_else(|| page.metadata.resource_version.as_deref()?.parse().ok());
        for object in &page.items {
            let version = object.metadata.resource_version.as_deref();
            versions.insert(Key::of(object), version.and_then(|v| v.parse().ok()).unwrap_or(0));
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    Ok(Listed {
        at: at.unwrap_or(0),
        versions,
    })
}
