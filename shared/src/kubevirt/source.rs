//! The source of a primary disk's image.

use super::resolved::Image;

/// Schemes of images in registries.
pub(crate) const REGISTRIES: [&str; 2] = ["docker", "oci-archive"];

/// The source of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SourceKind {
    Http,
    Registry,
    Claim,
}

/// Whether an image is downloaded over HTTP, with the Secrets in the spec.
pub fn downloads(image: &Image) -> bool {
    source_kind(image) == SourceKind::Http
}

/// The source in the spec; otherwise inferred: a URI is a registry's or a web server's, anything else a claim.
pub(crate) fn source_kind(image: &Image) -> SourceKind {
    match image.source.as_str() {
        "http" => return SourceKind::Http,
        "registry" => return SourceKind::Registry,
        "pvc" => return SourceKind::Claim,
        _ => {}
    }
    if image.location.starts_with('/') {
        return SourceKind::Http;
    }
    match image.location.split_once(':') {
        Some((scheme, _)) if REGISTRIES.iter().any(|known| known.eq_ignore_ascii_case(scheme)) => {
            SourceKind::Registry
        }
        Some((scheme, _)) if is_scheme(scheme) => SourceKind::Http,
        _ => SourceKind::Claim,
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}
