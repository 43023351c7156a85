//! A cache of parsed kubeconfigs: every reconcile of a Machine provides the text of its kubeconfig, which is usually
//! unchanged.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::cache::ttl::TtlMap;
use crate::kube::kubeconfig::{AddressPolicy, InfraKubeconfig, KubeconfigError};

/// How long an unused entry is kept.
const CACHE_TTL: Duration = Duration::from_mins(10);

/// The result of parsing a text.
type Read = Arc<Result<InfraKubeconfig, KubeconfigError>>;

/// Parsed kubeconfigs, by digest of their text.
#[derive(Default)]
pub(super) struct KubeconfigCache(TtlMap<[u8; 32], Read>);

impl KubeconfigCache {
    /// Parses a kubeconfig, unless it is cached.
    pub(super) fn read(&self, text: &str, policy: AddressPolicy) -> Read {
        let digest = Sha256::digest(text.as_bytes()).into();
        self.0.renew(&digest, CACHE_TTL).unwrap_or_else(|| {
            let read = Arc::new(InfraKubeconfig::parse(text, policy));
            self.0.insert(digest, Arc::clone(&read), CACHE_TTL);
            read
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_text_is_parsed_once_and_forgotten_when_unused() {
        let (kubeconfigs, policy) = (KubeconfigCache::default(), AddressPolicy { allow_loopback: true });
        let first = kubeconfigs.read("nonsense", policy);
        assert!(first.is_err());
        assert!(Arc::ptr_eq(&first, &kubeconfigs.read("nonsense", policy)));
        tokio::time::advance(CACHE_TTL).await;
        assert!(!Arc::ptr_eq(&first, &kubeconfigs.read("nonsense", policy)));
    }
}
