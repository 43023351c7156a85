//! Every name of the API in one place: labels, annotations, finalizers, condition types and their reasons.
//!
//! Names without a remark are machine-controller's and part of the contract with its users. Names below
//! [`PREFIX`] are our own (ADR 001).

/// API group of Machine, MachineSet and MachineDeployment.
pub const GROUP: &str = "cluster.k8s.io";
/// The one served and stored version.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` of all our kinds.
pub const API_VERSION: &str = "cluster.k8s.io/v1alpha1";
/// Prefix of our own labels and annotations (ADR 001).
pub const PREFIX: &str = "machinist.dev";

/// The Lease that both machine-controller and we take, so that both never run at once, unless a flag names another.
pub const LEASE: &str = "machine-controller";
/// The Lease of who keeps the webhook's certificates, in the namespace of their Secrets. Beside a machine-controller that
/// leads, our webhook still has to serve.
pub const CERTIFICATES_LEASE: &str = "machinist-certificates";
/// Field manager and user agent of the controller.
pub const CONTROLLER: &str = "machinist-controller";
/// Field manager of nothing but the `caBundle` of our webhook configurations.
pub const CA_BUNDLE_MANAGER: &str = "machinist-certificates";

/// Finalizers on Machines.
pub mod finalizer {
    /// The VM may still exist.
    pub const VM: &str = "machine-delete-finalizer";
    /// The Node may still exist.
    pub const NODE: &str = "machine-node-delete-finalizer";
    /// Left by machine-controller on rhel Machines.
    pub const RED_HAT_SUBSCRIPTION: &str = "kubermatic.io/red-hat-subscription";
    /// On MachineSets and MachineDeployments: garbage collection deletes what they own first, and then takes it away.
    pub const FOREGROUND_DELETION: &str = "foregroundDeletion";
}

/// Labels.
pub mod label {
    /// On a Machine: selects the controller instance (`--name`).
    pub const CONTROLLER_NAME: &str = "machine.k8s.io/controller";
    /// On a MachineSet of a MachineDeployment, on its Machines and in its selector: number of the template.
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

    /// On a pod: what becomes of it when its Node is drained, `skip` or `wait-completed`. Cluster API's name.
    pub const DRAIN: &str = "cluster.x-k8s.io/drain";

    /// Ours, on VMs, Secrets of user data and bootstrap tokens: UID of the Machine.
    pub const MACHINE_UID: &str = "machinist.dev/machine-uid";
    /// Ours, on VMs and Secrets of user data: UID of the user cluster's kube-system namespace.
    pub const CLUSTER_UID: &str = "machinist.dev/cluster-uid";
    /// On Secrets of the webhook's certificates that the controller makes: [`CERTIFICATE_AUTHORITY`] or
    /// [`CERTIFICATE_SERVING`]. Without it, they are somebody else's.
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
    /// On a Machine or MachineSet: any text makes every controller leave it alone.
    pub const INITIALIZERS: &str = "machine-controller.kubermatic.io/initializers";
    /// On a MachineDeployment or MachineSet: there at all, it is left alone. Cluster API's name; the cluster-autoscaler
    /// reads it, too.
    pub const PAUSED: &str = "cluster.x-k8s.io/paused";
    /// On a MachineDeployment and its MachineSets: number of the template.
    pub const REVISION: &str = "machinedeployment.clusters.k8s.io/revision";
    /// On a MachineSet: numbers that its template had before, with commas between.
    pub const REVISION_HISTORY: &str = "machinedeployment.clusters.k8s.io/revision-history";
    /// On a MachineSet: `replicas` of the MachineDeployment when the set was scaled last.
    pub const DESIRED_REPLICAS: &str = "machinedeployment.clusters.k8s.io/desired-replicas";
    /// On a MachineSet: the same and `maxSurge`.
    pub const MAX_REPLICAS: &str = "machinedeployment.clusters.k8s.io/max-replicas";
    /// On a MachineSet: [`REVISION`] again, where the cluster-autoscaler looks for it. It removes no node of a pool that is
    /// being rolled.
    pub const ROLLOUT_GUARD: &str = "machinedeployment.clusters.x-k8s.io/revision";
    /// Ours, on a MachineDeployment: the revision to go back to; empty or `0` is the one before. Removed when done.
    pub const ROLLBACK_TO: &str = "machinist.dev/rollback-to";
    /// Ours, on a MachineDeployment or MachineSet: `true` changes what is only on the Nodes, and timeouts, of the Machines
    /// that are there, instead of making others (ADR 011).
    pub const IN_PLACE: &str = "machinist.dev/in-place-changes";
    /// Ours, on a MachineSet: one of its Machines has been available.
    pub const PROVEN: &str = "machinist.dev/proven";
    /// Ours, on a MachineSet: the last of its Machines that ran out of time to join, and why.
    pub const MACHINE_FAILED: &str = "machinist.dev/machine-failed";
    /// On a MachineSet of an older template (strategy OnDelete): it makes no Machines. Cluster API's name.
    pub const NO_NEW_MACHINES: &str = "cluster.x-k8s.io/disable-machine-create";
    /// On a Machine: any text makes it the first to go when its set is scaled down. The cluster-autoscaler writes it.
    pub const DELETE_MACHINE: &str = "cluster.k8s.io/delete-machine";
    /// On a Node: `<namespace>/<name>` of its Machine.
    pub const MACHINE: &str = "cluster.k8s.io/machine";
    /// Ours, on a Node that is drained because its Machine is being deleted: what finishing that takes, as JSON, should the
    /// Machine's finalizers be removed by force.
    pub const DELETING: &str = "machinist.dev/deleting";
    /// In `spec.metadata.annotations`: namespace of the VMs on the infra cluster.
    pub const CLUSTER_NAMESPACE: &str = "cluster.x-k8s.io/cluster-namespace";
    /// Prefix, on a Machine: kubelet feature gates as the webhook was told.
    pub const KUBELET_FEATURE_GATES: &str = "v1.kubelet-featuregates.machine-controller.kubermatic.io/";
    /// Prefixes of everything that the maker of user data reads from annotations: feature gates, flags, configuration.
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

    /// kubectl's copy of the whole manifest, which may hold a kubeconfig.
    pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

    /// On a Node: there at all, no pod is evicted from it when its Machine goes.
    pub const SKIP_EVICTION: &str = "kubermatic.io/skip-eviction";
    /// On a Machine: there at all, its Node is not drained. Cluster API's name.
    pub const EXCLUDE_DRAIN: &str = "machine.cluster.x-k8s.io/exclude-node-draining";
    /// On a Machine: there at all, nobody waits for its Node's volumes to be detached. Cluster API's name.
    pub const EXCLUDE_DETACH: &str = "machine.cluster.x-k8s.io/exclude-wait-for-node-volume-detach";
    /// Prefix, on a Machine: its Node is not drained before all annotations of this prefix are gone. Cluster API's name.
    pub const PRE_DRAIN_HOOK: &str = "pre-drain.delete.hook.machine.cluster.x-k8s.io";
    /// Prefix, on a Machine: its VM is not deleted before all annotations of this prefix are gone. Cluster API's name.
    pub const PRE_TERMINATE_HOOK: &str = "pre-terminate.delete.hook.machine.cluster.x-k8s.io";
    /// On a pod: the kubelet's copy of one that it read from a file. Kubernetes' name.
    pub const MIRROR_POD: &str = "kubernetes.io/config.mirror";

    /// Ours, on a MachineDeployment: how many of its Nodes are drained at a time.
    pub const MAX_CONCURRENT_DRAINS: &str = "machinist.dev/max-concurrent-drains";
    /// Ours, on a Machine: how long its Node may take to be drained (`10m`); `0s` for ever. Cluster API's
    /// `nodeDrainTimeout`.
    pub const DRAIN_TIMEOUT: &str = "machinist.dev/node-drain-timeout";
    /// Ours, on a Machine: how long its Node's volumes may take to be detached after that (`5m`); `0s` for ever. Cluster
    /// API's `nodeVolumeDetachTimeout`.
    pub const DETACH_TIMEOUT: &str = "machinist.dev/node-volume-detach-timeout";
    /// Ours, on a Machine: how long its Node may take to go once its VM is gone (`1m`); `0s` for ever. Cluster API's
    /// `nodeDeletionTimeout`.
    pub const NODE_DELETION_TIMEOUT: &str = "machinist.dev/node-deletion-timeout";

    /// Ours, on a Machine: `copy` fills its secondary disks with the image of the operating system, as machine-controller
    /// does, instead of leaving them blank.
    pub const SECONDARY_DISKS: &str = "machinist.dev/secondary-disks";
    /// Ours, on a Machine: `metadata.uid` of a stranger's VM that this Machine shall take.
    pub const ADOPT_VM: &str = "machinist.dev/adopt-vm-uid";
    /// Ours, on a deleting Machine: UID of the VM that an admin gives up on.
    pub const ABANDON_VM: &str = "machinist.dev/abandon-vm-uid";
    /// Value of [`ABANDON_VM`] where no VM is on record.
    pub const ABANDON_UNKNOWN: &str = "unknown";
    /// Ours, on a Machine: namespace UID or server of the new infra after [`super::reason::INFRASTRUCTURE_CHANGED`].
    pub const ACCEPT_INFRASTRUCTURE: &str = "machinist.dev/accept-infrastructure";
    /// What an admin decides by hand, about one Machine. Setting them takes the right to `adopt` Machines.
    pub const ADMIN_DECISIONS: [&str; 3] = [ADOPT_VM, ABANDON_VM, ACCEPT_INFRASTRUCTURE];
    /// Ours, on a Machine: digest of the one spec change that [`BYPASS_IMMUTABILITY`] let through last; opens nothing
    /// but that change.
    pub const SPEC_CHANGE: &str = "machinist.dev/spec-change";
    /// Ours, on a Machine: how long its VM may take to run (`45m`); `off` for ever.
    pub const PROVISIONING_TIMEOUT: &str = "machinist.dev/provisioning-timeout";
    /// Ours, on a Machine: keys of taints in its spec that end with the start of its Node, with commas between. They are put
    /// onto the Node when it registers, and not put back.
    pub const STARTUP_TAINTS: &str = "machinist.dev/startup-taints";
    /// Ours, on a Machine: how long it may take with its steps, and which taints end with its start. No virtual machine is
    /// another one for them.
    pub const CHANGED_IN_PLACE: [&str; 5] = [
        STARTUP_TAINTS,
        PROVISIONING_TIMEOUT,
        DRAIN_TIMEOUT,
        DETACH_TIMEOUT,
        NODE_DELETION_TIMEOUT,
    ];
    /// On a MachineDeployment, operating-system-manager's: the profile that it makes user data by. Not empty, it makes
    /// *osm* the bootstrap mode of `auto`.
    pub const OPERATING_SYSTEM_PROFILE: &str = "k8c.io/operating-system-profile";
    /// On a bootstrap Secret, operating-system-manager's: [`REVISION`] of the MachineDeployment that it was made for.
    pub const BOOTSTRAP_REVISION: &str = "k8c.io/machine-deployment-revision";
    /// Ours, on a Machine: bootstrap mode of this object (`auto`, `osm`, `builtin`).
    pub const BOOTSTRAP: &str = "machinist.dev/bootstrap";

    /// Ours, on a Secret of the webhook's certificates: whatever its text, what the Secret holds is made anew. Removed when
    /// done.
    pub const ROTATE: &str = "machinist.dev/rotate";
}

/// What the cluster-autoscaler (provider `clusterapi`, `CAPI_GROUP=cluster.k8s.io`) reads of MachineDeployments and of
/// MachineSets that stand alone: annotations.
pub mod autoscaler {
    /// Fewest Machines.
    pub const MIN_SIZE: &str = "cluster.k8s.io/cluster-api-autoscaler-node-group-min-size";
    /// Most Machines; without it, or with 0, the object is no node group.
    pub const MAX_SIZE: &str = "cluster.k8s.io/cluster-api-autoscaler-node-group-max-size";
    /// Prefix of those two, without the group.
    pub const SIZES: &str = "/cluster-api-autoscaler-node-group-";
    /// Prefix of settings of one node group.
    pub const OPTIONS: &str = "cluster.k8s.io/autoscaling-options-";
    /// Prefix of what a node of the group will have, known before there is one.
    pub const CAPACITY: &str = "capacity.cluster-autoscaler.kubernetes.io/";
    /// Ours: which annotations below [`CAPACITY`] we wrote, and what, as JSON. Others are the user's.
    pub const WRITTEN: &str = "machinist.dev/autoscaler-capacity";
}

/// Values of [`annotation::BOOTSTRAP`].
pub const BOOTSTRAP_MODES: [&str; 3] = ["auto", "osm", "builtin"];

/// What operating-system-manager hands user data over by.
pub mod osm {
    /// Namespace of its Secrets.
    pub const NAMESPACE: &str = "cloud-init-settings";
    /// Key in the bootstrap Secret.
    pub const KEY: &str = "cloud-config";
}

/// Group of our bootstrap tokens: bound to `system:node-bootstrapper`, never to `…:nodeclient`.
pub const TOKEN_GROUP: &str = "system:bootstrappers:machinist:machine";
/// Type of bootstrap token Secrets.
pub const TOKEN_SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
/// providerID without an external CCM is this and the Machine's UID.
pub const PROVIDER_ID_PREFIX: &str = "kubermatic://kubevirt/";

/// Whether it is the providerID that KubeVirt's cloud controller manager gives to the Node of the VM of that name.
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
    /// The infra cluster answers.
    pub const INFRASTRUCTURE_REACHABLE: &str = "InfrastructureReachable";
    /// Token and user data are in place.
    pub const BOOTSTRAP_READY: &str = "BootstrapReady";
    /// The Node has joined and is Ready.
    pub const NODE_READY: &str = "NodeReady";
    /// Present while the kubelet's request for a serving certificate is pending: why. It does not count for [`READY`].
    pub const SERVING_CERTIFICATE: &str = "ServingCertificate";
    /// Present while the host of the VM is being drained on the infra cluster; and, False, while such a drain would hang. It
    /// does not count for [`READY`].
    pub const EVACUATING: &str = "Evacuating";
    /// Present while deleting, from the beginning of the drain on: False since its beginning, and why it is not over.
    pub const DRAINED: &str = "Drained";
    /// Present while deleting, if volumes had to be waited for: False since then, and which.
    pub const VOLUMES_DETACHED: &str = "VolumesDetached";
    /// Present while deleting: what is being waited for, since the last transition.
    pub const DELETING: &str = "Deleting";
}

/// Taints.
pub mod taint {
    /// Of Kubernetes, on a Node whose machine is off for good (KEP-2268): its pods are removed and its volumes detached at
    /// once.
    pub const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
}
