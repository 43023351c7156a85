//! What the image of a primary disk is taken from.

use super::resolved::Image;

/// Schemes of images in registries.
pub(crate) const REGISTRIES: [&str; 2] = ["docker", "oci-archive"];

/// What an image is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SourceKind {
    Http,
    Registry,
    Claim,
}

/// Whether an image is downloaded from the web, with the Secrets that the spec names for that.
pub fn downloads(image: &Image) -> bool {
    source_kind(image) == SourceKind::Http
}

/// As the spec says; else guessed: a URI is a registry's or a web server's, anything else a claim.
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
