//! KubeVirt's verdict on a VM, told by the fields of our spec that it comes from.

use kube::core::Status;
use machinist_shared::field::{ErrorKind, FieldPath, Report};

use super::Question;
use crate::client::RemoteError;

/// Fields of a VirtualMachine, and of `cloudProviderSpec` what makes them; the first that fits counts.
const ORIGINS: [(&str, &str); 15] = [
    (
        "spec.template.spec.domain.resources.requests.memory",
        "virtualMachine.template.memory",
    ),
    (
        "spec.template.spec.domain.resources.limits.memory",
        "virtualMachine.template.memory",
    ),
    (
        "spec.template.spec.domain.memory",
        "virtualMachine.template.memory",
    ),
    (
        "spec.template.spec.domain.resources.requests.cpu",
        "virtualMachine.template.cpus",
    ),
    (
        "spec.template.spec.domain.resources.limits.cpu",
        "virtualMachine.template.cpus",
    ),
    ("spec.template.spec.domain.cpu", "virtualMachine.template.vcpus"),
    (
        "spec.template.spec.domain.devices.networkInterfaceMultiqueue",
        "virtualMachine.enableNetworkMultiQueue",
    ),
    ("spec.instancetype", "virtualMachine.instancetype"),
    ("spec.preference", "virtualMachine.preference"),
    (
        "spec.template.spec.evictionStrategy",
        "virtualMachine.evictionStrategy",
    ),
    ("spec.template.spec.dnsPolicy", "virtualMachine.dnsPolicy"),
    ("spec.template.spec.dnsConfig", "virtualMachine.dnsConfig"),
    ("spec.template.spec.affinity", "affinity"),
    (
        "spec.template.spec.topologySpreadConstraints",
        "topologySpreadConstraints",
    ),
    (
        "spec.dataVolumeTemplates[0]",
        "virtualMachine.template.primaryDisk",
    ),
];

/// Adds an error for each cause of the refusal, or one for the whole.
pub(super) fn blame(status: &Status, question: &Question<'_>, report: &mut Report) {
    let whole = RemoteError::from(&kube::Error::Api(Box::new(status.clone()))).to_string();
    if status.code == 403 && !whole.contains("quota") && !whole.contains("admission webhook") {
        let path = super::kubeconfig_path(question);
        report.error(
            &path,
            ErrorKind::Forbidden,
            format!("its user may not make VirtualMachines: {whole}"),
        );
        return;
    }
    let causes = status
        .details
        .as_ref()
        .map(|details| details.causes.as_slice())
        .unwrap_or_default();
    let before = report.errors.len();
    for cause in causes.iter().filter(|cause| !cause.message.is_empty()) {
        let path = origin(&cause.field, &question.path);
        report.invalid(
            &path,
            format!(
                "KubeVirt refuses this: {}: {}",
                cause.field,
                excerpt(&cause.message)
            ),
        );
    }
    if report.errors.len() == before {
        report.invalid(
            &question.path.child("virtualMachine"),
            format!("KubeVirt refuses the VM: {whole}"),
        );
    }
}

/// The field of our spec from which that of the VM was made.
fn origin(field: &str, path: &FieldPath) -> FieldPath {
    if let Some(index) = data_volume(field).filter(|index| *index > 0) {
        let template = path.child("virtualMachine").child("template");
        return template.child("secondaryDisks").index(index - 1);
    }
    let begins = |vm: &str| {
        field
            .strip_prefix(vm)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    let ours = ORIGINS
        .iter()
        .find(|(vm, _)| begins(vm))
        .map_or("virtualMachine", |(_, ours)| ours);
    ours.split('.').fold(path.clone(), |path, part| path.child(part))
}

/// The index in `spec.dataVolumeTemplates[…]`, with or without a dot before the bracket.
fn data_volume(field: &str) -> Option<usize> {
    let rest = field.strip_prefix("spec.dataVolumeTemplates")?;
    let rest = rest.strip_prefix('.').unwrap_or(rest).strip_prefix('[')?;
    rest.split_once(']')?.0.parse().ok()
}

fn excerpt(text: &str) -> String {
    const MOST: usize = 300;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    text.chars().take(MOST).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(
        "spec.template.spec.domain.resources.requests.memory",
        "c.virtualMachine.template.memory"
    )]
    #[case("spec.template.spec.domain.cpu.cores", "c.virtualMachine.template.vcpus")]
    #[case("spec.instancetype", "c.virtualMachine.instancetype")]
    #[case("spec.instancetypes", "c.virtualMachine")]
    #[case(
        "spec.dataVolumeTemplates[0].spec.source",
        "c.virtualMachine.template.primaryDisk"
    )]
    #[case("spec.dataVolumeTemplates.[0]", "c.virtualMachine")]
    #[case(
        "spec.dataVolumeTemplates[2].spec",
        "c.virtualMachine.template.secondaryDisks[1]"
    )]
    #[case(
        "spec.template.spec.topologySpreadConstraints[0].maxSkew",
        "c.topologySpreadConstraints"
    )]
    #[case("spec.running", "c.virtualMachine")]
    #[case("", "c.virtualMachine")]
    fn kubevirts_field_leads_to_ours(#[case] field: &str, #[case] want: &str) {
        assert_eq!(origin(field, &FieldPath::new("c")).to_string(), want);
    }
}
