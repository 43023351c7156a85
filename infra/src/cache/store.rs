//! An in-memory cache of one kind, filled by a watch and by the responses to this process's own writes.
//!
//! It never goes backwards: only a higher resourceVersion replaces an object, and a late response to an earlier write
//! does not restore a deleted object. So a decision always sees this process's own earlier writes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use kube::{Resource, ResourceExt};

pub use crate::cache::key::Key;
use parking_lot::RwLock;

use crate::cache::watch::Event;

/// Maximum number of remembered deletions, so that late responses to writes do not restore an object.
const TOMBSTONES: usize = 4096;

struct Inner<K> {
    objects: HashMap<Key, Arc<K>>,
    /// Secondary index: value → keys.
    index: HashMap<String, HashSet<Key>>,
    tombstones: HashMap<Key, u64>,
    /// The current (re-)list.
    listing: Option<Listing>,
    /// Versions of objects that this process wrote during the last list and that the list did not contain. Either the
    /// list was earlier, and the watch will deliver them, or another client has deleted them.
    unconfirmed: HashMap<Key, u64>,
    /// Objects that exist, but cannot be decoded.
    unreadable: HashSet<Key>,
    synced: bool,
    removals: u64,
    /// Approximate size in bytes, if this store tracks it.
    bytes: usize,
}

/// A (re-)list in progress: an object that is in neither set at its end is deleted.
#[derive(Default)]
struct Listing {
    shown: HashSet<Key>,
    unreadable: HashSet<Key>,
    written: HashMap<Key, u64>,
    /// Keys that other events have changed since it began, and may be newer.
    learned: HashSet<Key>,
}

impl Listing {
    /// Whether the list has the newest known version of that object.
    fn is_newest_of(&self, key: &Key) -> bool {
        !self.learned.contains(key)
    }
}

/// The objects of one kind, by key and by one secondary index.
pub struct Store<K> {
    inner: RwLock<Inner<K>>,
    index_of: fn(&K) -> Vec<String>,
    bytes_of: fn(&K) -> usize,
}

impl<K> std::fmt::Debug for Store<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

/// A change by an event: the object before and after.
#[derive(Debug)]
pub struct Change<K> {
    /// The previous object; `None` if it is new.
    pub before: Option<Arc<K>>,
    /// The current object; `None` if it is deleted.
    pub after: Option<Arc<K>>,
}

impl<K> Change<K> {
    /// Before and after, whichever exist.
    pub fn versions(&self) -> impl Iterator<Item = &Arc<K>> {
        self.before.iter().chain(self.after.iter())
    }
}

/// All objects of a kind in a consistent list.
#[derive(Debug, Clone, Default)]
pub struct Listed {
    /// resourceVersion of the list.
    pub at: u64,
    /// resourceVersions of its objects.
    pub versions: HashMap<Key, u64>,
}

impl<K: Resource> Store<K> {
    /// An empty store whose secondary index holds each object under `index_of(object)`.
    pub fn new(index_of: fn(&K) -> Vec<String>) -> Self {
        let inner = Inner {
            objects: HashMap::new(),
            index: HashMap::new(),
            tombstones: HashMap::new(),
            listing: None,
            unconfirmed: HashMap::new(),
            unreadable: HashSet::new(),
            synced: false,
            removals: 0,
            bytes: 0,
        };
        Self {
            inner: RwLock::new(inner),
            index_of,
            bytes_of: |_| 0,
        }
    }

    /// A store that tracks its approximate size in bytes.
    pub fn weighing(index_of: fn(&K) -> Vec<String>, bytes_of: fn(&K) -> usize) -> Self {
        Self {
            bytes_of,
            ..Self::new(index_of)
        }
    }

    /// Approximate size of the objects in bytes.
    pub fn bytes(&self) -> usize {
        self.inner.read().bytes
    }

    /// Removes everything: the existence of every object is then unknown.
    pub fn clear(&self) {
        let (index_of, mut inner) = (self.index_of, self.inner.write());
        let removals = inner.removals + 1;
        *inner = Self::new(index_of).inner.into_inner();
        inner.removals = removals;
    }

    /// Replaces a reduced object by the complete one of the same version.
    pub fn completed(&self, object: K) -> Option<Change<K>> {
        self.put(&mut self.inner.write(), object, Source::Full)
    }

    /// Whether the first list is complete.
    pub fn is_synced(&self) -> bool {
        self.inner.read().synced
    }

    /// Number of removed objects so far: while it is unchanged, every object still exists.
    pub fn removals(&self) -> u64 {
        self.inner.read().removals
    }

    /// The object with that key.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.inner.read().objects.get(key).cloned()
    }

    /// Whether an object with that key exists but cannot be decoded. If it could be decoded earlier, [`Store::get`]
    /// returns that version.
    pub fn is_unreadable(&self, key: &Key) -> bool {
        self.inner.read().unreadable.contains(key)
    }

    /// All objects.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.inner.read().objects.values().cloned().collect()
    }

    /// Whether any object matches the predicate.
    pub fn any(&self, mut like: impl FnMut(&K) -> bool) -> bool {
        self.inner.read().objects.values().any(|object| like(object))
    }

    /// The objects with that index value.
    pub fn by_index(&self, value: &str) -> Vec<Arc<K>> {
        let inner = self.inner.read();
        let keys = inner.index.get(value).into_iter().flatten();
        keys.filter_map(|key| inner.objects.get(key).cloned()).collect()
    }

    /// Whether any object has that index value.
    pub fn has_index(&self, value: &str) -> bool {
        self.inner
            .read()
            .index
            .get(value)
            .is_some_and(|keys| !keys.is_empty())
    }

    /// Whether the store is at least as new as a list: it has every listed object in that version or later, or has seen
    /// its deletion, and has no other object that is older than the list.
    pub fn includes(&self, listed: &Listed) -> bool {
        let inner = self.inner.read();
        let known = |key: &Key, listed: u64| match inner.objects.get(key) {
            Some(object) => version(object.as_ref()).is_none_or(|had| had >= listed),
            None => inner.tombstones.get(key).is_some_and(|dead| *dead >= listed),
        };
        let past = |key: &Key, object: &K| {
            version(object).is_some_and(|had| had <= listed.at) && !listed.versions.contains_key(key)
        };
        listed.versions.iter().all(|(key, version)| known(key, *version))
            && !inner.objects.iter().any(|(key, object)| past(key, object))
    }

    /// Whether a deletion event for that object was received; an object that was only missing in a list may still
    /// exist.
    pub fn saw_deletion(&self, key: &Key) -> bool {
        self.inner.read().tombstones.contains_key(key)
    }

    /// Applies a watch event; returns the change.
    pub fn apply(&self, event: Event<K>) -> Vec<Change<K>> {
        let mut inner = self.inner.write();
        match event {
            Event::Init => {
                let unfinished = inner.listing.replace(Listing::default()).unwrap_or_default();
                let bytes: usize = unfinished.unreadable.iter().map(bytes_of_key).sum();
                inner.bytes = inner.bytes.saturating_sub(bytes);
                Vec::new()
            }
            Event::InitApply(object) => {
                if let Some(listing) = &mut inner.listing {
                    listing.shown.insert(Key::of(&object));
                }
                self.put(&mut inner, object, Source::List).into_iter().collect()
            }
            Event::InitDone => {
                let Listing {
                    shown,
                    unreadable,
                    mut written,
                    learned: _,
                } = inner.listing.take().unwrap_or_default();
                let before: usize = inner.unreadable.iter().map(bytes_of_key).sum();
                inner.bytes = inner.bytes.saturating_sub(before);
                inner.unreadable = unreadable;
                inner.synced = true;
                let gone: Vec<Key> = inner
                    .objects
                    .keys()
                    .filter(|key| !shown.contains(key) && !written.contains_key(key))
                    // The last decodable version is better than none.
                    .filter(|key| !inner.unreadable.contains(key))
                    .cloned()
                    .collect();
                written.retain(|key, _| !shown.contains(key));
                inner.unconfirmed = written;
                gone.into_iter()
                    .filter_map(|key| self.remove(&mut inner, &key))
                    .collect()
            }
            Event::InitUnreadable(key) => {
                let bytes = bytes_of_key(&key);
                if inner
                    .listing
                    .as_mut()
                    .is_some_and(|listing| listing.unreadable.insert(key))
                {
                    inner.bytes += bytes;
                }
                Vec::new()
            }
            Event::Unreadable(key) => {
                let bytes = bytes_of_key(&key);
                if inner.unreadable.insert(key) {
                    inner.bytes += bytes;
                }
                Vec::new()
            }
            Event::Apply(object) => {
                let mut changes = self.remove_refuted(&mut inner, &object);
                changes.extend(self.put(&mut inner, object, Source::Watch));
                changes
            }
            Event::Delete(object) => {
                let mut changes = self.remove_refuted(&mut inner, &object);
                let key = Key::of(&object);
                Self::is_readable(&mut inner, &key);
                if inner
                    .objects
                    .get(&key)
                    .is_some_and(|old| old.uid() != object.uid())
                {
                    return changes;
                }
                let version = version(&object).unwrap_or(u64::MAX);
                Self::add_tombstone(&mut inner, &key, version);
                changes.extend(self.remove(&mut inner, &key));
                changes
            }
        }
    }

    /// The latest known version of that object or of its deletion, for [`Self::observed`].
    pub fn latest_version(&self, key: &Key) -> Option<u64> {
        let inner = self.inner.read();
        let object = inner.objects.get(key).and_then(|object| version(object.as_ref()));
        object.max(inner.tombstones.get(key).copied())
    }

    /// Applies the response to a GET of that object; returns the change. `known` is the latest version that was known
    /// when the GET was sent. An older version shows that the API server's storage was restored.
    pub fn observed(&self, key: &Key, found: Option<K>, known: Option<u64>) -> Option<Change<K>> {
        let mut inner = self.inner.write();
        match found {
            Some(object) if version(&object) < known => self.put(&mut inner, object, Source::Restored),
            Some(object) => self.put(&mut inner, object, Source::Read),
            None => self.remove(&mut inner, key),
        }
    }

    /// Applies the API server's response to one of this process's writes.
    pub fn written(&self, object: K) {
        let mut inner = self.inner.write();
        self.put(&mut inner, object, Source::Write);
    }

    /// Records that one of this process's deletions removed the object with that UID immediately.
    pub fn deleted(&self, key: &Key, uid: &str) {
        let mut inner = self.inner.write();
        let Some(object) = inner
            .objects
            .get(key)
            .filter(|object| object.uid().as_deref() == Some(uid))
        else {
            return;
        };
        let version = version(object.as_ref()).unwrap_or_default();
        Self::add_tombstone(&mut inner, key, version);
        if let Some(listing) = &mut inner.listing {
            listing.learned.insert(key.clone());
        }
        self.remove(&mut inner, key);
    }

    fn put(&self, inner: &mut Inner<K>, object: K, source: Source) -> Option<Change<K>> {
        let key = Key::of(&object);
        let new = version(&object);
        // A list is at least as new as its start, so an older version shows that the API server's storage was restored.
        let restored = match source {
            Source::Restored => true,
            Source::List => inner
                .listing
                .as_ref()
                .is_some_and(|listing| listing.is_newest_of(&key)),
            Source::Watch | Source::Write | Source::Read | Source::Full => false,
        };
        if source != Source::List
            && let Some(listing) = &mut inner.listing
        {
            listing.learned.insert(key.clone());
        }
        // Also an event of a watch that lags behind this process's own deletion.
        if !restored
            && inner
                .tombstones
                .get(&key)
                .is_some_and(|dead| new.is_none_or(|v| v <= *dead))
        {
            return None;
        }
        // A list that began before this process's write does not contain the object, and must not remove it.
        if source == Source::Write
            && let (Some(listing), Some(new)) = (&mut inner.listing, new)
        {
            listing.written.insert(key.clone(), new);
        }
        let old = inner.objects.get(&key).cloned();
        if let Some(old) = &old
            && old.uid() == object.uid()
            && let (Some(had), Some(new)) = (version(old.as_ref()), new)
            // The response to a write that removes the last finalizer of a deleted object has the previous version.
            && ((new < had && !restored) || (new == had && [Source::List, Source::Read].contains(&source)))
        {
            return None;
        }
        if let Some(old) = &old {
            inner.bytes = inner.bytes.saturating_sub((self.bytes_of)(old));
            self.unindex(inner, &key, old);
        }
        let object = Arc::new(object);
        for value in (self.index_of)(&object) {
            inner.index.entry(value).or_default().insert(key.clone());
        }
        if inner.tombstones.remove(&key).is_some() {
            inner.bytes = inner.bytes.saturating_sub(bytes_of_key(&key));
        }
        Self::is_readable(inner, &key);
        inner.bytes += (self.bytes_of)(&object);
        inner.objects.insert(key, object.clone());
        Some(Change {
            before: old,
            after: Some(object),
        })
    }

    /// Removes objects that this process wrote during the last list and that the watch would have delivered before
    /// `object`: the list was new enough to contain them, and did not.
    fn remove_refuted(&self, inner: &mut Inner<K>, object: &K) -> Vec<Change<K>> {
        if inner.unconfirmed.is_empty() {
            return Vec::new();
        }
        inner.unconfirmed.remove(&Key::of(object));
        let event = version(object).unwrap_or_default();
        let refuted = inner.unconfirmed.extract_if(|_, written| *written < event);
        let refuted: Vec<(Key, u64)> = refuted.collect();
        let mut changes = Vec::new();
        for (key, written) in refuted {
            let same = |object: &Arc<K>| version(object.as_ref()) == Some(written);
            if inner.objects.get(&key).is_some_and(same) {
                changes.extend(self.remove(inner, &key));
            }
        }
        changes
    }

    fn remove(&self, inner: &mut Inner<K>, key: &Key) -> Option<Change<K>> {
        let old = inner.objects.remove(key)?;
        inner.removals += 1;
        inner.bytes = inner.bytes.saturating_sub((self.bytes_of)(&old));
        self.unindex(inner, key, &old);
        Some(Change {
            before: Some(old),
            after: None,
        })
    }

    fn add_tombstone(inner: &mut Inner<K>, key: &Key, version: u64) {
        if inner.tombstones.len() >= TOMBSTONES {
            let bytes: usize = inner.tombstones.keys().map(bytes_of_key).sum();
            inner.bytes = inner.bytes.saturating_sub(bytes);
            inner.tombstones.clear();
        }
        if inner.tombstones.insert(key.clone(), version).is_none() {
            inner.bytes += bytes_of_key(key);
        }
    }

    fn is_readable(inner: &mut Inner<K>, key: &Key) {
        if inner.unreadable.remove(key) {
            inner.bytes = inner.bytes.saturating_sub(bytes_of_key(key));
        }
    }

    fn unindex(&self, inner: &mut Inner<K>, key: &Key, old: &K) {
        for value in (self.index_of)(old) {
            if let Some(keys) = inner.index.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    inner.index.remove(&value);
                }
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    List,
    Watch,
    Write,
    /// A read of that object.
    Read,
    /// A read of that object with an older version than was known before.
    Restored,
    /// A read of the complete object.
    Full,
}

fn bytes_of_key(key: &Key) -> usize {
    size_of::<Key>() + key.namespace.len() + key.name.len()
}

/// resourceVersions of one kind are comparable decimal numbers (KEP-5504).
fn version<K: Resource>(object: &K) -> Option<u64> {
    object.meta().resource_version.as_deref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::core::ObjectMeta;

    fn object(uid: &str, version: &str) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta {
                name: Some("a".into()),
                namespace: Some("ns".into()),
                uid: Some(uid.into()),
                resource_version: Some(version.into()),
                ..ObjectMeta::default()
            },
            ..ConfigMap::default()
        }
    }

    fn store() -> Store<ConfigMap> {
        Store::new(|o| o.metadata.uid.clone().into_iter().collect())
    }

    fn version_in(store: &Store<ConfigMap>) -> Option<String> {
        store.get(&Key::new("ns", "a")).and_then(|o| o.resource_version())
    }

    #[test]
    fn an_older_event_does_not_undo_our_own_write() {
        let store = store();
        store.apply(Event::Apply(object("u", "5")));
        store.written(object("u", "9"));
        assert!(store.apply(Event::Apply(object("u", "7"))).is_empty());
        assert_eq!(version_in(&store).as_deref(), Some("9"));
    }

    #[test]
    fn what_takes_the_last_finalizer_away_is_seen_although_it_has_the_version_before_it() {
        let store = store();
        let mut held = object("u", "9");
        held.metadata.finalizers = Some(vec!["a/b".into()]);
        store.apply(Event::Apply(held));
        store.written(object("u", "9"));
        assert!(store.get(&Key::new("ns", "a")).unwrap().finalizers().is_empty());
    }

    #[test]
    fn the_watch_event_of_our_own_write_still_reports_a_change() {
        let store = store();
        store.written(object("u", "9"));
        assert_eq!(store.apply(Event::Apply(object("u", "9"))).len(), 1);
    }

    #[test]
    fn a_late_answer_does_not_bring_a_deleted_object_back() {
        let store = store();
        store.apply(Event::Apply(object("u", "5")));
        store.apply(Event::Delete(object("u", "8")));
        store.written(object("u", "7"));
        assert_eq!(version_in(&store), None);
        store.apply(Event::Apply(object("v", "9")));
        assert_eq!(version_in(&store).as_deref(), Some("9"));
    }

    #[test]
    fn a_relist_drops_what_is_no_longer_there_and_keeps_the_index_true() {
        let store = store();
        store.apply(Event::Apply(object("u", "5")));
        assert_eq!(store.by_index("u").len(), 1);
        store.apply(Event::Init);
        let gone = store.apply(Event::InitDone);
        assert_eq!(gone.len(), 1);
        assert!(store.by_index("u").is_empty() && store.is_synced());
        let key = Key::new("ns", "a");
        assert!(!store.saw_deletion(&key), "it was only missing");
        store.apply(Event::Apply(object("u", "6")));
        store.apply(Event::Delete(object("u", "7")));
        assert!(store.saw_deletion(&key));
    }

    #[test]
    fn what_was_looked_up_comes_and_goes_and_removals_are_counted() {
        let (store, key) = (store(), Key::new("ns", "a"));
        store.observed(&key, Some(object("u", "5")), None);
        store.observed(&key, Some(object("u", "4")), None);
        assert_eq!((version_in(&store).as_deref(), store.removals()), (Some("5"), 0));
        store.observed(&key, None, Some(5));
        assert_eq!((version_in(&store), store.removals()), (None, 1));
        store.observed(&key, None, None);
        assert_eq!(store.removals(), 1);
    }

    #[test]
    fn a_read_that_shows_less_than_was_known_before_it_shows_that_storage_was_restored() {
        let (store, key) = (store(), Key::new("ns", "a"));
        store.apply(Event::Apply(object("u", "5")));
        store.observed(&key, Some(object("u", "4")), store.latest_version(&key));
        assert_eq!(version_in(&store).as_deref(), Some("4"));
        store.apply(Event::Delete(object("u", "8")));
        assert_eq!(store.latest_version(&key), Some(8));
        store.observed(&key, Some(object("u", "4")), store.latest_version(&key));
        assert_eq!(version_in(&store).as_deref(), Some("4"), "it is there again");
    }

    #[test]
    fn a_list_shows_that_storage_was_restored_but_for_what_was_learned_since_it_began() {
        let store = store();
        store.apply(Event::Apply(object("u", "9")));
        let list = |version| {
            store.apply(Event::InitApply(object("u", version)));
            store.apply(Event::InitDone);
            version_in(&store)
        };
        store.apply(Event::Init);
        assert_eq!(list("5").as_deref(), Some("5"));
        store.apply(Event::Delete(object("u", "10")));
        store.apply(Event::Init);
        assert_eq!(list("5").as_deref(), Some("5"), "it is there again");
        store.apply(Event::Init);
        store.observed(&Key::new("ns", "a"), Some(object("u", "7")), Some(5));
        assert_eq!(list("6").as_deref(), Some("7"), "read after the list began");
    }

    #[test]
    fn a_store_knows_a_list_once_it_has_seen_all_of_it_and_lost_what_was_gone() {
        let store = store();
        let listed = |versions: &[u64]| Listed {
            at: 8,
            versions: versions.iter().map(|v| (Key::new("ns", "a"), *v)).collect(),
        };
        assert!(store.includes(&listed(&[])));
        assert!(!store.includes(&listed(&[5])), "it has not come yet");
        store.apply(Event::Apply(object("u", "5")));
        assert!(store.includes(&listed(&[5])));
        assert!(!store.includes(&listed(&[6])), "it has changed since");
        assert!(!store.includes(&listed(&[])), "its end has not come yet");
        store.apply(Event::Apply(object("u", "9")));
        assert!(store.includes(&listed(&[6])), "it is newer");
        assert!(store.includes(&listed(&[])), "it was made later than the list");
        store.apply(Event::Delete(object("u", "11")));
        assert!(store.includes(&listed(&[6])) && store.includes(&listed(&[])));
    }

    #[test]
    fn a_list_that_began_before_our_write_does_not_end_what_we_wrote() {
        let store = store();
        store.apply(Event::Init);
        store.written(object("u", "9"));
        assert!(store.apply(Event::InitDone).is_empty());
        assert_eq!(version_in(&store).as_deref(), Some("9"));
    }

    #[test]
    fn an_object_written_during_a_list_and_deleted_before_its_end_goes_when_the_watch_continues() {
        let store = store();
        store.apply(Event::Init);
        store.written(object("u", "9"));
        store.apply(Event::InitDone);
        let mut other = object("v", "9");
        other.metadata.name = Some("b".into());
        assert_eq!(
            store.apply(Event::Apply(other.clone())).len(),
            1,
            "it may come yet"
        );
        assert!(version_in(&store).is_some());
        other.metadata.resource_version = Some("11".into());
        let changes = store.apply(Event::Apply(other.clone()));
        assert_eq!(changes.len(), 2);
        assert_eq!(version_in(&store), None, "the watch is past it");

        store.apply(Event::Init);
        store.apply(Event::InitApply(other.clone()));
        store.written(object("u", "13"));
        store.apply(Event::InitDone);
        store.apply(Event::Apply(object("u", "13")));
        other.metadata.resource_version = Some("15".into());
        store.apply(Event::Apply(other));
        assert!(version_in(&store).is_some(), "the watch has event of it");
    }

    #[test]
    fn what_we_deleted_is_not_brought_back_by_a_list_or_watch_that_lags() {
        let store = store();
        store.apply(Event::Apply(object("u", "5")));
        store.apply(Event::Init);
        store.deleted(&Key::new("ns", "a"), "u");
        store.apply(Event::InitApply(object("u", "5")));
        store.apply(Event::InitDone);
        store.apply(Event::Apply(object("u", "4")));
        assert_eq!(version_in(&store), None);
        store.apply(Event::Apply(object("v", "9")));
        assert_eq!(version_in(&store).as_deref(), Some("9"));
    }

    #[test]
    fn a_deletion_of_an_earlier_incarnation_leaves_the_new_one() {
        let store = store();
        store.apply(Event::Apply(object("new", "9")));
        assert!(store.apply(Event::Delete(object("old", "8"))).is_empty());
        assert!(version_in(&store).is_some());
    }
}
