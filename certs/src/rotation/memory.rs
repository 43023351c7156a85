//! What only time can tell: since when everybody could have learnt of what was written.
//!
//! It is kept by whoever decides, not in the cluster: a new leader knows nothing of it and waits anew, which costs minutes
//! of a rotation that has weeks.

use std::time::SystemTime;

use crate::root::{Bundle, Root};

use super::observed::{Found, Serving, Signer, Since};

/// What a process has seen so far.
#[derive(Debug, Default)]
pub struct Memory {
    trusted: Option<(Root, SystemTime)>,
    issued: Option<(Vec<u8>, SystemTime)>,
}

impl Memory {
    /// Takes note of what is there now.
    pub fn note(
        &mut self,
        signer: &Found<Signer>,
        serving: &Found<Serving>,
        bundles: &[Bundle],
        now: SystemTime,
    ) -> Since {
        let trusted = match signer {
            Found::Usable(signer) if bundles.iter().all(|bundle| bundle.roots.contains(&signer.root)) => {
                Some(&signer.root)
            }
            _ => None,
        };
        let issued = match serving {
            Found::Usable(serving) => Some(&serving.leaf),
            _ => None,
        };
        Since {
            trusted: keep(&mut self.trusted, trusted, now),
            issued: keep(&mut self.issued, issued, now),
        }
    }
}

fn keep<T: Clone + PartialEq>(
    seen: &mut Option<(T, SystemTime)>,
    found: Option<&T>,
    now: SystemTime,
) -> Option<SystemTime> {
    if seen.as_ref().map(|(seen, _)| seen) != found {
        *seen = found.map(|found| (found.clone(), now));
    }
    seen.as_ref().map(|(_, since)| *since)
}
