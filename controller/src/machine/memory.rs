//! What the reconciler of Machines remembers. Nothing of it is needed after a restart.

use std::sync::OnceLock;

use k8s_openapi::jiff::Timestamp;
use machinist_infra::cache::store::Key;
use tokio::time::Instant;

use super::disruption_budget::SurgeReservations;
use super::drain::Drains;
use super::drain::slots::DrainSlots;
use super::failures::Failures;
use super::mass_loss_guard::MassLossGuards;
use super::node_conflicts::NodeConflicts;
use super::start_limiter::StartLimiter;
use super::times::Times;
use super::unconfirmed_causes::UnconfirmedCauses;
use crate::csr::reported::Reported;
use crate::csr::reserved_addresses::Known;
use crate::runtime::recreation::Recreations;

/// What the reconciler of Machines remembers.
#[derive(Debug)]
pub struct Memory {
    /// Held while a Machine is deleted because its host is drained.
    pub evacuations: tokio::sync::Mutex<()>,
    /// In whose place others are made before that.
    pub surge_reservations: SurgeReservations,
    /// Machines that start.
    pub start_limiter: StartLimiter,
    /// Whose turn to be drained it is.
    pub drain_slots: DrainSlots,
    /// Nodes that are being drained.
    pub drains: Drains,
    /// What other controllers take from Nodes.
    pub node_conflicts: NodeConflicts,
    /// What has vanished from infra clusters.
    pub mass_loss_guards: MassLossGuards,
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
    /// Causes that may pass within a moment.
    pub unconfirmed_causes: UnconfirmedCauses,
    /// Refusals of serving certificates that were reported.
    pub reported: Reported,
}

impl Memory {
    /// Of a process that has reconciled nothing yet.
    pub fn new(start_limiter: StartLimiter, drains: Drains, reserved: Known) -> Self {
        Self {
            evacuations: tokio::sync::Mutex::default(),
            surge_reservations: SurgeReservations::default(),
            start_limiter,
            drain_slots: DrainSlots::default(),
            drains,
            node_conflicts: NodeConflicts::default(),
            mass_loss_guards: MassLossGuards::default(),
            reserved,
            leading_since: OnceLock::new(),
            times: Times::default(),
            failures: Failures::default(),
            recreations: Recreations::default(),
            unconfirmed_causes: UnconfirmedCauses::default(),
            reported: Reported::default(),
        }
    }

    /// Forgets a Machine of which nothing is left; those whose turn to start has come by that.
    pub fn forget(&self, key: &Key) -> Vec<Key> {
        self.times.forget_news(key);
        self.failures.clear(key);
        self.failures.creations.forget(key);
        self.recreations.end(key);
        self.unconfirmed_causes.forget(key);
        self.drain_slots.forget(key);
        self.surge_reservations.forget(key);
        self.drains.close(key);
        self.start_limiter.forget(key, Instant::now())
    }
}
