//! Kubeconfigs that were read lately: every pass over a Machine brings the text of its own, which is mostly the same as the
//! last time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::kube::kubeconfig::{AddressPolicy, InfraKubeconfig, KubeconfigError};

/// One that nobody has brought for so long is forgotten.
const KEPT: Duration = Duration::from_mins(10);

/// What became of a text.
type Read = Arc<Result<InfraKubeconfig, KubeconfigError>>;

/// Kubeconfigs that were read lately, by digest of their text.
#[derive(Default)]
pub(super) struct Readings {
    by_digest: Mutex<HashMap<[u8; 32], (Instant, Read)>>,
}

impl Readings {
    /// Reads a kubeconfig, unless that has been done.
    pub(super) fn read(&self, text: &str, policy: AddressPolicy, now: Instant) -> Read {
        let digest = Sha256::digest(text.as_bytes()).into();
        if let Some((used, read)) = self.lock().get_mut(&digest) {
            *used = now;
            return Arc::clone(read);
        }
        let read = Arc::new(InfraKubeconfig::parse(text, policy));
        let mut readings = self.lock();
        readings.retain(|_, (used, _)| now.duration_since(*used) < KEPT);
        readings.insert(digest, (now, Arc::clone(&read)));
        read
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], (Instant, Read)>> {
        // Every change is complete before anything can panic.
        self.by_digest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_once_and_forgotten_when_nobody_brings_it_any_more() {
        let (readings, policy) = (Readings::default(), AddressPolicy { allow_loopback: true });
        let (now, later) = (Instant::now(), Instant::now() + KEPT);
        let first = readings.read("nonsense", policy, now);
        assert!(first.is_err());
        assert!(Arc::ptr_eq(&first, &readings.read("nonsense", policy, now)));
        readings.read("other nonsense", policy, later);
        assert!(!Arc::ptr_eq(&first, &readings.read("nonsense", policy, later)));
    }
}
