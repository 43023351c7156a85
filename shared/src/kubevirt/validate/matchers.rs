//! Validation of instancetype and preference of the VM.

use super::{literal, object_name, text};
use crate::api::did_you_mean::did_you_mean;
use crate::api::field::{FieldPath, Report};
use crate::kubevirt::kinds::{self, INSTANCETYPES, PREFERENCES};
use crate::kubevirt::render::PRIMARY_DISK;
use crate::kubevirt::resolved::Image;
use crate::kubevirt::source::{SourceKind, source_kind};
use crate::kubevirt::spec::{Matcher, VirtualMachine};

/// Validates `instancetype` and `preference` of the VM at `path`.
pub(super) fn validate(vm: &VirtualMachine, path: &FieldPath, report: &mut Report) {
    if let Some(instancetype) = &vm.instancetype {
        let path = path.child("instancetype");
        matcher(instancetype, INSTANCETYPES, &path, report);
        if instancetype.name.is_empty() {
            inferred(instancetype, vm, &path, report);
        } else {
            // The VM does not get it.
            no_inference(instancetype, &path, report);
        }
        if !known(&instancetype.kind, INSTANCETYPES) {
            // machine-controller ignores it.
            let hint = did_you_mean(&instancetype.kind, INSTANCETYPES);
            let text = format!(
                "{:?} is not a kind of instancetype and has no effect",
                instancetype.kind
            );
            report.warn(&path.child("kind"), format!("{text}{hint}"));
        }
    }
    if let Some(preference) = &vm.preference {
        let path = path.child("preference");
        matcher(preference, PREFERENCES, &path, report);
        inferred(preference, vm, &path, report);
        if !known(&preference.kind, PREFERENCES) {
            report.not_supported(&path.child("kind"), &preference.kind, &PREFERENCES);
        }
        // A preference is passed on unchanged.
        if !preference.name.is_empty() && !preference.infer_from_volume.is_empty() {
            report.forbidden(
                &path.child("inferFromVolume"),
                "is mutually exclusive with name; keep one of them",
            );
        }
    }
}

/// Which one it is.
fn matcher(matcher: &Matcher, kinds: [&str; 2], path: &FieldPath, report: &mut Report) {
    if matcher.name.is_empty() && matcher.infer_from_volume.is_empty() {
        report.required(&path.child("name"), format!("names a {}", kinds.join(" or ")));
    }
    object_name(Some(&matcher.name), &path.child("name"), report);
    object_name(Some(&matcher.revision_name), &path.child("revisionName"), report);
}

/// Fields for inference, which have no effect with a name.
fn no_inference(matcher: &Matcher, path: &FieldPath, report: &mut Report) {
    let policy = &matcher.infer_from_volume_failure_policy;
    for (field, text) in [
        ("inferFromVolume", &matcher.infer_from_volume),
        ("inferFromVolumeFailurePolicy", policy),
    ] {
        if !text.is_empty() {
            report.warn(&path.child(field), "has no effect together with name");
        }
    }
}

/// The volume to infer it from.
fn inferred(matcher: &Matcher, vm: &VirtualMachine, path: &FieldPath, report: &mut Report) {
    let policy = matcher.infer_from_volume_failure_policy.as_str();
    if !["", "Reject", "Ignore"].contains(&policy) {
        let path = path.child("inferFromVolumeFailurePolicy");
        report.not_supported(&path, policy, &["Reject", "Ignore"]);
    }
    let volume = matcher.infer_from_volume.as_str();
    if volume.is_empty() {
        return;
    }
    if !is_disk(volume, vm.secondary_disks.len()) {
        report.invalid(
            &path.child("inferFromVolume"),
            format!("{volume:?} is not a disk of the VM; the operating system is on {PRIMARY_DISK}"),
        );
    } else if matcher.name.is_empty() {
        unnamed(matcher, vm, path, report);
    }
}

/// The errors of a matcher without a name, by KubeVirt's rules.
fn unnamed(matcher: &Matcher, vm: &VirtualMachine, path: &FieldPath, report: &mut Report) {
    if !matcher.kind.is_empty() {
        report.forbidden(
            &path.child("kind"),
            "is mutually exclusive with inferFromVolume, which determines the kind; remove it",
        );
    }
    // KubeVirt reads the labels of the cloned claim.
    if is_imported(vm) {
        let path = path.child("inferFromVolume");
        let why = "KubeVirt can infer from a cloned PVC, but not from an imported image";
        if matcher.infer_from_volume_failure_policy == "Ignore" {
            report.warn(&path, format!("has no effect: {why}"));
        } else {
            report.invalid(&path, format!("{why}; give a name instead"));
        }
    }
}

/// Whether the operating system certainly does not come from a claim.
fn is_imported(vm: &VirtualMachine) -> bool {
    let disk = &vm.primary_disk;
    let Some(location) = text(&disk.os_image).filter(|_| disk.source.reference().is_none()) else {
        return false;
    };
    let image = Image {
        location: location.to_owned(),
        source: literal(&disk.source).unwrap_or_default().to_owned(),
        ..Image::default()
    };
    source_kind(&image) != SourceKind::Claim
}

fn known(kind: &str, kinds: [&'static str; 2]) -> bool {
    kind.is_empty() || kinds::canonical(kind, kinds).is_some()
}

/// Names of secondary disks contain the Machine's name, which may be unknown.
fn is_disk(volume: &str, further: usize) -> bool {
    volume == PRIMARY_DISK
        || volume
            .rsplit_once("-secondarydisk")
            .is_some_and(|(_, index)| index.parse::<usize>().is_ok_and(|index| index < further))
}
