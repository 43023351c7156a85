//! The times since which written state has been visible to all clients.
//!
//! The deciding process keeps them in memory, not in the cluster: a new leader waits again, which costs minutes of a
//! rotation that has weeks.

use std::time::SystemTime;

use crate::root::{Bundle, Root};

use super::observed::{SecretState, Serving, Signer, Since};

/// The times that a process has observed.
#[derive(Debug, Default)]
pub struct RotationState {
    trusted: Option<(Root, SystemTime)>,
    issued: Option<(Vec<u8>, SystemTime)>,
}

impl RotationState {
    /// Updates the times from the current state.
    pub fn note(
        &mut self,
        signer: &SecretState<Signer>,
        serving: &SecretState<Serving>,
        bundles: &[Bundle],
        now: SystemTime,
    ) -> Since {
        let trusted = match signer {
            SecretState::Usable(signer)
                if bundles.iter().all(|bundle| bundle.roots.contains(&signer.root)) =>
            {
                Some(&signer.root)
            }
            _ => None,
        };
        let issued = match serving {
            SecretState::Usable(serving) => Some(&serving.leaf),
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
