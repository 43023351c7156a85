//! A map whose entries expire.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Values by key, each with an expiry.
#[derive(Debug)]
pub struct TtlMap<K, V>(Mutex<HashMap<K, (Instant, V)>>);

impl<K, V> Default for TtlMap<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, V: Clone> TtlMap<K, V> {
    /// The value, if it has not expired.
    pub fn get(&self, key: &K) -> Option<V> {
        let kept = self.0.lock();
        let (until, value) = kept.get(key)?;
        (*until > Instant::now()).then(|| value.clone())
    }

    /// The value, if it has not expired; it then expires `ttl` from now.
    pub(crate) fn renew(&self, key: &K, ttl: Duration) -> Option<V> {
        let now = Instant::now();
        let mut kept = self.0.lock();
        let (until, value) = kept.get_mut(key).filter(|(until, _)| *until > now)?;
        *until = now + ttl;
        Some(value.clone())
    }

    /// Inserts a value that expires after `ttl`, and removes expired ones.
    pub fn insert(&self, key: K, value: V, ttl: Duration) {
        let now = Instant::now();
        let mut kept = self.0.lock();
        kept.retain(|_, (until, _)| *until > now);
        kept.insert(key, (now + ttl, value));
    }

    /// [`TtlMap::renew`], or [`TtlMap::insert`] with a new value, in one step.
    pub(crate) fn renew_or_insert(&self, key: K, ttl: Duration, new: impl FnOnce() -> V) -> V {
        let now = Instant::now();
        let mut kept = self.0.lock();
        kept.retain(|_, (until, _)| *until > now);
        let (until, value) = kept.entry(key).or_insert_with(|| (now, new()));
        *until = now + ttl;
        value.clone()
    }

    /// Number of entries, including expired ones.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Removes all entries.
    pub(crate) fn clear(&self) {
        self.0.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_value_is_kept_until_its_time_is_over() {
        let map = TtlMap::default();
        map.insert("a", 1, TTL);
        tokio::time::advance(TTL.mul_f32(0.9)).await;
        assert_eq!(map.get(&"a"), Some(1));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(map.get(&"a"), None);
        map.insert("b", 2, TTL);
        assert_eq!(map.len(), 1, "what is over takes no memory");
    }

    #[tokio::test(start_paused = true)]
    async fn a_value_that_is_used_is_kept_longer() {
        let map = TtlMap::default();
        assert_eq!(map.renew_or_insert("a", TTL, || 1), 1);
        for _ in 0..3 {
            tokio::time::advance(TTL / 2).await;
            assert_eq!(map.renew(&"a", TTL), Some(1));
            assert_eq!(map.renew_or_insert("a", TTL, || 2), 1);
        }
        tokio::time::advance(TTL).await;
        assert_eq!(map.renew(&"a", TTL), None);
    }
}
