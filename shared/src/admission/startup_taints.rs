//! Startup taints: an agent removes each one when it is ready. A Node gets them when it registers and never again.
//! Otherwise the agent would have to remove them again and again, and pods would be evicted each time.

/// Keys of well-known startup taints.
const WELL_KNOWN: [&str; 3] = [
    // A cloud controller manager's.
    "node.cloudprovider.kubernetes.io/uninitialized",
    // Cluster API's.
    "node.cluster.x-k8s.io/uninitialized",
    // Karpenter's.
    "karpenter.sh/unregistered",
];

/// Prefixes of the cluster-autoscaler's keys for startup taints.
const PREFIXES: [&str; 2] = [
    "startup-taint.cluster-autoscaler.kubernetes.io/",
    "ignore-taint.cluster-autoscaler.kubernetes.io/",
];

/// The name that agents use: Cilium and the CSI drivers of AWS have it below domains of their own.
const AGENT_NOT_READY: &str = "agent-not-ready";

/// Whether a taint with that key is a startup taint, where [`crate::api::names::annotation::STARTUP_TAINTS`] has that
/// value.
pub fn has(named: Option<&str>, key: &str) -> bool {
    let name = key.rsplit_once('/').map(|(_, name)| name);
    WELL_KNOWN.contains(&key)
        || PREFIXES.iter().any(|prefix| key.starts_with(prefix))
        || name == Some(AGENT_NOT_READY)
        || named.into_iter().flat_map(keys).any(|named| named == key)
}

/// The keys in a value of [`crate::api::names::annotation::STARTUP_TAINTS`].
pub fn keys(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|key| !key.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::of_an_agent("node.cilium.io/agent-not-ready", true)]
    #[case::of_another_agent("ebs.csi.aws.com/agent-not-ready", true)]
    #[case::of_the_cloud_controller_manager("node.cloudprovider.kubernetes.io/uninitialized", true)]
    #[case::of_karpenter("karpenter.sh/unregistered", true)]
    #[case::of_the_cluster_autoscaler("startup-taint.cluster-autoscaler.kubernetes.io/gpu", true)]
    #[case::named("example.com/warming-up", true)]
    #[case::named_with_a_space("plain", true)]
    #[case::any_other("dedicated", false)]
    #[case::without_a_domain("agent-not-ready", false)]
    #[case::of_kubernetes("node.kubernetes.io/not-ready", false)]
    #[case::part_of_one_that_is_named("example.com/warming", false)]
    fn a_taint_that_ends_with_the_start_is_known_by_its_key(#[case] key: &str, #[case] expected: bool) {
        assert_eq!(has(Some("example.com/warming-up, plain,"), key), expected);
    }
}
