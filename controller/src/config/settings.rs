//! What holds for all Machines.

use std::time::Duration;

use clap::ValueEnum;

use super::Flags;
use crate::bootstrap::Mode;
use crate::machine::conditions::ProgressInterval;

/// How often a Machine is reconciled whose kubeconfig may not watch, if the flag is empty.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Which process approves the first client certificates of our Machines' kubelets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ClientApprover {
    /// This one, which reads bootstrap tokens.
    Here,
    /// Another one, so this one needs no right to.
    Elsewhere,
    /// This one, which does nothing else and reads no Secret.
    Only,
}

/// What holds for all Machines.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Only Machines with this controller label are handled.
    pub name: String,
    /// How long a Machine may take to join; `None` for ever.
    pub join_timeout: Option<Duration>,
    /// An external cloud controller manager gives Nodes their providerID.
    pub external_cloud_provider: bool,
    /// UID of the user cluster's kube-system namespace.
    pub cluster_uid: String,
    /// How often a Machine is polled whose credential may not watch.
    pub poll_interval: Duration,
    /// How long a VM may take to run; `None` for ever. A Machine's annotation may say otherwise.
    pub provisioning_timeout: Option<Duration>,
    /// Whether requests for serving certificates are approved.
    pub approves_serving: bool,
    /// Which process approves first client certificates.
    pub client_approver: ClientApprover,
    /// Where user data comes from, unless a Machine says otherwise.
    pub bootstrap: Mode,
    /// How long after its deletion was asked for a Machine waits for pods and volumes; `None` for ever.
    pub skip_eviction_after: Option<Duration>,
    /// How soon progress alone is written.
    pub progress: ProgressInterval,
}

impl Settings {
    /// What the flags say, of the user cluster of that UID.
    pub fn of(flags: &Flags, cluster_uid: String) -> Self {
        Self {
            name: flags.name.clone(),
            join_timeout: flags.join_cluster_timeout.0,
            external_cloud_provider: flags.node_external_cloud_provider,
            cluster_uid,
            poll_interval: flags.infra_look_every.0.unwrap_or(LOOK_EVERY),
            provisioning_timeout: flags.provisioning_timeout.0,
            approves_serving: flags.node_csr_approver,
            client_approver: flags.client_csr_approver,
            bootstrap: flags.bootstrap,
            skip_eviction_after: flags.skip_eviction_after.0,
            progress: ProgressInterval::new(flags.progress_report_interval.0),
        }
    }
}
