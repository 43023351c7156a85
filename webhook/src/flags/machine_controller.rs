//! Flags of machine-controller's `webhook`, and their meaning in Machinist.

use machinist_command_line::legacy::LegacyFlag;

/// All of them. They do not include the node flags that its other binary accepts and ignores.
pub const FLAGS: &[LegacyFlag] = &[
    LegacyFlag::same("kubeconfig"),
    LegacyFlag::same("master"),
    LegacyFlag::differs(
        "worker-cluster-kubeconfig",
        "wins over `-kubeconfig`: both mean the cluster of the Machines",
    ),
    LegacyFlag::same("listen-address"),
    LegacyFlag::same("tls-cert-path"),
    LegacyFlag::same("tls-key-path"),
    LegacyFlag::no_effect("namespace", "machine-controller ignores it, too"),
    LegacyFlag::same("kubernetes-version-constraints"),
    LegacyFlag::no_effect(
        "ca-bundle",
        "it is for other providers; kubeconfigs of infra clusters contain their CAs",
    ),
    LegacyFlag::same("log-debug"),
    LegacyFlag::same("log-format"),
    LegacyFlag::same("node-external-cloud-provider"),
    LegacyFlag::same("node-kubelet-feature-gates"),
    LegacyFlag::boolean_without_effect(
        "use-external-bootstrap",
        "the controller's `--bootstrap` and the annotation `machinist.dev/bootstrap` select the source of user data",
    ),
];
