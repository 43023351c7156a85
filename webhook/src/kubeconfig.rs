//! Cached validation of kubeconfigs in specs, parsed once: all Machines of a cluster have the same one.

use std::collections::HashMap;
use std::sync::Arc;

use machinist_infra::kube::kubeconfig::{AddressPolicy, InfraKubeconfig};
use machinist_shared::provider::decode_base64;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

/// Size of one generation of the cache.
const GENERATION: usize = 128;

type Key = [u8; 32];
/// The error, if any. Never contains any part of the kubeconfig.
type Validation = Option<Arc<str>>;

/// ValidationCache by digest of the text, so that no credential is kept.
#[derive(Debug, Default)]
pub(crate) struct ValidationCache {
    policy: AddressPolicy,
    generations: Mutex<Generations>,
}

/// A used entry moves to the young generation; when that is full, the old one is dropped.
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Key, Validation>,
    old: HashMap<Key, Validation>,
}

impl ValidationCache {
    /// An empty cache; `policy` limits the addresses of kubeconfigs.
    pub(crate) fn new(policy: AddressPolicy) -> Self {
        Self {
            policy,
            ..Self::default()
        }
    }

    /// The error of an inline kubeconfig, if any; `None` if it is not base64, which is reported elsewhere.
    pub(crate) fn check(&self, inline: &str) -> Validation {
        let key = Sha256::digest(inline).into();
        if let Some(validation) = self.generations.lock().get(&key) {
            return validation;
        }
        // Not under the lock, because parsing is slow.
        let validation = decode_base64(inline)
            .and_then(|text| InfraKubeconfig::parse(&text, self.policy).err())
            .map(|error| Arc::from(error.to_string()));
        self.generations.lock().insert(key, &validation);
        validation
    }
}

impl Generations {
    fn get(&mut self, key: &Key) -> Option<Validation> {
        if let Some(validation) = self.young.get(key) {
            return Some(validation.clone());
        }
        let validation = self.old.remove(key)?;
        self.insert(*key, &validation);
        Some(validation)
    }

    fn insert(&mut self, key: Key, validation: &Validation) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, validation.clone());
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn kubeconfig(user: &str) -> String {
        STANDARD.encode(format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: 'https://infra.example'}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n"
        ))
    }

    #[test]
    fn a_verdict_is_the_same_when_it_is_remembered() {
        let verdicts = ValidationCache::default();
        for _ in 0..2 {
            assert_eq!(verdicts.check(&kubeconfig("token: t")), None);
            let refused = verdicts.check(&kubeconfig("exec: {command: sh}")).unwrap();
            assert!(refused.contains("exec"), "{refused}");
        }
        assert_eq!(verdicts.generations.lock().young.len(), 2);
    }

    #[test]
    fn the_cache_is_bounded_and_keeps_what_is_used() {
        let verdicts = ValidationCache::default();
        let used = kubeconfig("exec: {}");
        verdicts.check(&used);
        for i in 0..10 * GENERATION {
            verdicts.check(&i.to_string());
            if i % (GENERATION / 2) == 0 {
                verdicts.check(&used);
            }
        }
        let generations = verdicts.generations.lock();
        assert!(generations.young.len() + generations.old.len() <= 2 * GENERATION);
        let key: Key = Sha256::digest(&used).into();
        assert!(generations.young.contains_key(&key) || generations.old.contains_key(&key));
    }
}
