//! Which instancetype and preference the VM has.

use super::{literal, object_name, text};
use crate::api::field::{FieldPath, Report, did_you_mean};
use crate::kubevirt::kinds::{self, INSTANCETYPES, PREFERENCES};
use crate::kubevirt::render::PRIMARY_DISK;
use crate::kubevirt::resolved::Image;
use crate::kubevirt::source::{SourceKind, source_kind};
use crate::kubevirt::spec::{Matcher, VirtualMachine};

/// Judges `instancetype` and `preference` of the VM at `path`.
pub(super) fn validate(vm: &VirtualMachine, path: &FieldPath, report: &mut Report) {
    if let Some(instancetype) = &vm.instancetype {
        let path = path.child("instancetype");
        matcher(instancetype, INSTANCETYPES, &path, report);
        if instancetype.name.is_empty() {
            inferred(instancetype, vm, &path, report);
        } else {
            // It is left out of the VM.
            no_inference(instancetype, &path, report);
        }
        if !known(&instancetype.kind, INSTANCETYPES) {
            // machine-controller does not look at it.
            let hint = did_you_mean(&instancetype.kind, INSTANCETYPES);
            let text = format!(
                "{:?} is no kind of instancetype and has no effect",
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
        // A preference is passed on as it is.
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

/// Fields that say from where to infer one, beside a name.
fn no_inference(matcher: &Matcher, path: &FieldPath, report: &mut Report) {
    let policy = &matcher.infer_from_volume_failure_policy;
    for (field, text) in [
        ("inferFromVolume", &matcher.infer_from_volume),
        ("inferFromVolumeFailurePolicy", policy),
    ] {
        if !text.is_empty() {
            report.warn(&path.child(field), "has no effect beside name");
        }
    }
}

/// From where to infer one.
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
            format!("{volume:?} is no disk of the VM; the one with the operating system is {PRIMARY_DISK}"),
        );
    } else if matcher.name.is_empty() {
        unnamed(matcher, vm, path, report);
    }
}

/// What KubeVirt refuses of a matcher without a name.
fn unnamed(matcher: &Matcher, vm: &VirtualMachine, path: &FieldPath, report: &mut Report) {
    if !matcher.kind.is_empty() {
        report.forbidden(
            &path.child("kind"),
            "is mutually exclusive with inferFromVolume, which brings the kind; leave it out",
        );
    }
    // It looks at the labels of the claim that is cloned.
    if is_imported(vm) {
        let path = path.child("inferFromVolume");
        let why = "KubeVirt can infer from the clone of a PVC, and not from an image that is imported";
        if matcher.infer_from_volume_failure_policy == "Ignore" {
            report.warn(&path, format!("has no effect: {why}"));
        } else {
            report.invalid(&path, format!("{why}; give a name instead"));
        }
    }
}

/// Whether the operating system is known not to come from a claim.
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

/// Further disks bear the Machine's name, which may not be known yet.
fn is_disk(volume: &str, further: usize) -> bool {
    volume == PRIMARY_DISK
        || volume
            .rsplit_once("-secondarydisk")
            .is_some_and(|(_, index)| index.parse::<usize>().is_ok_and(|index| index < further))
}
