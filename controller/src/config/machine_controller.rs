//! Flags of machine-controller's `machine-controller`, and what became of them.

use machinist_command_line::former::Former;

/// All of them.
pub const FLAGS: &[Former] = &[
    Former::same("kubeconfig"),
    Former::same("master"),
    Former::differs("worker-count", "counts by infra cluster; 16 by default"),
    Former::same("metrics-address"),
    Former::same("health-probe-address"),
    Former::boolean_without_effect("enable-profiling", "there is no profile to fetch"),
    Former::same("name"),
    Former::same("enable-leader-election"),
    Former::same("leader-election-namespace"),
    Former::differs(
        "join-cluster-timeout",
        "counts from the VM's creation if that was later, and gives up no Machine whose node has joined once",
    ),
    Former::same("skip-eviction-after"),
    Former::differs(
        "node-csr-approver",
        "approves what is the Machine's own, and has kubelets of the built-in bootstrap ask for it",
    ),
    Former::same("node-external-cloud-provider"),
    Former::no_effect(
        "node-kubelet-feature-gates",
        "the webhook's flag of this name gives Machines the annotations that kubelets are configured by",
    ),
    Former::no_effect(
        "ca-bundle",
        "it is for other providers; kubeconfigs of infra clusters bring their CAs",
    ),
    Former::same("log-debug"),
    Former::same("log-format"),
    Former::no_effect(
        "bootstrap-token-service-account-name",
        "each Machine gets a bootstrap token of its own",
    ),
    Former::differs(
        "override-bootstrap-kubelet-apiserver",
        "works: kubelets of the built-in bootstrap get it",
    ),
    Former::no_effect("node-port-range", "machine-controller ignores it, too"),
    Former::boolean_without_effect(
        "use-external-bootstrap",
        "`--bootstrap` and the annotation `machinist.dev/bootstrap` say where user data comes from",
    ),
    Former::differs("cluster-dns", "works: kubelets of the built-in bootstrap get it"),
    Former::no_effect(
        "node-http-proxy",
        "guests get `machinist.proxy` of the operatingSystemSpec",
    ),
    Former::no_effect(
        "node-no-proxy",
        "guests get `machinist.proxy` of the operatingSystemSpec",
    ),
    Former::no_effect(
        "node-insecure-registries",
        "guests get `machinist.registries.mirrors` of the operatingSystemSpec",
    ),
    Former::no_effect(
        "node-registry-mirrors",
        "guests get `machinist.registries.mirrors` of the operatingSystemSpec",
    ),
    Former::no_effect("node-pause-image", "guests use that of their containerd"),
    Former::no_effect("node-container-runtime", "it is containerd"),
    Former::no_effect(
        "node-containerd-version",
        "it is that of the image or of its package repositories",
    ),
    Former::no_effect(
        "node-containerd-registry-mirrors",
        "guests get `machinist.registries.mirrors` of the operatingSystemSpec",
    ),
    Former::no_effect(
        "node-registry-credentials-secret",
        "guests get `machinist.registries.credentials` of the operatingSystemSpec",
    ),
];
