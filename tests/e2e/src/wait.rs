//! Waiting for a state of an object by watching it.

use std::{collections::HashMap, fmt::Debug, time::Duration};

use anyhow::{Result, bail};
use futures::StreamExt as _;
use kube::{
    Api, Resource,
    runtime::{WatchStreamExt as _, watcher, watcher::Event},
};
use serde::{Serialize, de::DeserializeOwned};

/// Waits until `fits` holds for the object, `None` while it does not exist; the error shows its last state.
pub async fn until<K>(
    api: &Api<K>,
    name: &str,
    what: &str,
    timeout: Duration,
    fits: impl Fn(Option<&K>) -> bool,
) -> Result<Option<K>>
where
    K: Resource + Clone + DeserializeOwned + Serialize + Debug + Send + 'static,
{
    let mut last = None;
    let watched = async {
        let mut states = watcher::watch_object(api.clone(), name).default_backoff().boxed();
        while let Some(state) = states.next().await {
            // Broken watches are opened again.
            let Ok(state) = state else { continue };
            last = Some(state.clone());
            if fits(state.as_ref()) {
                return Some(state);
            }
        }
        None
    };
    if let Ok(Some(state)) = tokio::time::timeout(timeout, watched).await {
        return Ok(state);
    }
    let shown = match last {
        None => "it was never seen".to_owned(),
        Some(None) => "it does not exist".to_owned(),
        Some(Some(object)) => shown(&object)?,
    };
    bail!("{name} was not {what} within {timeout:?}: {shown}")
}

/// An object for the message of a timeout: its status first, and without managedFields.
pub fn shown<K: Serialize>(object: &K) -> Result<String> {
    let mut object = serde_json::to_value(object)?;
    let status = object["status"].take();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
    Ok(format!("status {status:#} of {object:#}"))
}

/// Waits until the object exists and `fits` holds for it.
pub async fn for_state<K>(
    api: &Api<K>,
    name: &str,
    what: &str,
    timeout: Duration,
    fits: impl Fn(&K) -> bool,
) -> Result<K>
where
    K: Resource + Clone + DeserializeOwned + Serialize + Debug + Send + 'static,
{
    match until(api, name, what, timeout, |object| object.is_some_and(&fits)).await? {
        Some(object) => Ok(object),
        None => bail!("{name} is gone"),
    }
}

/// Waits until the object is gone.
pub async fn for_absence<K>(api: &Api<K>, name: &str, timeout: Duration) -> Result<()>
where
    K: Resource + Clone + DeserializeOwned + Serialize + Debug + Send + 'static,
{
    until(api, name, "gone", timeout, |object| object.is_none())
        .await
        .map(drop)
}

/// Waits until any object of the collection fits.
pub async fn any<K>(api: &Api<K>, what: &str, timeout: Duration, fits: impl Fn(&K) -> bool) -> Result<()>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let watched = async {
        let mut events = watcher(api.clone(), watcher::Config::default())
            .default_backoff()
            .applied_objects()
            .boxed();
        while let Some(object) = events.next().await {
            if object.is_ok_and(|object| fits(&object)) {
                return;
            }
        }
    };
    if tokio::time::timeout(timeout, watched).await.is_err() {
        bail!("there was no {what} within {timeout:?}");
    }
    Ok(())
}

/// Waits until the objects of the collection fit together, and returns them.
pub async fn for_all<K>(
    api: &Api<K>,
    what: &str,
    timeout: Duration,
    fits: impl Fn(&[&K]) -> bool,
) -> Result<Vec<K>>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut known = HashMap::new();
    let watched = async {
        let mut events = watcher(api.clone(), watcher::Config::default())
            .default_backoff()
            .boxed();
        let mut is_complete = false;
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => known.clear(),
                Ok(Event::InitDone) => is_complete = true,
                Ok(Event::InitApply(object) | Event::Apply(object)) => {
                    known.insert(object.meta().name.clone(), object);
                }
                Ok(Event::Delete(object)) => {
                    known.remove(&object.meta().name);
                }
                Err(_) => {}
            }
            if is_complete && fits(&known.values().collect::<Vec<_>>()) {
                return;
            }
        }
    };
    if tokio::time::timeout(timeout, watched).await.is_err() {
        bail!("not {what} within {timeout:?}: {} objects", known.len());
    }
    Ok(known.into_values().collect())
}
