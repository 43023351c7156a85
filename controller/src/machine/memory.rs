//! What the reconciler of Machines remembers. Nothing of it is needed after a restart.

use std::sync::OnceLock;

use k8s_openapi::jiff::Timestamp;
use machinist_infra::cache::store::Key;
use tokio::time::Instant;

use super::brake::Brakes;
use super::contests::Contests;
use super::drain::Drains;
use super::drain::turns::Turns;
use super::evacuation::Surges;
use super::failures::Failures;
use super::starts::Starts;
use super::times::Times;
use crate::csr::reserved::Known;
use crate::csr::told::Told;
use crate::runtime::recreation::Recreations;

/// What the reconciler of Machines remembers.
#[derive(Debug)]
pub struct Memory {
    /// Held while a Machine is deleted because its host is drained.
    pub evacuations: tokio::sync::Mutex<()>,
    /// In whose place others are made before that.
    pub surges: Surges,
    /// Machines that start.
    pub starts: Starts,
    /// Whose turn to be drained it is.
    pub turns: Turns,
    /// Nodes that are being drained.
    pub drains: Drains,
    /// What other controllers take from Nodes.
    pub contests: Contests,
    /// What has vanished from infra clusters.
    pub brakes: Brakes,
    /// Addresses that are the user cluster's own.
    pub reserved: Known,
    /// When its first reconcile was: only a leader reconciles.
    pub leading_since: OnceLock<Timestamp>,
    /// How long Machines take.
    pub times: Times,
    /// Writes that failed.
    pub failures: Failures,
    /// VMs that were created.
    pub recreations: Recreations,
    /// Refusals of serving certificates that were reported.
    pub told: Told,
}

impl Memory {
    /// Of a process that has reconciled nothing yet.
    pub fn new(starts: Starts, drains: Drains, reserved: Known) -> Self {
        Self {
            evacuations: tokio::sync::Mutex::default(),
            surges: Surges::default(),
            starts,
            turns: Turns::default(),
            drains,
            contests: Contests::default(),
            brakes: Brakes::default(),
            reserved,
            leading_since: OnceLock::new(),
            times: Times::default(),
            failures: Failures::default(),
            recreations: Recreations::default(),
            told: Told::default(),
        }
    }

    /// Forgets a Machine of which nothing is left; those whose turn to start has come by that.
    pub fn forget(&self, key: &Key) -> Vec<Key> {
        self.times.forget_news(key);
        self.failures.clear(key);
        self.failures.creations.forget(key);
        self.recreations.end(key);
        self.turns.forget(key);
        self.surges.forget(key);
        self.drains.close(key);
        self.starts.forget(key, Instant::now())
    }
}
