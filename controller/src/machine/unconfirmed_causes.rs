//! Causes that an infra cluster also reports for a moment where nothing is wrong, and since when each is seen.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use machinist_infra::cache::store::Key;
use parking_lot::Mutex;

use super::snapshot::types::Infra;

/// How long such a cause must last to be reported. What is no cause passes within a second.
pub const CONFIRMED_AFTER: Duration = Duration::from_secs(5);

/// Since when such a cause is seen, by Machine.
#[derive(Debug, Default)]
pub struct UnconfirmedCauses(Mutex<HashMap<Key, Timestamp>>);

impl UnconfirmedCauses {
    /// Since when one is seen without a pause.
    pub fn since(&self, key: &Key) -> Option<Timestamp> {
        self.0.lock().get(key).copied()
    }

    /// What a reconcile has seen at `now`.
    pub fn note(&self, key: &Key, infra: &Infra, now: Timestamp) {
        if matches!(infra, Infra::Open(open) if open.state.is_unconfirmed) {
            self.0.lock().entry(key.clone()).or_insert(now);
        } else {
            self.forget(key);
        }
    }

    /// The Machine is gone.
    pub fn forget(&self, key: &Key) {
        self.0.lock().remove(key);
    }
}
