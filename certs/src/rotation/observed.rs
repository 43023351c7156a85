//! What is known when it is decided.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use crate::authority::{Authority, BACKDATE};
use crate::identity::Identity;
use crate::probe::Served;
use crate::root::{Bundle, Root, Validity};

/// Since when it has been so, without a break, as far as this process has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Since {
    /// The authority is in every `caBundle`.
    pub trusted: Option<SystemTime>,
    /// The serving Secret holds the certificate that it holds.
    pub issued: Option<SystemTime>,
}

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Policy {
    /// DNS names and IP addresses by which API servers call the webhook.
    pub names: Vec<String>,
    /// How long an authority is valid.
    pub authority_lifetime: Duration,
    /// How long a serving certificate is valid.
    pub leaf_lifetime: Duration,
    /// How long everybody may take to learn of a new `caBundle` or of a new serving certificate.
    pub overlap: Duration,
}

/// A Secret, as far as it concerns us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<T> {
    /// There is none.
    Absent,
    /// There is one without our label: it is not ours to change.
    Foreign,
    /// It is ours, and what it holds is of no use, for this reason.
    Unusable(String),
    /// It is ours, and good.
    Usable(T),
}

/// The Secret of the authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// Its certificate.
    pub root: Root,
    /// Whether somebody asks for another one.
    pub rotate: bool,
}

/// The Secret that the webhook serves with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serving {
    pub(super) leaf: Vec<u8>,
    pub(super) validity: Validity,
    pub(super) authorities: BTreeSet<Root>,
    pub(super) rotate: bool,
}

/// All of it, at one time.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The time.
    pub now: SystemTime,
    /// The Secret of the authority.
    pub signer: Found<Signer>,
    /// The Secret that the webhook serves with.
    pub serving: Found<Serving>,
    /// The `caBundle` of each webhook of the configurations.
    pub bundles: Vec<Bundle>,
    /// What each replica serves with; nothing if it is not known which there are.
    pub replicas: Option<Vec<Served>>,
    /// Since when it has been so.
    pub since: Since,
}

impl Signer {
    /// Reads what the Secret of the authority holds.
    pub fn read(certificate: &[u8], key: &[u8], rotate: bool) -> Found<Self> {
        match Authority::from_pem(certificate, key) {
            Ok(authority) => Found::Usable(Self {
                root: authority.root().clone(),
                rotate,
            }),
            Err(error) => Found::Unusable(error.to_string()),
        }
    }
}

impl Serving {
    /// Reads what the serving Secret (`namespace/name`) holds at that time: `tls.crt`, `tls.key` and `ca.crt`.
    pub fn read(
        secret: &str,
        [certificate, key, authority]: [&[u8]; 3],
        rotate: bool,
        now: SystemTime,
    ) -> Found<Self> {
        match Identity::of_secret(secret, certificate, key, now) {
            Ok(identity) => Found::Usable(Self {
                leaf: identity.leaf().to_vec(),
                validity: identity.validity(),
                authorities: Bundle::from_pem(authority).roots,
                rotate,
            }),
            Err(error) => Found::Unusable(error.to_string()),
        }
    }

    /// When it ends to be valid.
    pub fn ends(&self) -> SystemTime {
        self.validity.ends
    }
}

impl Validity {
    /// When two thirds of it are over, from the moment in which it was signed.
    pub(super) fn two_thirds(self) -> SystemTime {
        let signed = self.begins + BACKDATE;
        signed + self.ends.duration_since(signed).unwrap_or_default() * 2 / 3
    }
}
