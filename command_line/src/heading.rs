//! Groups of flags in `--help`, the same in both servers.

/// How the clusters are reached.
pub const CONNECTION: &str = "Connection";
/// What the webhook serves on.
pub const SERVING: &str = "Serving and certificates";
/// Who acts.
pub const LEADER_ELECTION: &str = "Leader election";
/// What happens to Machines.
pub const MACHINES: &str = "Machines";
/// What is admitted.
pub const ADMISSION: &str = "Admission";
/// How a VM becomes a Node.
pub const BOOTSTRAP: &str = "Bootstrap and kubelets";
/// How infra clusters are treated.
pub const INFRA: &str = "Infra clusters";
/// What is told.
pub const OBSERVABILITY: &str = "Observability";
