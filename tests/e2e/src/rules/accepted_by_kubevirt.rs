//! Invalid specs whose virtual machine KubeVirt would accept, and why a refusal is better for the user.

/// The reason, and the rows that it applies to.
pub const ACCEPTED_BY_KUBEVIRT: [(&str, &[&str]); 6] = [
    (
        "The API server refuses the virtual machine, for its labels or for a name, before KubeVirt is asked or when it \
         makes objects of it.",
        &[
            "kubevirt/cluster-name-with-a-space",
            "kubevirt/cluster-name-too-long",
            "kubevirt/project-with-a-dash-first",
            "kubevirt/region-with-a-slash",
            "kubevirt/zone-with-a-dot-last",
            "kubevirt/class-in-capitals",
            "kubevirt/secret-with-a-namespace",
            "kubevirt/secret-of-headers-in-capitals",
            "kubevirt/instancetype-in-capitals",
            "kubevirt/claim-in-capitals",
            "kubevirt/claim-without-name",
            "kubevirt/claim-with-an-underscore",
            "kubevirt/claim-in-a-namespace-in-capitals",
            "kubevirt/claim-that-is-a-url",
        ],
    ),
    (
        "CDI refuses the disk, or never ends importing it.",
        &[
            "kubevirt/image-by-ftp",
            "kubevirt/image-with-a-tag",
            "kubevirt/image-on-a-path",
            "kubevirt/image-without-slashes",
            "kubevirt/image-without-host",
            "kubevirt/image-without-name",
            "kubevirt/image-with-a-space",
            "kubevirt/image-empty",
            "kubevirt/registry-without-scheme",
            "kubevirt/http-with-a-file-name",
            "kubevirt/disk-of-nothing",
            "kubevirt/class-empty",
        ],
    ),
    (
        "It is not what was written: a value of another type would be left out.",
        &[
            "kubevirt/cores-quoted",
            "kubevirt/further-disks-as-an-object",
            "kubevirt/headers-as-a-map",
            "kubevirt/preference-is-a-text",
            "kubevirt/queues-quoted",
            "kubevirt/spread-as-an-object",
            "kubevirt/subnet-is-a-text",
        ],
    ),
    (
        "Nothing is KubeVirt's word for its defaults, which no node can live on.",
        &["kubevirt/cpus-of-nothing", "kubevirt/memory-of-nothing"],
    ),
    (
        "KubeVirt takes it, and the virtual machine never starts, as its preference is not found.",
        &[
            "kubevirt/preference-of-an-unknown-kind",
            "kubevirt/preference-of-an-instancetypes-kind",
        ],
    ),
    (
        "Machinist's own rule: the virtual machine does not depend on it, or the host of a node could not be drained.",
        &[
            "kubevirt/kubeconfig-not-base64",
            "kubevirt/eviction-that-kubevirt-knows",
        ],
    ),
];
