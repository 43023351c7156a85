//! Watches one kind into a [`Store`] for as long as it is wanted.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use crate::store::{Change, Store};

/// What a watch says besides changes.
#[derive(Debug)]
pub enum Signal<'a, K> {
    /// An object changed.
    Changed(&'a Change<K>),
    /// The first list, or a re-list after trouble, is complete.
    Synced,
    /// The watch or list failed; it is being tried again.
    Failed(&'a watcher::Error),
}

/// How long a watch may go without a fresh list: heals silent loss.
const RELIST: Duration = Duration::from_mins(30);

/// Watches `api` into `store` and tells `on` of everything; runs until dropped.
///
/// The list is taken anew every 30 minutes (jittered by up to a tenth), which is the only steady read.
pub async fn reflect<K, F>(api: Api<K>, config: watcher::Config, store: Arc<Store<K>>, mut on: F)
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    F: FnMut(Signal<'_, K>) + Send,
{
    loop {
        let stream = watcher(api.clone(), config.clone()).default_backoff();
        let mut stream = std::pin::pin!(stream);
        let relist = tokio::time::sleep(RELIST.mul_f64(jitter()));
        let mut relist = std::pin::pin!(relist);
        loop {
            let event = tokio::select! {
                () = &mut relist => break,
                event = stream.next() => event,
            };
            match event {
                Some(Ok(event)) => {
                    let done = matches!(event, watcher::Event::InitDone);
                    for change in store.apply(event) {
                        on(Signal::Changed(&change));
                    }
                    if done {
                        on(Signal::Synced);
                    }
                }
                Some(Err(error)) => on(Signal::Failed(&error)),
                None => break,
            }
        }
    }
}

/// Between 0.9 and 1, different for every watch, so that re-lists do not come together.
fn jitter() -> f64 {
    let nanos = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(0, |d| d.subsec_nanos());
    1.0 - f64::from(nanos % 1000) / 10_000.0
}
