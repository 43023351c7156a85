//! Lists and watches one kind, object by object.
//!
//! kube's own watcher decodes pages of 500 objects of any size, so one object can hide all others. It also hides
//! bookmarks, which distinguish a broken watch from an idle one.

mod answer;
mod items;
mod lines;
mod named;
#[cfg(test)]
mod tests;
pub mod unreadable;

use std::fmt::Debug;
use std::marker::PhantomData;
use std::time::Duration;

use kube::api::{ListParams, WatchParams};
use kube::client::Body;
use kube::core::{ListMeta, Status, WatchEvent};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep_until};

pub(crate) use self::answer::Trust;
use self::answer::{Answer, NoChunk, Reservation};
use self::items::{Item, Items};
use self::lines::{Line, Lines};
use self::named::name_of;
use crate::cache::key::Key;
use crate::kube::answer::Streamed;
use crate::kube::error::RemoteError;

/// Objects on one page of a list.
const PAGE: u32 = 500;
/// Maximum bytes of one object or watch event; API servers store no larger ones.
const OBJECT_BYTES: usize = 3 * 1024 * 1024;
/// Maximum bytes of one page; a longer page is requested again with fewer objects.
const PAGE_BYTES: usize = 16 * 1024 * 1024;
/// Maximum pause in the response to a list.
const LIST_IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// A watch without events for this long is followed by a list, because API servers send a bookmark each minute. An API
/// server with a restored storage sends no events below the known version.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// A watch that ended sooner than this is reopened after this long.
const SHORTEST_WATCH: Duration = Duration::from_secs(1);
/// Requested timeout of a watch.
const WATCH_SECONDS: u32 = 290;

/// Selects objects of a kind.
#[derive(Debug, Clone, Default)]
pub struct Selector {
    fields: Option<String>,
    labels: Option<String>,
}

impl Selector {
    /// A field selector: `metadata.name=x`.
    #[must_use]
    pub fn fields(self, selector: &str) -> Self {
        Self {
            fields: Some(selector.to_owned()),
            ..self
        }
    }

    /// A label selector.
    #[must_use]
    pub fn labels(self, selector: &str) -> Self {
        Self {
            labels: Some(selector.to_owned()),
            ..self
        }
    }
}

/// An event of a list or watch.
#[derive(Debug, Clone)]
pub enum Event<K> {
    /// A list begins: objects that it does not contain are deleted.
    Init,
    /// The list contains this object.
    InitApply(K),
    /// The list contains an object with that name that cannot be decoded.
    InitUnreadable(Key),
    /// The list is complete.
    InitDone,
    /// This object was created or changed.
    Apply(K),
    /// An object with that name that cannot be decoded was created or changed.
    Unreadable(Key),
    /// This object was deleted.
    Delete(K),
}

/// A kind to list and watch.
pub(crate) struct Source<K> {
    client: Client,
    url: String,
    selector: Selector,
    /// The latest known version, if any.
    version: Option<String>,
    /// Whether the last watch failed: the API server may have restarted with a restored storage.
    failed: bool,
    /// Whether the storage was restored.
    restored: bool,
    room: Reservation,
    kind: PhantomData<fn() -> K>,
}

impl<K> Source<K>
where
    K: Resource<DynamicType: Default> + DeserializeOwned + Clone + Debug,
{
    pub(crate) fn new(api: Api<K>, selector: Selector, trust: Trust) -> Self {
        unreadable::start(&kind::<K>());
        Self {
            url: api.resource_url().to_owned(),
            client: api.into_client(),
            selector,
            version: None,
            failed: false,
            restored: false,
            room: Reservation::of(trust),
            kind: PhantomData,
        }
    }

    /// Whether the last failure was that the API server's storage was restored to an earlier state.
    pub(crate) fn was_restored(&mut self) -> bool {
        std::mem::take(&mut self.restored)
    }

    /// Makes the next run begin with a list.
    pub(crate) fn forget(&mut self) {
        self.version = None;
    }

    /// Lists unless the version is known, then watches; returns the failure that ends the watch.
    pub(crate) async fn run(&mut self, mut on: impl FnMut(Event<K>) + Send) -> RemoteError {
        loop {
            if self.failed {
                match self.is_ahead().await {
                    Err(error) => return error,
                    Ok(true) => {
                        (self.version, self.failed, self.restored) = (None, false, true);
                        return RemoteError::other(
                            "the API server went back to an earlier resourceVersion: its storage was restored",
                        );
                    }
                    Ok(false) => {}
                }
            }
            self.failed = false;
            let version = match self.version.clone() {
                Some(version) => version,
                None => match self.list(&mut on).await {
                    Ok(version) => version,
                    Err(error) => return error,
                },
            };
            self.version = Some(version.clone());
            let opened = Instant::now();
            if let Err(error) = self.watch(&version, &mut on).await {
                self.failed = true;
                if error.code() == Some(GONE) {
                    self.version = None;
                }
                return error;
            }
            // Avoids a tight loop if a server ends each watch immediately.
            sleep_until(opened + SHORTEST_WATCH).await;
        }
    }

    /// Whether the known version is later than the API server's: then the watch would receive no events.
    async fn is_ahead(&mut self) -> Result<bool, RemoteError> {
        let number = |version: &String| version.parse::<u64>().ok();
        let Some(known) = self.version.as_ref().and_then(number) else {
            return Ok(false);
        };
        let one = ListParams {
            label_selector: self.selector.labels.clone(),
            field_selector: self.selector.fields.clone(),
            limit: Some(1),
            ..ListParams::default()
        };
        Ok(match self.page(&one, &mut |_| {}).await? {
            Page::Read(metadata) => metadata
                .resource_version
                .as_ref()
                .and_then(number)
                .is_some_and(|now| now < known),
            Page::TooLarge => false,
        })
    }

    /// Lists page by page; returns the version of the list.
    async fn list(&mut self, on: &mut (impl FnMut(Event<K>) + Send)) -> Result<String, RemoteError> {
        on(Event::Init);
        let mut params = ListParams {
            label_selector: self.selector.labels.clone(),
            field_selector: self.selector.fields.clone(),
            limit: Some(PAGE),
            ..ListParams::default()
        };
        loop {
            let page = match self.page(&params, on).await? {
                Page::Read(metadata) => metadata,
                Page::TooLarge => {
                    params.limit = params.limit.map(|limit| (limit / 8).max(1));
                    continue;
                }
            };
            if let Some(token) = page.continue_.filter(|token| !token.is_empty()) {
                params.continue_token = Some(token);
                continue;
            }
            let version = page.resource_version.filter(|version| !version.is_empty());
            let version = version.ok_or_else(|| RemoteError::other("a list without a resourceVersion"))?;
            on(Event::InitDone);
            return Ok(version);
        }
    }

    async fn page(
        &mut self,
        params: &ListParams,
        on: &mut (impl FnMut(Event<K>) + Send),
    ) -> Result<Page, RemoteError> {
        let request = kube::core::Request::new(&self.url).list(params);
        let mut answer = self.send(request).await?;
        let (mut items, mut count) = (Items::new(OBJECT_BYTES), 0);
        while let Some(chunk) = answer.next(LIST_IDLE_TIMEOUT).await? {
            let read = items.read(&chunk, |item| {
                count += 1;
                let unread = match item {
                    Item::Whole(json) => match serde_json::from_slice(json) {
                        Ok(object) => return on(Event::InitApply(object)),
                        Err(error) => unreadable::<K>(json, &error.to_string()),
                    },
                    Item::Oversized(json) => unreadable::<K>(json, TOO_LARGE),
                };
                if let Some(key) = unread {
                    on(Event::InitUnreadable(key));
                }
            });
            read.map_err(|error| RemoteError::other(error.to_string()))?;
            self.room.hold(items.held()).await?;
            if answer.read() > PAGE_BYTES {
                let limit = params.limit.unwrap_or(PAGE);
                if limit == 1 || count > limit {
                    return Err(RemoteError::other("a list with more objects than requested"));
                }
                return Ok(Page::TooLarge);
            }
        }
        let metadata = items.end().and_then(|metadata| match metadata.as_slice() {
            [] => Ok(ListMeta::default()),
            json => serde_json::from_slice(json).map_err(|_| items::NotAList),
        });
        metadata
            .map(Page::Read)
            .map_err(|error| RemoteError::other(error.to_string()))
    }

    /// Watches from that version until the API server ends the watch, or no events arrive.
    async fn watch(
        &mut self,
        version: &str,
        on: &mut (impl FnMut(Event<K>) + Send),
    ) -> Result<(), RemoteError> {
        let params = WatchParams {
            label_selector: self.selector.labels.clone(),
            field_selector: self.selector.fields.clone(),
            timeout: Some(WATCH_SECONDS),
            bookmarks: true,
            ..WatchParams::default()
        };
        let request = kube::core::Request::new(&self.url).watch(&params, version);
        let mut answer = self.send(request).await?;
        let mut lines = Lines::new(OBJECT_BYTES);
        loop {
            let chunk = match answer.next(IDLE_TIMEOUT).await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return Ok(()),
                Err(NoChunk::Silent(_)) => {
                    tracing::info!(kind = %K::kind(&K::DynamicType::default()), "a watch delivered nothing for {IDLE_TIMEOUT:?}; listing again");
                    self.version = None;
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            };
            let mut ended = None;
            lines.read(&chunk, |line| {
                if ended.is_none() {
                    ended = self.event(line, on).err();
                }
            });
            if let Some(error) = ended {
                return Err(error);
            }
            self.room.hold(lines.held()).await?;
        }
    }

    /// Handles one event of a watch.
    fn event(&mut self, line: Line<'_>, on: &mut impl FnMut(Event<K>)) -> Result<(), RemoteError> {
        let (json, why) = match line {
            Line::Whole(json) => match serde_json::from_slice::<WatchEvent<K>>(json) {
                Ok(event) => return self.take(event, on),
                Err(error) => (json, error.to_string()),
            },
            Line::Oversized(json) => (json, TOO_LARGE.to_owned()),
        };
        if let Some(key) = unreadable::<K>(json, &why) {
            on(Event::Unreadable(key));
        }
        Ok(())
    }

    fn take(&mut self, event: WatchEvent<K>, on: &mut impl FnMut(Event<K>)) -> Result<(), RemoteError> {
        let seen = |object: &K| object.meta().resource_version.clone();
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                self.version = seen(&object).or_else(|| self.version.take());
                on(Event::Apply(object));
            }
            WatchEvent::Deleted(object) => {
                self.version = seen(&object).or_else(|| self.version.take());
                on(Event::Delete(object));
            }
            WatchEvent::Bookmark(bookmark) => self.version = Some(bookmark.metadata.resource_version),
            WatchEvent::Error(status) => return Err(RemoteError::from_status(&status)),
        }
        Ok(())
    }

    async fn send(
        &self,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<Answer, RemoteError> {
        let request = request.map_err(|_| RemoteError::other("its URL cannot be used"))?;
        let mut request = request.map(Body::from);
        request.extensions_mut().insert(Streamed);
        let (head, body) = self.client.send(request).await?.into_parts();
        let mut answer = Answer::new(body);
        if head.status.is_success() {
            return Ok(answer);
        }
        // Short, because errors are read before.
        let mut text = Vec::new();
        while let Some(chunk) = answer.next(LIST_IDLE_TIMEOUT).await? {
            text.extend_from_slice(&chunk);
        }
        let status = serde_json::from_slice::<Status>(&text).unwrap_or_default();
        Err(RemoteError::from_status(&Status {
            code: head.status.as_u16(),
            ..status
        }))
    }
}

/// The result of requesting a page.
enum Page {
    /// All its objects were delivered; the list's metadata.
    Read(ListMeta),
    /// The page must be requested again with fewer objects.
    TooLarge,
}

/// The requested history is no longer available.
const GONE: u16 = 410;

const TOO_LARGE: &str = "it is larger than 3 MiB";

/// The name of a kind.
fn kind<K: Resource<DynamicType: Default>>() -> String {
    K::kind(&K::DynamicType::default()).into_owned()
}

/// Logs that an object cannot be decoded; returns its name, if it has one.
fn unreadable<K: Resource<DynamicType: Default>>(json: &[u8], why: &str) -> Option<Key> {
    let key = name_of(json);
    unreadable::note(&kind::<K>(), key.as_ref(), why);
    key
}
