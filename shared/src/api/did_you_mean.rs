//! Suggestions for unknown fields and values: the nearest known name, or where the same is written here.

/// Fields that people look for, as other APIs have them, and where the same is said here.
const ELSEWHERE: &[(&[&str], &str)] = &[
    (
        &[
            "gpus",
            "hostDevices",
            "hugepages",
            "hugePages",
            "dedicatedCpuPlacement",
            "numa",
            "ioThreadsPolicy",
            "launchSecurity",
        ],
        "an instancetype brings it: name one in virtualMachine.instancetype",
    ),
    (
        &[
            "tpm",
            "efi",
            "firmware",
            "bootloader",
            "secureBoot",
            "machineType",
            "cpuModel",
            "clock",
            "features",
        ],
        "a preference brings it: name one in virtualMachine.preference",
    ),
    (
        &["networks", "interfaces", "multus", "networkInterfaces", "sriov"],
        "not supported: the VM has the pod network, or the subnet of virtualMachine.providerNetwork",
    ),
    (
        &[
            "tolerations",
            "nodeSelector",
            "priorityClassName",
            "schedulerName",
        ],
        "not supported for VMs: affinity.nodeAffinityPreset and topologySpreadConstraints choose their hosts",
    ),
    (
        &["nodeAffinity", "podAffinity", "podAntiAffinity"],
        "write affinity.nodeAffinityPreset, and topologySpreadConstraints to keep VMs apart",
    ),
    (
        &["nodeDrainTimeout", "nodeDrainTimeoutSeconds"],
        "write the annotation machinist.dev/node-drain-timeout",
    ),
    (
        &["nodeVolumeDetachTimeout", "nodeVolumeDetachTimeoutSeconds"],
        "write the annotation machinist.dev/node-volume-detach-timeout",
    ),
    (
        &["nodeDeletionTimeout", "nodeDeletionTimeoutSeconds"],
        "write the annotation machinist.dev/node-deletion-timeout",
    ),
];

/// What to write instead of an unknown field: another place for the same, or the nearest of the candidates.
pub fn instead_of<'a>(got: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let is_it = |names: &[&str]| names.iter().any(|name| name.eq_ignore_ascii_case(got));
    match ELSEWHERE.iter().find(|(names, _)| is_it(names)) {
        Some((_, place)) => format!("; {place}"),
        None => did_you_mean(got, candidates),
    }
}

/// `; did you mean "x"?` for the candidate nearest to `got`, or the empty string if none is near.
pub fn did_you_mean<'a>(got: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(got, candidates).map_or_else(String::new, |best| format!("; did you mean {best:?}?"))
}

/// The candidate nearest to `got`, letter case ignored, if it is near enough to be a typo.
pub fn nearest<'a>(got: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let got = got.to_lowercase();
    candidates
        .into_iter()
        .map(|c| (strsim::damerau_levenshtein(&got, &c.to_lowercase()), c))
        .filter(|(distance, c)| *distance <= 1 + c.len() / 5 && *distance < c.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_apis_have_leads_to_its_place_here() {
        let instead = |got: &str| instead_of(got, ["cpus", "memory"]);
        for (got, place) in [
            ("gpus", "virtualMachine.instancetype"),
            ("HostDevices", "virtualMachine.instancetype"),
            ("secureBoot", "virtualMachine.preference"),
            ("networks", "virtualMachine.providerNetwork"),
            ("tolerations", "nodeAffinityPreset"),
            ("podAntiAffinity", "topologySpreadConstraints"),
            ("nodeDrainTimeout", "machinist.dev/node-drain-timeout"),
            ("cpu", "did you mean \"cpus\"?"),
        ] {
            assert!(instead(got).contains(place), "{got}: {}", instead(got));
        }
    }

    #[test]
    fn a_typo_finds_its_word_and_nonsense_finds_none() {
        assert_eq!(
            did_you_mean("kubvirt", ["kubevirt", "aws"]),
            "; did you mean \"kubevirt\"?"
        );
        assert_eq!(did_you_mean("zzzzzz", ["kubevirt", "aws"]), "");
    }
}
