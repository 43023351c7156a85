//! Flags of machine-controller's `webhook`, and what became of them.

use machinist_command_line::former::Former;

/// All of them. The flags about nodes that its other binary takes and ignores are none of this one's, there and here.
pub const FLAGS: &[Former] = &[
    Former::same("kubeconfig"),
    Former::same("master"),
    Former::differs(
        "worker-cluster-kubeconfig",
        "wins over `-kubeconfig`: there is one cluster, that of the Machines",
    ),
    Former::same("listen-address"),
    Former::same("tls-cert-path"),
    Former::same("tls-key-path"),
    Former::no_effect("namespace", "machine-controller ignores it, too"),
    Former::same("kubernetes-version-constraints"),
    Former::no_effect(
        "ca-bundle",
        "it is for other providers; kubeconfigs of infra clusters bring their CAs",
    ),
    Former::same("log-debug"),
    Former::same("log-format"),
    Former::same("node-external-cloud-provider"),
    Former::same("node-kubelet-feature-gates"),
    Former::boolean_without_effect(
        "use-external-bootstrap",
        "the controller's `--bootstrap` and the annotation `machinist.dev/bootstrap` say where user data comes from",
    ),
];
