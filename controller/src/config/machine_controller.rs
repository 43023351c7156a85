//! Flags of machine-controller's `machine-controller`, and what became of them.

use machinist_command_line::legacy::LegacyFlag;

/// All of them.
pub const FLAGS: &[LegacyFlag] = &[
    LegacyFlag::same("kubeconfig"),
    LegacyFlag::same("master"),
    LegacyFlag::differs("worker-count", "counts by infra cluster; 16 by default"),
    LegacyFlag::same("metrics-address"),
    LegacyFlag::same("health-probe-address"),
    LegacyFlag::boolean_without_effect("enable-profiling", "there is no profile to fetch"),
    LegacyFlag::same("name"),
    LegacyFlag::same("enable-leader-election"),
    LegacyFlag::same("leader-election-namespace"),
    LegacyFlag::differs(
        "join-cluster-timeout",
        "counts from the VM's creation if that was later; of a Machine whose node has joined once, from the loss of its guest or Node",
    ),
    LegacyFlag::same("skip-eviction-after"),
    LegacyFlag::differs(
        "node-csr-approver",
        "approves what is the Machine's own, and has kubelets of the built-in bootstrap ask for it",
    ),
    LegacyFlag::same("node-external-cloud-provider"),
    LegacyFlag::no_effect(
        "node-kubelet-feature-gates",
        "the webhook's flag of this name gives Machines the annotations that kubelets are configured by",
    ),
    LegacyFlag::no_effect(
        "ca-bundle",
        "it is for other providers; kubeconfigs of infra clusters contain their CAs",
    ),
    LegacyFlag::same("log-debug"),
    LegacyFlag::same("log-format"),
    LegacyFlag::no_effect(
        "bootstrap-token-service-account-name",
        "each Machine gets a bootstrap token of its own",
    ),
    LegacyFlag::differs(
        "override-bootstrap-kubelet-apiserver",
        "works: kubelets of the built-in bootstrap get it",
    ),
    LegacyFlag::no_effect("node-port-range", "machine-controller ignores it, too"),
    LegacyFlag::boolean_without_effect(
        "use-external-bootstrap",
        "`--bootstrap` and the annotation `machinist.dev/bootstrap` select the source of user data",
    ),
    LegacyFlag::differs("cluster-dns", "works: kubelets of the built-in bootstrap get it"),
    LegacyFlag::no_effect(
        "node-http-proxy",
        "guests get `machinist.proxy` of the operatingSystemSpec",
    ),
    LegacyFlag::no_effect(
        "node-no-proxy",
        "guests get `machinist.proxy` of the operatingSystemSpec",
    ),
    LegacyFlag::no_effect(
        "node-insecure-registries",
        "guests get `machinist.registries.mirrors` of the operatingSystemSpec",
    ),
    LegacyFlag::no_effect(
        "node-registry-mirrors",
        "guests get `machinist.registries.mirrors` of the operatingSystemSpec",
    ),
    LegacyFlag::no_effect("node-pause-image", "guests use that of their containerd"),
    LegacyFlag::no_effect("node-container-runtime", "it is containerd"),
    LegacyFlag::no_effect(
        "node-containerd-version",
        "it is that of the image or of its package repositories",
    ),
    LegacyFlag::no_effect(
        "node-containerd-registry-mirrors",
        "guests get `machinist.registries.mirrors` of the operatingSystemSpec",
    ),
    LegacyFlag::no_effect(
        "node-registry-credentials-secret",
        "guests get `machinist.registries.credentials` of the operatingSystemSpec",
    ),
];
