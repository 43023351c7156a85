//! Groups of flags in `--help`, the same in both servers.

/// Access to the clusters.
pub const CONNECTION: &str = "Connection";
/// The webhook's server.
pub const SERVING: &str = "Serving and certificates";
/// Leader election.
pub const LEADER_ELECTION: &str = "Leader election";
/// Behavior for Machines.
pub const MACHINES: &str = "Machines";
/// Admission.
pub const ADMISSION: &str = "Admission";
/// Bootstrap of Nodes.
pub const BOOTSTRAP: &str = "Bootstrap and kubelets";
/// Infra clusters.
pub const INFRA: &str = "Infra clusters";
/// Logs, metrics and traces.
pub const OBSERVABILITY: &str = "Observability";
