//! The election as a state machine without clocks or network, after client-go's leaderelection.
//!
//! A Lease counts as held until it has not changed for its duration *as seen from here*, on the monotonic clock. Its
//! times are for people only: the wall clocks of two candidates may differ by any amount.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};

#[cfg(test)]
mod tests;

/// The three durations of an election; the same as machine-controller's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    /// How long others leave an unchanged Lease alone.
    pub(super) lease: Duration,
    /// How old the last renewal may be before the leader gives up.
    pub(super) deadline: Duration,
    /// Pause between two tries.
    pub(super) retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Attempt {
    /// Read the Lease, and hand it to [`Election::observe`].
    Read,
    /// Another process leads.
    Wait,
    /// Create it.
    Create(Box<Lease>),
    /// Replace it; its `resourceVersion` lets only one candidate win.
    Replace(Box<Lease>),
    /// We led and do not any more.
    Tombstones,
}

/// One candidate's view of the election.
#[derive(Debug)]
pub(super) struct Election {
    name: String,
    namespace: String,
    identity: String,
    timing: Timing,
    /// The Lease as last read or written; nothing if there was none.
    lease: Option<Lease>,
    /// The last record with a holder other than us, and when it was first seen here. It outlives the Lease's deletion:
    /// the one that held it may not have noticed yet.
    foreign: Option<(LeaseSpec, Instant)>,
    /// Whether `lease` is what the API server holds as far as we know.
    fresh: bool,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Standby,
    Leading { renewed: Instant },
    Tombstones,
}

impl Election {
    pub(super) fn new(name: String, namespace: String, identity: String, timing: Timing) -> Self {
        Self {
            name,
            namespace,
            identity,
            timing,
            lease: None,
            foreign: None,
            fresh: false,
            phase: Phase::Standby,
        }
    }

    /// When the Lease was last renewed, while leading.
    pub(super) fn renewed(&self) -> Option<Instant> {
        match self.phase {
            Phase::Leading { renewed } => Some(renewed),
            Phase::Standby | Phase::Tombstones => None,
        }
    }

    /// Takes in what a read of the Lease answered at `now`.
    pub(super) fn observe(&mut self, lease: Option<Lease>, now: Instant) {
        self.fresh = true;
        let spec = lease
            .as_ref()
            .and_then(|lease| lease.spec.clone())
            .unwrap_or_default();
        let is_foreign = holder(&spec).is_some_and(|holder| *holder != self.identity);
        if is_foreign {
            if self.foreign.as_ref().is_none_or(|(seen, _)| *seen != spec) {
                self.foreign = Some((spec, now));
            }
        } else if lease.is_some() {
            // Released, or ours: no other's claim stands.
            self.foreign = None;
        }
        // A deleted Lease is recreated by its leader; one that names another or no holder has been taken from us.
        if let (Phase::Leading { .. }, Some(lease)) = (self.phase, &lease)
            && lease.spec.as_ref().and_then(holder) != Some(&self.identity)
        {
            self.phase = Phase::Tombstones;
        }
        self.lease = lease;
    }

    /// What to do at `now`; `wall` is the time of day, written for people.
    pub(super) fn next(&mut self, now: Instant, wall: Timestamp) -> Attempt {
        self.expire(now);
        if self.phase == Phase::Tombstones {
            return Attempt::Tombstones;
        }
        if !self.fresh {
            return Attempt::Read;
        }
        if self.is_held_by_another(now) {
            // The next turn starts with a read.
            self.fresh = false;
            return Attempt::Wait;
        }
        match &self.lease {
            None => Attempt::Create(Box::new(Lease {
                metadata: ObjectMeta {
                    name: Some(self.name.clone()),
                    namespace: Some(self.namespace.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(self.claim(&LeaseSpec::default(), wall)),
            })),
            Some(lease) => {
                let spec = self.claim(&lease.spec.clone().unwrap_or_default(), wall);
                Attempt::Replace(Box::new(Lease {
                    metadata: lease.metadata.clone(),
                    spec: Some(spec),
                }))
            }
        }
    }

    /// A write of ours succeeded. `started` is when it was sent: others see the change at that instant or later, so
    /// counting from there makes us give up before they may take over.
    pub(super) fn written(&mut self, lease: Lease, started: Instant) {
        self.lease = Some(lease);
        self.foreign = None;
        self.fresh = true;
        if self.phase != Phase::Tombstones {
            self.phase = Phase::Leading { renewed: started };
        }
    }

    /// A write failed, or it is not known whether it did: the Lease has to be read again.
    pub(super) fn refused(&mut self) {
        self.fresh = false;
    }

    /// Gives the leadership up if the last renewal is too old at `now`. A process that was stopped and woken comes here
    /// before it sends anything.
    pub(super) fn expire(&mut self, now: Instant) {
        if let Phase::Leading { renewed } = self.phase
            && now.saturating_duration_since(renewed) >= self.timing.deadline
        {
            self.phase = Phase::Tombstones;
        }
    }

    /// The Lease as a leader that leaves writes it, so that the next one need not wait: without a holder, as client-go
    /// does.
    pub(super) fn farewell(&self, wall: Timestamp) -> Option<Lease> {
        let lease = self.lease.as_ref()?;
        let spec = lease
            .spec
            .as_ref()
            .filter(|spec| holder(spec) == Some(&self.identity))?;
        let spec = LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            acquire_time: Some(MicroTime(wall)),
            renew_time: Some(MicroTime(wall)),
            ..spec.clone()
        };
        Some(Lease {
            metadata: lease.metadata.clone(),
            spec: Some(spec),
        })
    }

    fn is_held_by_another(&self, now: Instant) -> bool {
        self.foreign.as_ref().is_some_and(|(spec, since)| {
            // The holder's own word counts: another program may hold it for longer than we would.
            let seconds = spec
                .lease_duration_seconds
                .and_then(|s| u64::try_from(s).ok())
                .filter(|s| *s > 0);
            let duration = seconds.map_or(self.timing.lease, Duration::from_secs);
            now.saturating_duration_since(*since) < duration
        })
    }

    /// The record that says we lead, made from the one before.
    fn claim(&self, before: &LeaseSpec, wall: Timestamp) -> LeaseSpec {
        let ours = holder(before) == Some(&self.identity);
        // As client-go counts: the first holder of a new Lease is no transition, nor is a renewal.
        let transitions = before.lease_transitions.unwrap_or(0);
        let transitions = if ours || self.lease.is_none() {
            transitions
        } else {
            transitions.saturating_add(1)
        };
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(self.timing.lease.as_secs()).unwrap_or(i32::MAX)),
            acquire_time: before
                .acquire_time
                .clone()
                .filter(|_| ours)
                .or(Some(MicroTime(wall))),
            renew_time: Some(MicroTime(wall)),
            lease_transitions: Some(transitions),
            ..before.clone()
        }
    }
}

/// Whether a Lease has no holder, so that who stands by may have it at once.
pub(super) fn is_free(lease: &Lease) -> bool {
    lease.spec.as_ref().and_then(holder).is_none()
}

/// Who holds the Lease; an empty name is no holder.
fn holder(spec: &LeaseSpec) -> Option<&String> {
    spec.holder_identity.as_ref().filter(|holder| !holder.is_empty())
}
