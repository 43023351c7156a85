//! Ranges of addresses.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The longest that kube-apiserver lets the host's part of a range of Services be, in bits, where ranges are no objects
/// (`validateClusterIPFlags` of its options).
const HOST_BITS: u32 = 20;

/// A range of addresses: the first, or any other, and the length of the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range(IpAddr, u8);

impl Range {
    /// The most that the range of Services can be, if this is the address of the API server's own: that is the second.
    pub(super) fn at_most(api_server: IpAddr) -> Option<Self> {
        Some(match api_server {
            IpAddr::V4(address) => {
                let first = address.to_bits().checked_sub(1)?;
                let host = first.trailing_zeros().min(HOST_BITS);
                Self(IpAddr::V4(first.into()), u8::try_from(32 - host).ok()?)
            }
            IpAddr::V6(address) => {
                let first = address.to_bits().checked_sub(1)?;
                let host = first.trailing_zeros().min(HOST_BITS);
                Self(IpAddr::V6(first.into()), u8::try_from(128 - host).ok()?)
            }
        })
    }

    pub(super) fn contains(self, address: IpAddr) -> bool {
        let (first, address, length) = match (self.0, address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                (first.to_bits().into(), address.to_bits().into(), 32)
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => (first.to_bits(), address.to_bits(), 128),
            _ => return false,
        };
        let differ: u128 = first ^ address;
        // All bits of an address may be left to the host.
        let host = u32::from(length.max(self.1) - self.1);
        differ.checked_shr(host).unwrap_or(0) == 0
    }
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text.split_once('/').and_then(|(first, prefix)| {
            let first: IpAddr = first.parse().ok()?;
            let prefix = prefix.parse().ok()?;
            (prefix <= if first.is_ipv4() { 32 } else { 128 }).then_some(Self(first, prefix))
        });
        parsed.ok_or_else(|| format!("{text:?} is no range of addresses like 10.96.0.0/12"))
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0, self.1)
    }
}
