//! Watches one kind into a [`Store`] for as long as it is wanted.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use kube::runtime::utils::Backoff as _;
use kube::runtime::watcher::DefaultBackoff;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout_at};

use crate::cache::store::{Change, Store};
use crate::cache::watch::{Event, Selector, Source, Trust};
use crate::kube::error::RemoteError;

/// What a watch says besides changes.
#[derive(Debug)]
pub enum Signal<'a, K> {
    /// An object changed.
    Changed(&'a Change<K>),
    /// The first list, or a re-list after trouble, is complete.
    Synced,
    /// The watch or list failed; it is being tried again.
    Failed(&'a RemoteError),
    /// The API server's storage was restored to an earlier state: what is known may never have been. A list follows.
    Restored,
}

/// How long a watch may go without a fresh list: heals silent loss.
const RELIST: Duration = Duration::from_mins(30);

/// Watches `api` into `store` and tells `on` of everything; runs until dropped.
///
/// The list is repeated every 30 minutes (jittered by up to a tenth), which is the only steady read. After a failure, the
/// watch goes on where it was.
pub async fn reflect<K, F>(api: Api<K>, selector: Selector, store: Arc<Store<K>>, mut on: F)
where
    K: Resource<DynamicType: Default> + Clone + DeserializeOwned + Debug + Send + Sync,
    F: FnMut(Signal<'_, K>) + Send,
{
    let mut source = Source::new(api, selector, Trust::UserCluster);
    let mut backoff = DefaultBackoff::default();
    let mut relist = relist();
    loop {
        let began = Instant::now();
        let round = source.run(|event| apply_event(event, &store, &mut on));
        let Ok(error) = timeout_at(relist, round).await else {
            source.forget();
            relist = self::relist();
            continue;
        };
        on(Signal::Failed(&error));
        if source.was_restored() {
            on(Signal::Restored);
        }
        if began.elapsed() > HEALTHY_WATCH {
            backoff.reset();
        }
        // It never ends.
        sleep(backoff.next().unwrap_or(HEALTHY_WATCH)).await;
    }
}

/// A watch that held so long was no failure by itself.
const HEALTHY_WATCH: Duration = Duration::from_secs(30);

/// Lists and watches a kind of an infra cluster, until the first failure, for the caller to decide how to go on; `None` when
/// the list is due again.
pub async fn follow<K, F>(api: Api<K>, on: F) -> Option<RemoteError>
where
    K: Resource<DynamicType: Default> + Clone + DeserializeOwned + Debug + Send + Sync,
    F: FnMut(Event<K>) + Send,
{
    let mut source = Source::new(api, Selector::default(), Trust::Infra);
    timeout_at(relist(), source.run(on)).await.ok()
}

/// When the list is due again.
fn relist() -> Instant {
    Instant::now() + RELIST.mul_f64(0.9 + jitter() / 10.0)
}

fn apply_event<K: Resource>(event: Event<K>, store: &Store<K>, on: &mut impl FnMut(Signal<'_, K>)) {
    let done = matches!(event, Event::InitDone);
    for change in store.apply(event) {
        on(Signal::Changed(&change));
    }
    if done {
        on(Signal::Synced);
    }
}

/// Between 0 and 1, different at every call, so that what many do does not come together.
pub fn jitter() -> f64 {
    let nanos = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(0, |d| d.subsec_nanos());
    f64::from(nanos % 1000) / 1000.0
}
