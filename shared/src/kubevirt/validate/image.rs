//! Validation of the operating system's image: CDI's rules, which KubeVirt does not apply when it admits a VM.

use super::{is_empty, literal, object_name, text, url};
use crate::api::field::{FieldPath, Report};
use crate::api::syntax;
use crate::kubevirt::resolved::Image;
use crate::kubevirt::source::{REGISTRIES, SourceKind, source_kind};
use crate::kubevirt::spec::PrimaryDisk;

/// Validates image, source and related fields.
pub(super) fn validate(disk: &PrimaryDisk, path: &FieldPath, report: &mut Report) {
    if let Some(method) = text(&disk.pull_method)
        && !["node", "pod"].contains(&method)
    {
        report.not_supported(&path.child("pullMethod"), method, &["node", "pod"]);
    }
    if let Some(source) = text(&disk.source)
        && !["http", "registry", "pvc"].contains(&source)
    {
        report.warn(
            &path.child("source"),
            format!("{source:?} is not one of http, registry, pvc; the source is inferred from osImage"),
        );
    }
    if !disk.extra_headers.is_empty() && !is_empty(&disk.extra_headers_secret) {
        report.forbidden(
            &path.child("extraHeadersSecretRef"),
            "is mutually exclusive with extraHeaders; keep one of them",
        );
    }
    for (index, header) in disk.extra_headers.iter().enumerate() {
        if !header.contains(':') {
            let path = path.child("extraHeaders").index(index);
            report.warn(&path, "has no effect: a header is written as `Name: value`");
        }
    }
    if disk.source.reference().is_none()
        && let Some(location) = text(&disk.os_image)
    {
        let image = Image {
            location: location.to_owned(),
            source: literal(&disk.source).unwrap_or_default().to_owned(),
            ..Image::default()
        };
        let kind = source_kind(&image);
        of_kind(kind, location, &path.child("osImage"), report);
        companions(kind, disk, path, report);
    }
}

fn of_kind(kind: SourceKind, location: &str, path: &FieldPath, report: &mut Report) {
    match kind {
        SourceKind::Http => remote(location, &["http", "https"], path, report),
        SourceKind::Registry => remote(location, &REGISTRIES, path, report),
        SourceKind::Claim => claim(location, path, report),
    }
}

/// `scheme://…` with a host.
fn remote(location: &str, schemes: &[&str], path: &FieldPath, report: &mut Report) {
    let rest = location
        .split_once("://")
        .filter(|(scheme, _)| schemes.iter().any(|known| known.eq_ignore_ascii_case(scheme)))
        .map(|(_, rest)| rest);
    let Some(rest) = rest else {
        let want = "http://…, https://…, docker://…, oci-archive://… or the name of a PVC";
        report.invalid(
            path,
            format!("{location:?} is not a source that CDI can import; write {want}"),
        );
        return;
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.is_empty() {
        report.invalid(path, format!("{location:?} names no host"));
    } else if location.chars().any(|c| c.is_whitespace() || c.is_control()) {
        report.invalid(
            path,
            format!("{location:?} contains white space, which CDI rejects"),
        );
    } else if let Some(why) = url::refusal(rest) {
        report.invalid(path, format!("{location:?} is no URL that CDI takes: {why}"));
    } else if is_scheme(location, "docker")
        && let Some(why) = url::bad_image(rest)
    {
        report.invalid(path, format!("{location:?} is no image: {why}"));
    } else if is_scheme(location, "docker") && url::lacks_repository(rest) {
        report.warn(
            path,
            format!("{location:?} names no repository and is read as docker.io/library/{rest}; write docker://{rest}/REPOSITORY:TAG"),
        );
    }
}

fn is_archive(disk: &PrimaryDisk) -> bool {
    text(&disk.os_image).is_some_and(|location| is_scheme(location, "oci-archive"))
}

fn is_scheme(location: &str, scheme: &str) -> bool {
    let before = location.split_once("://").map(|(before, _)| before);
    before.is_some_and(|before| before.eq_ignore_ascii_case(scheme))
}

/// `NAME`, or `NAMESPACE/NAME`.
fn claim(location: &str, path: &FieldPath, report: &mut Report) {
    let mut parts = location.split('/');
    let (first, second) = (parts.next().unwrap_or_default(), parts.next());
    let names = [Some(first), second];
    if second.is_some() && first.contains('.') {
        report.invalid(
            path,
            format!("{location:?} is no PVC, NAME or NAMESPACE/NAME: a namespace has no dots; did you mean docker://{location}?"),
        );
    } else if let Some(bad) = names
        .into_iter()
        .flatten()
        .find(|name| syntax::dns_subdomain(name).is_err())
    {
        let image = "; an image on a server starts with http://, https:// or docker://";
        report.invalid(
            path,
            format!("{location:?} is not a PVC, NAME or NAMESPACE/NAME: {bad:?} is not a name{image}"),
        );
    } else if parts.next().is_some() {
        let name = second.unwrap_or_default();
        report.warn(
            path,
            format!("{location:?} is read as PVC {name} in namespace {first}; the rest has no effect"),
        );
    }
}

/// Validates the fields of that kind of source, and warns of those of other kinds.
fn companions(kind: SourceKind, disk: &PrimaryDisk, path: &FieldPath, report: &mut Report) {
    let idle = |key: &str, only: &str, report: &mut Report| {
        report.warn(
            &path.child(key),
            format!("has no effect; it is for {only} sources"),
        );
    };
    if kind == SourceKind::Http {
        for (key, var) in [
            ("dataVolumeSecretRef", &disk.data_volume_secret),
            ("extraHeadersSecretRef", &disk.extra_headers_secret),
        ] {
            object_name(literal(var), &path.child(key), report);
        }
    } else {
        if !is_empty(&disk.data_volume_secret) {
            idle("dataVolumeSecretRef", "http", report);
        }
        if !disk.extra_headers.is_empty() {
            idle("extraHeaders", "http", report);
        }
        if !is_empty(&disk.extra_headers_secret) {
            idle("extraHeadersSecretRef", "http", report);
        }
    }
    let pulls_on_node = disk.pull_method.reference().is_none() && text(&disk.pull_method) != Some("pod");
    if kind == SourceKind::Registry && pulls_on_node && is_archive(disk) {
        report.warn(
            &path.child("pullMethod"),
            "an oci-archive is no image that a node can pull; CDI imports it with pullMethod pod",
        );
    }
    if kind != SourceKind::Registry && text(&disk.pull_method).is_some() {
        idle("pullMethod", "registry", report);
    }
}
