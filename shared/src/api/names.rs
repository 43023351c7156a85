//! Every name of the API in one place: labels, annotations, finalizers, condition types and their reasons.
//!
//! Names without a remark are machine-controller's and part of the contract with its users. Names below [`PREFIX`] are
//! Machinist's own (ADR 001).

/// API group of Machine, MachineSet and MachineDeployment.
pub const GROUP: &str = "cluster.k8s.io";
/// The one served and stored version.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` of all Machinist kinds.
pub const API_VERSION: &str = "cluster.k8s.io/v1alpha1";
/// Prefix of Machinist's own labels and annotations (ADR 001).
pub const PREFIX: &str = "machinist.dev";

/// The Lease of both machine-controller and Machinist, so that they never run at the same time, unless a flag names
/// another Lease.
pub const LEASE: &str = "machine-controller";
/// The Lease of the process that maintains the webhook's certificates, in the namespace of their Secrets. It is
/// separate because Machinist's webhook serves even while machine-controller is the leader.
pub const CERTIFICATES_LEASE: &str = "machinist-certificates";
/// Field manager and user agent of the controller.
pub const CONTROLLER: &str = "machinist-controller";
/// Field manager of only the `caBundle` of Machinist's webhook configurations.
pub const CA_BUNDLE_MANAGER: &str = "machinist-certificates";

/// Finalizers on Machines.
pub mod finalizer {
    /// The VM may still exist.
    pub const VM: &str = "machine-delete-finalizer";
    /// The Node may still exist.
    pub const NODE: &str = "machine-node-delete-finalizer";
    /// Left by machine-controller on rhel Machines.
    pub const RED_HAT_SUBSCRIPTION: &str = "kubermatic.io/red-hat-subscription";
    /// On MachineSets and MachineDeployments: garbage collection deletes their dependents first, and then removes it.
    pub const FOREGROUND_DELETION: &str = "foregroundDeletion";
}

/// Labels.
pub mod label {
    /// On a Machine: selects the controller instance (`--name`).
    pub const CONTROLLER_NAME: &str = "machine.k8s.io/controller";
    /// On a MachineSet of a MachineDeployment, on its Machines and in its selector: hash of the template.
    pub const TEMPLATE_HASH: &str = "machine-template-hash";
    /// On a MachineSet: name of its MachineDeployment. The cluster-autoscaler finds the sets of a pool by it.
    pub const DEPLOYMENT_NAME: &str = "cluster.x-k8s.io/deployment-name";
    /// On a Node: UID of its Machine.
    pub const OWNED_BY: &str = "machine-controller/owned-by";
    /// In `spec.metadata.labels` (so on the Node): the operating system.
    pub const OPERATING_SYSTEM: &str = "v1.machine-controller.kubermatic.io/operating-system";
    /// On VMs: the VM's name. KubeVirt's own convention.
    pub const KUBEVIRT_VM: &str = "kubevirt.io/vm";
    /// On VMs: the MachineDeployment's name.
    pub const MACHINE_DEPLOYMENT: &str = "md";
    /// On VMs: the cluster's name.
    pub const CLUSTER_NAME: &str = "cluster.x-k8s.io/cluster-name";
    /// On VMs: always [`ROLE_WORKER`].
    pub const ROLE: &str = "cluster.x-k8s.io/role";
    /// Value of [`ROLE`].
    pub const ROLE_WORKER: &str = "worker";
    /// On VMs: the project's ID.
    pub const PROJECT_ID: &str = "kubermatic.k8c.io/project-id";
    /// On VMs: the cluster's name again.
    pub const CLUSTER_ID: &str = "kubermatic.k8c.io/cluster-id";
    /// Region, on VMs and Nodes.
    pub const REGION: &str = "topology.kubernetes.io/region";
    /// Zone, on VMs and Nodes.
    pub const ZONE: &str = "topology.kubernetes.io/zone";

    /// On a pod: how a drain of its Node treats it, `skip` or `wait-completed`. Cluster API's name.
    pub const DRAIN: &str = "cluster.x-k8s.io/drain";

    /// KubeVirt's, on the DataVolumes that it creates from a VM's templates, and CDI's copy on their claims: UID of the VM.
    pub const KUBEVIRT_CREATED_BY: &str = "kubevirt.io/created-by";
    /// Machinist's own, on VMs, Secrets of user data and bootstrap tokens: UID of the Machine.
    pub const MACHINE_UID: &str = "machinist.dev/machine-uid";
    /// Machinist's own, on VMs and Secrets of user data: UID of the user cluster's kube-system namespace.
    pub const CLUSTER_UID: &str = "machinist.dev/cluster-uid";
    /// On Secrets of the webhook's certificates that the controller creates: [`CERTIFICATE_AUTHORITY`] or
    /// [`CERTIFICATE_SERVING`]. Without it, the Secrets belong to another owner.
    pub const CERTIFICATE: &str = "machinist.dev/certificate";
    /// Value of [`CERTIFICATE`].
    pub const CERTIFICATE_AUTHORITY: &str = "authority";
    /// Value of [`CERTIFICATE`].
    pub const CERTIFICATE_SERVING: &str = "serving";
}

/// Annotations.
pub mod annotation {
    /// How KubeVirt passes Ignition's user data.
    pub const IGNITION: &str = "kubevirt.io/ignitiondata";
    /// On a VM's template: the subnet of Kube-OVN.
    pub const OVN_LOGICAL_SWITCH: &str = "ovn.kubernetes.io/logical_switch";
    /// On a Machine: `true` lets one spec change through; removed by the webhook on use.
    pub const BYPASS_IMMUTABILITY: &str = "kubermatic.io/bypass-no-spec-mutation-requirement";
    /// On a Machine or MachineSet: any value makes every controller ignore it.
    pub const INITIALIZERS: &str = "machine-controller.kubermatic.io/initializers";
    /// On a MachineDeployment or MachineSet: with any value, controllers ignore it. Cluster API's name; the
    /// cluster-autoscaler reads it, too.
    pub const PAUSED: &str = "cluster.x-k8s.io/paused";
    /// On a MachineDeployment and its MachineSets: revision of the template.
    pub const REVISION: &str = "machinedeployment.clusters.k8s.io/revision";
    /// On a MachineSet: earlier revisions of its template, comma-separated.
    pub const REVISION_HISTORY: &str = "machinedeployment.clusters.k8s.io/revision-history";
    /// On a MachineSet: `replicas` of the MachineDeployment when the set was scaled last.
    pub const DESIRED_REPLICAS: &str = "machinedeployment.clusters.k8s.io/desired-replicas";
    /// On a MachineSet: the same and `maxSurge`.
    pub const MAX_REPLICAS: &str = "machinedeployment.clusters.k8s.io/max-replicas";
    /// On a MachineSet: [`REVISION`] again, where the cluster-autoscaler reads it. It removes no node of a pool during
    /// a rollout.
    pub const ROLLOUT_GUARD: &str = "machinedeployment.clusters.x-k8s.io/revision";
    /// Machinist's own, on a MachineDeployment: the revision to roll back to; empty or `0` is the previous one. Removed
    /// when done.
    pub const ROLLBACK_TO: &str = "machinist.dev/rollback-to";
    /// Machinist's own, on a MachineDeployment or MachineSet: `true` propagates Node labels, annotations, taints and
    /// timeouts to the existing Machines in place, instead of replacing them (ADR 011).
    pub const IN_PLACE: &str = "machinist.dev/in-place-changes";
    /// Machinist's own, on a MachineDeployment or MachineSet: [`FIND_DNS`] gives the nodes of its new Machines the address
    /// of the cluster's DNS Service, unless a flag names one. New MachineSets get it: those of an older version keep the
    /// address that their nodes have.
    pub const CLUSTER_DNS: &str = "machinist.dev/cluster-dns";
    /// The value of [`CLUSTER_DNS`].
    pub const FIND_DNS: &str = "auto";
    /// Machinist's own, on a MachineSet: one of its Machines has been available.
    pub const PROVEN: &str = "machinist.dev/proven";
    /// Machinist's own, on a MachineSet: the last of its Machines whose join timeout expired, and why.
    pub const MACHINE_FAILED: &str = "machinist.dev/machine-failed";
    /// On a MachineSet of an older template (strategy OnDelete): it creates no Machines. Cluster API's name.
    pub const NO_NEW_MACHINES: &str = "cluster.x-k8s.io/disable-machine-create";
    /// On a Machine: with any value, scaling down its MachineSet deletes it first. The cluster-autoscaler writes it.
    pub const DELETE_MACHINE: &str = "cluster.k8s.io/delete-machine";
    /// On a Node: `<namespace>/<name>` of its Machine.
    pub const MACHINE: &str = "cluster.k8s.io/machine";
    /// Machinist's own, on a Node that is drained because its Machine is being deleted: the data to finish the
    /// deletion, as JSON, in case the Machine's finalizers are removed by force.
    pub const DELETING: &str = "machinist.dev/deleting";
    /// In `spec.metadata.annotations`: namespace of the VMs on the infra cluster.
    pub const CLUSTER_NAMESPACE: &str = "cluster.x-k8s.io/cluster-namespace";
    /// Prefix, on a Machine: kubelet feature gates from the webhook's flags.
    pub const KUBELET_FEATURE_GATES: &str = "v1.kubelet-featuregates.machine-controller.kubermatic.io/";
    /// Prefixes of all annotations that the generator of user data reads: feature gates, flags, configuration.
    pub const KUBELET_PREFIXES: [&str; 3] = [
        KUBELET_FEATURE_GATES,
        "v1.kubelet-flags.machine-controller.kubermatic.io/",
        KUBELET_CONFIG,
    ];
    /// Prefix, on a Machine: settings of the kubelet, like `MaxPods`.
    pub const KUBELET_CONFIG: &str = "v1.kubelet-config.machine-controller.kubermatic.io/";
    /// On a Machine: whether an external cloud controller manager runs.
    pub const EXTERNAL_CLOUD_PROVIDER: &str =
        "v1.kubelet-flags.machine-controller.kubermatic.io/ExternalCloudProvider";
    /// Prefix of annotations that go to the primary DataVolume instead of the VM.
    pub const CDI_PREFIX: &str = "cdi.kubevirt.io";

    /// kubectl's copy of the whole manifest, which may contain a kubeconfig.
    pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

    /// On a Node: with any value, no pod is evicted from it when its Machine is deleted.
    pub const SKIP_EVICTION: &str = "kubermatic.io/skip-eviction";
    /// On a Machine: with any value, its Node is not drained. Cluster API's name.
    pub const EXCLUDE_DRAIN: &str = "machine.cluster.x-k8s.io/exclude-node-draining";
    /// On a Machine: with any value, its deletion does not wait until its Node's volumes are detached. Cluster API's
    /// name.
    pub const EXCLUDE_DETACH: &str = "machine.cluster.x-k8s.io/exclude-wait-for-node-volume-detach";
    /// Prefix, on a Machine: its Node is not drained before all annotations of this prefix are removed. Cluster API's
    /// name.
    pub const PRE_DRAIN_HOOK: &str = "pre-drain.delete.hook.machine.cluster.x-k8s.io";
    /// Prefix, on a Machine: its VM is not deleted before all annotations of this prefix are removed. Cluster API's
    /// name.
    pub const PRE_TERMINATE_HOOK: &str = "pre-terminate.delete.hook.machine.cluster.x-k8s.io";
    /// On a pod: the kubelet's copy of one that it read from a file. Kubernetes' name.
    pub const MIRROR_POD: &str = "kubernetes.io/config.mirror";

    /// Machinist's own, on a MachineDeployment: how many of its Nodes drain at the same time.
    pub const MAX_CONCURRENT_DRAINS: &str = "machinist.dev/max-concurrent-drains";
    /// Machinist's own, on a Machine: how long its Node may take to drain (`10m`); `0s` means no timeout. Cluster API's
    /// `nodeDrainTimeout`.
    pub const DRAIN_TIMEOUT: &str = "machinist.dev/node-drain-timeout";
    /// Machinist's own, on a Machine: how long its Node's volumes may take to detach after that (`5m`); `0s` means no
    /// timeout. Cluster API's `nodeVolumeDetachTimeout`.
    pub const DETACH_TIMEOUT: &str = "machinist.dev/node-volume-detach-timeout";
    /// Machinist's own, on a Machine: how long its Node may take to disappear after its VM (`1m`); `0s` means no
    /// timeout. Cluster API's `nodeDeletionTimeout`.
    pub const NODE_DELETION_TIMEOUT: &str = "machinist.dev/node-deletion-timeout";

    /// Machinist's own, on a Machine: `copy` fills its secondary disks with the image of the operating system, as
    /// machine-controller does, instead of leaving them blank.
    pub const SECONDARY_DISKS: &str = "machinist.dev/secondary-disks";
    /// Machinist's own, on a Machine: `metadata.uid` of a foreign VM that this Machine adopts.
    pub const ADOPT_VM: &str = "machinist.dev/adopt-vm-uid";
    /// Machinist's own, on a deleting Machine: UID of the VM that an admin abandons.
    pub const ABANDON_VM: &str = "machinist.dev/abandon-vm-uid";
    /// Value of [`ABANDON_VM`] if no VM is recorded.
    pub const ABANDON_UNKNOWN: &str = "unknown";
    /// Machinist's own, on a Machine: namespace UID or server of the new infra after
    /// [`super::reason::INFRASTRUCTURE_CHANGED`].
    pub const ACCEPT_INFRASTRUCTURE: &str = "machinist.dev/accept-infrastructure";
    /// Manual decisions of an admin about one Machine. Setting them requires the permission to `adopt` Machines.
    pub const ADMIN_DECISIONS: [&str; 3] = [ADOPT_VM, ABANDON_VM, ACCEPT_INFRASTRUCTURE];
    /// Machinist's own, on a Machine: digest of the last spec change that [`BYPASS_IMMUTABILITY`] permitted; permits
    /// only that change.
    pub const SPEC_CHANGE: &str = "machinist.dev/spec-change";
    /// Machinist's own, on a Machine: how long its VM may take to run (`45m`); `off` means no timeout.
    pub const PROVISIONING_TIMEOUT: &str = "machinist.dev/provisioning-timeout";
    /// Machinist's own, on a Machine: keys of startup taints in its spec, comma-separated. The Node gets them when it
    /// registers, and they are not restored.
    pub const STARTUP_TAINTS: &str = "machinist.dev/startup-taints";
    /// Machinist's own, on a Machine: its timeouts and startup taints. Changing them requires no new virtual machine.
    pub const CHANGED_IN_PLACE: [&str; 5] = [
        STARTUP_TAINTS,
        PROVISIONING_TIMEOUT,
        DRAIN_TIMEOUT,
        DETACH_TIMEOUT,
        NODE_DELETION_TIMEOUT,
    ];
    /// On a MachineDeployment, operating-system-manager's: the profile that it generates user data from. If set, `auto`
    /// means bootstrap mode *osm*.
    pub const OPERATING_SYSTEM_PROFILE: &str = "k8c.io/operating-system-profile";
    /// On a bootstrap Secret, operating-system-manager's: [`REVISION`] of the MachineDeployment that it was generated
    /// for.
    pub const BOOTSTRAP_REVISION: &str = "k8c.io/machine-deployment-revision";
    /// Machinist's own, on a Machine: bootstrap mode of this object (`auto`, `osm`, `builtin`).
    pub const BOOTSTRAP: &str = "machinist.dev/bootstrap";

    /// Machinist's own, on a Secret of the webhook's certificates: with any value, its content is generated again.
    /// Removed when done.
    pub const ROTATE: &str = "machinist.dev/rotate";
}

/// Annotations that the cluster-autoscaler (provider `clusterapi`, `CAPI_GROUP=cluster.k8s.io`) reads from
/// MachineDeployments and from MachineSets without one.
pub mod autoscaler {
    /// Fewest Machines.
    pub const MIN_SIZE: &str = "cluster.k8s.io/cluster-api-autoscaler-node-group-min-size";
    /// Most Machines; without it, or with 0, the object is not a node group.
    pub const MAX_SIZE: &str = "cluster.k8s.io/cluster-api-autoscaler-node-group-max-size";
    /// Prefix of those two, without the group.
    pub const SIZES: &str = "/cluster-api-autoscaler-node-group-";
    /// Prefix of settings of one node group.
    pub const OPTIONS: &str = "cluster.k8s.io/autoscaling-options-";
    /// Prefix of the capacity of a node of the group, known before a node exists.
    pub const CAPACITY: &str = "capacity.cluster-autoscaler.kubernetes.io/";
    /// Machinist's own: the annotations below [`CAPACITY`] that Machinist wrote, with their values, as JSON. Others are
    /// the user's.
    pub const WRITTEN: &str = "machinist.dev/autoscaler-capacity";
}

/// Values of [`annotation::BOOTSTRAP`].
pub const BOOTSTRAP_MODES: [&str; 3] = ["auto", "osm", "builtin"];

/// The Secrets through which operating-system-manager delivers user data.
pub mod osm {
    /// Namespace of its Secrets.
    pub const NAMESPACE: &str = "cloud-init-settings";
    /// Key in the bootstrap Secret.
    pub const KEY: &str = "cloud-config";
}

/// Group of Machinist's bootstrap tokens: bound to `system:node-bootstrapper`, never to `…:nodeclient`.
pub const TOKEN_GROUP: &str = "system:bootstrappers:machinist:machine";
/// Type of bootstrap token Secrets.
pub const TOKEN_SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
/// The providerID without an external CCM is this prefix and the Machine's UID.
pub const PROVIDER_ID_PREFIX: &str = "kubermatic://kubevirt/";

/// Whether it is the providerID that KubeVirt's cloud controller manager sets on the Node of the VM of that name.
pub fn is_ccm_provider_id_of(vm: &str, provider_id: &str) -> bool {
    const PREFIX: &str = "kubevirt://";
    let scheme = provider_id.get(..PREFIX.len());
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(PREFIX))
        && provider_id[PREFIX.len()..].eq_ignore_ascii_case(vm)
}

/// Condition types on a Machine. They keep the core/v1 NodeCondition shape.
pub mod condition {
    /// Summary of the others.
    pub const READY: &str = "Ready";
    /// VM, disks, scheduling: the root cause.
    pub const INFRASTRUCTURE_READY: &str = "InfrastructureReady";
    /// The infra cluster is reachable.
    pub const INFRASTRUCTURE_REACHABLE: &str = "InfrastructureReachable";
    /// Token and user data exist.
    pub const BOOTSTRAP_READY: &str = "BootstrapReady";
    /// The Node has joined and is Ready.
    pub const NODE_READY: &str = "NodeReady";
    /// Present with the cause while the kubelet's request for a serving certificate is pending. Not part of [`READY`].
    pub const SERVING_CERTIFICATE: &str = "ServingCertificate";
    /// Present while the host of the VM is being drained on the infra cluster; False while such a drain would hang. Not
    /// part of [`READY`].
    pub const EVACUATING: &str = "Evacuating";
    /// Present during deletion from the start of the drain: False since then, with the cause.
    pub const DRAINED: &str = "Drained";
    /// Present during deletion if volumes are attached: False since then, with their names.
    pub const VOLUMES_DETACHED: &str = "VolumesDetached";
    /// Present during deletion: what it waits for, since the last transition.
    pub const DELETING: &str = "Deleting";
}

/// Taints.
pub mod taint {
    /// Kubernetes' own, on a Node whose machine is permanently off (KEP-2268): its pods are removed and its volumes
    /// detached at once.
    pub const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
}
