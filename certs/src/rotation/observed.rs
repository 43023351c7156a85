//! The input of the decision.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use crate::authority::{Authority, BACKDATE};
use crate::identity::Identity;
use crate::probe::Served;
use crate::root::{Bundle, Root, Validity};

/// Since when the state has been unchanged, as observed by this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Since {
    /// Since when the authority is in every `caBundle`.
    pub trusted: Option<SystemTime>,
    /// Since when the serving Secret has its certificate.
    pub issued: Option<SystemTime>,
}

/// The desired settings.
#[derive(Debug, Clone)]
pub struct Policy {
    /// DNS names and IP addresses of the webhook for API servers.
    pub names: Vec<String>,
    /// How long an authority is valid.
    pub authority_lifetime: Duration,
    /// How long a serving certificate is valid.
    pub leaf_lifetime: Duration,
    /// How long API servers and replicas may take to use a new `caBundle` or serving certificate.
    pub overlap: Duration,
}

/// The state of a Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretState<T> {
    /// It does not exist.
    Absent,
    /// It exists without Machinist's label, so Machinist must not change it.
    Foreign,
    /// It is Machinist's, but its content is not usable, for this reason.
    Unusable(String),
    /// It is Machinist's and usable.
    Usable(T),
}

/// The Secret of the authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// Its certificate.
    pub root: Root,
    /// Whether an annotation requests a new one.
    pub rotate: bool,
}

/// The Secret with the webhook's serving certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serving {
    pub(super) leaf: Vec<u8>,
    pub(super) validity: Validity,
    pub(super) authorities: BTreeSet<Root>,
    pub(super) rotate: bool,
}

/// The observed state at one time.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The time.
    pub now: SystemTime,
    /// The Secret of the authority.
    pub signer: SecretState<Signer>,
    /// The Secret with the webhook's serving certificate.
    pub serving: SecretState<Serving>,
    /// The `caBundle` of each webhook of the configurations.
    pub bundles: Vec<Bundle>,
    /// The certificate of each replica; `None` if the replicas are unknown.
    pub replicas: Option<Vec<Served>>,
    /// Since when the state has been unchanged.
    pub since: Since,
}

impl Signer {
    /// Parses the Secret of the authority.
    pub fn read(certificate: &[u8], key: &[u8], rotate: bool) -> SecretState<Self> {
        match Authority::from_pem(certificate, key) {
            Ok(authority) => SecretState::Usable(Self {
                root: authority.root().clone(),
                rotate,
            }),
            Err(error) => SecretState::Unusable(error.to_string()),
        }
    }
}

impl Serving {
    /// Parses the serving Secret (`namespace/name`) at that time: `tls.crt`, `tls.key` and `ca.crt`.
    pub fn read(
        secret: &str,
        [certificate, key, authority]: [&[u8]; 3],
        rotate: bool,
        now: SystemTime,
    ) -> SecretState<Self> {
        match Identity::of_secret(secret, certificate, key, now) {
            Ok(identity) => SecretState::Usable(Self {
                leaf: identity.leaf().to_vec(),
                validity: identity.validity(),
                authorities: Bundle::from_pem(authority).roots,
                rotate,
            }),
            Err(error) => SecretState::Unusable(error.to_string()),
        }
    }

    /// Its expiry time.
    pub fn ends(&self) -> SystemTime {
        self.validity.ends
    }
}

impl Validity {
    /// When two thirds of its lifetime since signing have passed.
    pub(super) fn two_thirds(self) -> SystemTime {
        let signed = self.begins + BACKDATE;
        signed + self.ends.duration_since(signed).unwrap_or_default() * 2 / 3
    }
}
