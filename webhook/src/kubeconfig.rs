//! Verdicts on the kubeconfigs in specs, each kubeconfig parsed once: a cluster's Machines all carry the same.

use std::collections::HashMap;
use std::sync::Arc;

use machinist_infra::kube::kubeconfig::{AddressPolicy, InfraKubeconfig};
use machinist_shared::provider::decode_base64;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

/// How many verdicts one generation of the cache holds.
const GENERATION: usize = 128;

type Key = [u8; 32];
/// Nothing, or what is wrong. Never holds any of the kubeconfig.
type Verdict = Option<Arc<str>>;

/// Verdicts by digest of the text, so that no credential is kept.
#[derive(Debug, Default)]
pub(crate) struct Verdicts {
    policy: AddressPolicy,
    generations: Mutex<Generations>,
}

/// What is asked for moves to the young generation; when that is full, the old one is dropped.
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Key, Verdict>,
    old: HashMap<Key, Verdict>,
}

impl Verdicts {
    /// No verdicts yet; kubeconfigs may lead where `policy` says.
    pub(crate) fn new(policy: AddressPolicy) -> Self {
        Self {
            policy,
            ..Self::default()
        }
    }

    /// What is wrong with an inline kubeconfig, if anything; `None` as well for what is no base64, which is told
    /// elsewhere.
    pub(crate) fn check(&self, inline: &str) -> Verdict {
        let key = Sha256::digest(inline).into();
        if let Some(verdict) = self.generations.lock().get(&key) {
            return verdict;
        }
        // Not under the lock: parsing takes a while.
        let verdict = decode_base64(inline)
            .and_then(|text| InfraKubeconfig::parse(&text, self.policy).err())
            .map(|error| Arc::from(error.to_string()));
        self.generations.lock().insert(key, &verdict);
        verdict
    }
}

impl Generations {
    fn get(&mut self, key: &Key) -> Option<Verdict> {
        if let Some(verdict) = self.young.get(key) {
            return Some(verdict.clone());
        }
        let verdict = self.old.remove(key)?;
        self.insert(*key, &verdict);
        Some(verdict)
    }

    fn insert(&mut self, key: Key, verdict: &Verdict) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, verdict.clone());
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
        let verdicts = Verdicts::default();
        for _ in 0..2 {
            assert_eq!(verdicts.check(&kubeconfig("token: t")), None);
            let refused = verdicts.check(&kubeconfig("exec: {command: sh}")).unwrap();
            assert!(refused.contains("exec"), "{refused}");
        }
        assert_eq!(verdicts.generations.lock().young.len(), 2);
    }

    #[test]
    fn the_cache_is_bounded_and_keeps_what_is_used() {
        let verdicts = Verdicts::default();
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
