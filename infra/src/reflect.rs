//! Watches one kind into a [`Store`] for as long as it is wanted.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
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
        // Failures end nothing here: the stream itself tries again.
        round(stream, &store, &mut on, |_| false).await;
    }
}

/// One round of [`reflect`] that ends with the first failure, for whoever has to decide how to go on; `None` when the
/// list is due to be taken anew.
pub async fn follow<K, F>(api: Api<K>, store: &Store<K>, mut on: F) -> Option<watcher::Error>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    F: FnMut(Signal<'_, K>) + Send,
{
    let stream = watcher(api, watcher::Config::default());
    round(stream, store, &mut on, |_| true).await
}

/// Takes a stream in until the list is due to be taken anew, or a failure that ends it.
async fn round<K, F>(
    stream: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send,
    store: &Store<K>,
    on: &mut F,
    ends: fn(&watcher::Error) -> bool,
) -> Option<watcher::Error>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    F: FnMut(Signal<'_, K>) + Send,
{
    let mut stream = std::pin::pin!(stream);
    let relist = tokio::time::sleep(RELIST.mul_f64(0.9 + jitter() / 10.0));
    let mut relist = std::pin::pin!(relist);
    loop {
        let event = tokio::select! {
            () = &mut relist => return None,
            event = stream.next() => event?,
        };
        match event {
            Ok(event) => {
                let done = matches!(event, watcher::Event::InitDone);
                for change in store.apply(event) {
                    on(Signal::Changed(&change));
                }
                if done {
                    on(Signal::Synced);
                }
            }
            Err(error) => {
                on(Signal::Failed(&error));
                if ends(&error) {
                    return Some(error);
                }
            }
        }
    }
}

/// Between 0 and 1, different at every call, so that what many do does not come together.
pub fn jitter() -> f64 {
    let nanos = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(0, |d| d.subsec_nanos());
    f64::from(nanos % 1000) / 1000.0
}
