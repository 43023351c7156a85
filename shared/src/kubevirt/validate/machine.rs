//! Validation of the Machine around a spec: its name and labels become those of objects on the infra cluster.

use crate::api::field::{FieldPath, Report};
use crate::api::syntax::{LABEL_MAX, dns_subdomain};
use crate::kubevirt::render::RESERVED_LABELS;
use crate::kubevirt::render::secondary_disk;
use crate::kubevirt::spec::CloudProviderSpec;
use crate::provider::MachineOwnerKind;

/// Validates the name of a Machine: it is part of the names of secondary disks, and names of pod volumes have the
/// length limit of labels and no dots.
pub fn name(name: &str, spec: &CloudProviderSpec, path: &FieldPath, report: &mut Report) {
    let Some(last) = spec.virtual_machine.secondary_disks.len().checked_sub(1) else {
        return;
    };
    let disk = secondary_disk(name, last);
    if disk.len() > LABEL_MAX {
        let most = LABEL_MAX - (disk.len() - name.len());
        report.invalid(
            path,
            format!("must be no more than {most} characters with secondaryDisks: {disk} becomes a volume"),
        );
    } else if name.contains('.') && dns_subdomain(name).is_ok() {
        report.invalid(
            path,
            format!("must have no dots with secondaryDisks: {disk} becomes a volume"),
        );
    }
}

/// Validates the name of a MachineSet or MachineDeployment: the names of its Machines must be valid. A MachineSet has
/// its MachineDeployment's name and a hash of up to 10 digits; a Machine has its MachineSet's name, truncated to 58
/// characters by the API server, and 5 random characters.
pub fn owner_name(
    name: &str,
    maker: MachineOwnerKind,
    spec: &CloudProviderSpec,
    path: &FieldPath,
    report: &mut Report,
) {
    const RANDOM: usize = 5;
    let added = match maker {
        MachineOwnerKind::Set => "-".len(),
        MachineOwnerKind::Deployment => "-0123456789-".len(),
    };
    let Some(last) = spec.virtual_machine.secondary_disks.len().checked_sub(1) else {
        return;
    };
    let disk = secondary_disk("", last).len();
    let longest = (name.len() + added).min(LABEL_MAX - RANDOM) + RANDOM;
    if longest + disk > LABEL_MAX {
        let most = LABEL_MAX.saturating_sub(disk + RANDOM + added);
        let why = format!(
            "must be no more than {most} characters with secondaryDisks: its Machines' names are up to {longest}, and \
             NAME-secondarydisk{last} becomes a volume"
        );
        report.invalid(path, why);
    } else if name.contains('.') && dns_subdomain(name).is_ok() {
        let why = format!(
            "must have no dots with secondaryDisks: its Machines bear it, and NAME-secondarydisk{last} becomes a volume"
        );
        report.invalid(path, why);
    }
}

/// Validates the labels of a Machine, which the VM gets.
pub fn labels<'a>(keys: impl IntoIterator<Item = &'a str>, path: &FieldPath, report: &mut Report) {
    for key in keys {
        if RESERVED_LABELS.contains(&key) {
            report.warn(
                &path.child(key),
                "is reserved for KubeVirt and is not copied to the VM",
            );
        }
    }
}
