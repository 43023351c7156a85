//! Watches one kind into a [`Store`] until dropped.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout_at};

use crate::backoff::{Backoff, Jitter};
use crate::cache::store::{Change, Store};
use crate::cache::watch::{Event, Selector, Source, Trust};
use crate::kube::error::RemoteError;

/// Events of a watch other than changes.
#[derive(Debug)]
pub enum Signal<'a, K> {
    /// An object changed.
    Changed(&'a Change<K>),
    /// The first list, or a re-list after trouble, is complete.
    Synced,
    /// The watch or list failed; it is retried.
    Failed(&'a RemoteError),
    /// The API server's storage was restored to an earlier state: cached objects may never have existed. A list
    /// follows.
    Restored,
}

/// Maximum time between lists, which repair silently lost events.
const RELIST: Duration = Duration::from_mins(30);

/// Watches `api` into `store` and reports every event to `on`; runs until dropped.
///
/// The list is repeated every 30 minutes (or up to a fifth less or more), which is the only periodic read. After a failure,
/// the watch resumes.
pub async fn reflect<K, F>(api: Api<K>, selector: Selector, store: Arc<Store<K>>, mut on: F)
where
    K: Resource<DynamicType: Default> + Clone + DeserializeOwned + Debug + Send + Sync,
    F: FnMut(Signal<'_, K>) + Send,
{
    let mut source = Source::new(api, selector, Trust::UserCluster);
    let mut pauses = RETRY_BACKOFF.pauses();
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
            pauses.reset();
        }
        sleep(pauses.after_failure()).await;
    }
}

/// Pauses before a watch that failed is opened again, as in client-go.
const RETRY_BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(800),
    longest: Duration::from_secs(30),
};

/// A watch that lasted at least this long was healthy.
const HEALTHY_WATCH: Duration = Duration::from_secs(30);

/// Lists and watches a kind of an infra cluster until the first failure, which the caller handles; `None` when the next
/// list is due.
pub async fn follow<K, F>(api: Api<K>, on: F) -> Option<RemoteError>
where
    K: Resource<DynamicType: Default> + Clone + DeserializeOwned + Debug + Send + Sync,
    F: FnMut(Event<K>) + Send,
{
    let mut source = Source::new(api, Selector::default(), Trust::Infra);
    timeout_at(relist(), source.run(on)).await.ok()
}

/// When the next list is due.
fn relist() -> Instant {
    Instant::now() + Jitter::default().spread(RELIST)
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
