//! The decision.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, SystemTime};

use crate::probe::Served;
use crate::root::{Bundle, Root};

use super::observed::{Observed, Policy, SecretState, Serving, Signer};

/// How often it is reconciled without changes: watches report changes, and certificates are valid for weeks.
const RESYNC_INTERVAL: Duration = Duration::from_hours(1);
/// How often replicas are probed until all serve the new certificate.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// A write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Create a new authority, replacing the existing one, if any.
    NewAuthority(Cause),
    /// Set every `caBundle` to these roots.
    Trust(BTreeSet<Root>),
    /// Sign a new serving certificate.
    Issue(Cause),
}

/// Why a certificate is created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// It does not exist.
    Missing,
    /// The existing one is not usable.
    Unusable(String),
    /// It is not valid yet.
    NotValid,
    /// Two thirds of its lifetime have passed.
    Due,
    /// An annotation requests it.
    Asked,
    /// The current authority has not signed it.
    Authority,
    /// It does not cover all required names.
    Names,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("it did not exist"),
            Self::Unusable(why) => write!(f, "the existing one is not usable: {why}"),
            Self::NotValid => f.write_str("the existing one is not valid yet"),
            Self::Due => f.write_str("two thirds of its lifetime have passed"),
            Self::Asked => f.write_str("the annotation machinist.dev/rotate requested it"),
            Self::Authority => f.write_str("there is a new CA"),
            Self::Names => f.write_str("it was not valid for the names of the webhook's Service"),
        }
    }
}

/// Why no action is possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// There are no webhook configurations, so no client would trust a certificate.
    NoConfigurations,
    /// The Secret of the authority has another owner.
    ForeignAuthority,
    /// The serving Secret has another owner.
    ForeignServing,
}

/// The command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Executed in order until one fails.
    pub actions: Vec<Action>,
    /// Why there are no actions.
    pub obstacle: Option<Obstacle>,
    /// When to reconcile again without changes.
    pub requeue_after: SystemTime,
}

/// Decides on actions from the observed state alone; after a write, observe and decide again.
pub fn decide(observed: &Observed, policy: &Policy) -> Plan {
    let now = observed.now;
    let mut plan = Plan {
        actions: Vec::new(),
        obstacle: obstacle(observed),
        requeue_after: now + RESYNC_INTERVAL,
    };
    if plan.obstacle.is_some() {
        return plan;
    }
    let signer = match &observed.signer {
        SecretState::Usable(signer) => signer,
        unusable => {
            plan.actions.push(Action::NewAuthority(
                Cause::of(unusable).unwrap_or(Cause::Missing),
            ));
            return plan;
        }
    };
    // An authority that is not valid yet was created with a wrong clock: clients would reject its certificates.
    let usable = signer.root.validity().covers(now);
    let overdue_since = signer.root.validity().two_thirds();
    let cause = overdue(signer.rotate, overdue_since, now).or((!usable).then_some(Cause::NotValid));
    if let Some(cause) = cause {
        plan.actions.push(Action::NewAuthority(cause));
        return plan;
    }
    plan.requeue_at(overdue_since);

    let others = others(&signer.root, &observed.serving, &observed.bundles, now);
    let view = View {
        observed,
        policy,
        root: &signer.root,
        others: &others,
    };
    let mut wanted = BTreeSet::from([signer.root.clone()]);
    if !view.released() {
        wanted.extend(others.iter().map(|other| (*other).clone()));
        if !others.is_empty() {
            plan.requeue_at(view.next_requeue(observed.since.issued));
        }
    }
    let wrong = |bundle: &Bundle| bundle.has_invalid || bundle.roots != wanted;
    if observed.bundles.iter().any(wrong) {
        plan.actions.push(Action::Trust(wanted));
    }
    match view.reissue() {
        Some(cause) if view.may_issue() => plan.actions.push(Action::Issue(cause)),
        Some(_) => plan.requeue_at(view.next_requeue(observed.since.trusted)),
        None => {
            if let SecretState::Usable(serving) = &observed.serving {
                plan.requeue_at(serving.validity.two_thirds());
            }
        }
    }
    plan
}

/// Whether other authorities than the current one may still be in use, so that the certificates of replicas matter.
pub fn in_transition(
    signer: &SecretState<Signer>,
    serving: &SecretState<Serving>,
    bundles: &[Bundle],
    now: SystemTime,
) -> bool {
    match signer {
        SecretState::Usable(signer) => !others(&signer.root, serving, bundles, now).is_empty(),
        _ => false,
    }
}

fn obstacle(observed: &Observed) -> Option<Obstacle> {
    if observed.bundles.is_empty() {
        Some(Obstacle::NoConfigurations)
    } else if observed.signer == SecretState::Foreign {
        Some(Obstacle::ForeignAuthority)
    } else if observed.serving == SecretState::Foreign {
        Some(Obstacle::ForeignServing)
    } else {
        None
    }
}

/// Other roots than the current one that a replica may use: the trusted ones, and those of the certificate in the
/// Secret, in case a user removed them from a `caBundle`.
fn others<'a>(
    root: &Root,
    serving: &'a SecretState<Serving>,
    bundles: &'a [Bundle],
    now: SystemTime,
) -> BTreeSet<&'a Root> {
    let of_serving = match serving {
        SecretState::Usable(serving) => Some(&serving.authorities),
        _ => None,
    };
    let trusted = bundles.iter().map(|bundle| &bundle.roots);
    let all = trusted.chain(of_serving).flatten();
    all.filter(|other| *other != root && now <= other.ends())
        .collect()
}

fn overdue(asked: bool, due: SystemTime, now: SystemTime) -> Option<Cause> {
    if asked {
        Some(Cause::Asked)
    } else {
        (due <= now).then_some(Cause::Due)
    }
}

/// The observed state, from the view of the current authority.
struct View<'a> {
    observed: &'a Observed,
    policy: &'a Policy,
    root: &'a Root,
    others: &'a BTreeSet<&'a Root>,
}

impl View<'_> {
    /// Whether a client that trusts only the current authority accepts this certificate for every name.
    fn accepts(&self, leaf: &[u8]) -> bool {
        let mut names = self.policy.names.iter();
        names.all(|name| self.root.accepts(leaf, name, self.observed.now))
    }

    /// Whether the current authority has signed the certificate in the serving Secret.
    fn is_ours(&self) -> bool {
        matches!(&self.observed.serving, SecretState::Usable(serving) if self.accepts(&serving.leaf))
    }

    fn lasts(&self, since: Option<SystemTime>) -> bool {
        let lasted = since.and_then(|since| self.observed.now.duration_since(since).ok());
        lasted.is_some_and(|lasted| lasted >= self.policy.overlap)
    }

    /// When the overlap since that time is over; after that, when replicas are probed again.
    fn next_requeue(&self, since: Option<SystemTime>) -> SystemTime {
        let (now, lasts) = (self.observed.now, since.map(|since| since + self.policy.overlap));
        lasts
            .filter(|lasts| *lasts > now)
            .unwrap_or(now + PROBE_INTERVAL)
            .min(now + PROBE_INTERVAL)
    }

    /// The replicas, if any are known. An empty list proves nothing: endpoints appear later than the serving pods, and
    /// disappear while these restart.
    fn known_replicas(&self) -> Option<&[Served]> {
        let replicas = self.observed.replicas.as_deref();
        replicas.filter(|replicas| !replicas.is_empty())
    }

    /// Whether no replica uses another root any more, and none will: new replicas read the Secret.
    fn released(&self) -> bool {
        let renewed = |served: &Served| match served {
            Served::Certificate(leaf) => self.accepts(leaf),
            Served::Nothing => true,
            Served::Unknown => false,
        };
        self.is_ours()
            && self.lasts(self.observed.since.issued)
            && self
                .known_replicas()
                .is_some_and(|replicas| replicas.iter().all(renewed))
    }

    /// Why a new serving certificate is required, if it is.
    fn reissue(&self) -> Option<Cause> {
        let serving = match &self.observed.serving {
            SecretState::Usable(serving) => serving,
            unusable => return Cause::of(unusable),
        };
        if !self.is_ours() {
            let (others, leaf) = (self.others.iter().copied(), &serving.leaf);
            let by_another =
                |name: &String| crate::root::accepts(others.clone(), leaf, name, self.observed.now);
            return Some(if self.policy.names.iter().all(by_another) {
                Cause::Authority
            } else {
                Cause::Names
            });
        }
        overdue(serving.rotate, serving.validity.two_thirds(), self.observed.now)
    }

    /// Whether all clients accept a certificate that is signed now. If there are other roots, API servers may still
    /// know only those.
    fn may_issue(&self) -> bool {
        let none_serves = |replicas: &[Served]| replicas.iter().all(|served| *served == Served::Nothing);
        self.others.is_empty()
            || self.is_ours()
            || self.lasts(self.observed.since.trusted)
            || self.known_replicas().is_some_and(none_serves)
    }
}

impl Cause {
    fn of<T>(found: &SecretState<T>) -> Option<Self> {
        match found {
            SecretState::Absent => Some(Self::Missing),
            SecretState::Unusable(why) => Some(Self::Unusable(why.clone())),
            SecretState::Foreign | SecretState::Usable(_) => None,
        }
    }
}

impl Plan {
    fn requeue_at(&mut self, time: SystemTime) {
        self.requeue_after = self.requeue_after.min(time);
    }
}
