//! What to do now.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, SystemTime};

use crate::probe::Served;
use crate::root::{Bundle, Root};

use super::observed::{Found, Observed, Policy, Serving, Signer};

/// How often it is looked at anyway: whatever changes is told by watches, and certificates live for weeks.
const LOOK: Duration = Duration::from_hours(1);
/// How often replicas are asked until all serve what is new.
const ASK: Duration = Duration::from_secs(10);

/// A write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make a new authority, in the place of one that there may be.
    NewAuthority(Because),
    /// Let every `caBundle` hold these, and nothing else.
    Trust(BTreeSet<Root>),
    /// Have the authority sign a new serving certificate.
    Issue(Because),
}

/// Why something is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Because {
    /// There is none.
    Missing,
    /// What there is is of no use.
    Unusable(String),
    /// It is not valid yet.
    NotValid,
    /// Two thirds of its life are over.
    Due,
    /// Somebody asks for it.
    Asked,
    /// It is not of the present authority.
    Authority,
    /// It is not for all the names that it should be for.
    Names,
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("there was none"),
            Self::Unusable(why) => write!(f, "what there was is of no use: {why}"),
            Self::NotValid => f.write_str("what there was is not valid yet"),
            Self::Due => f.write_str("two thirds of its life were over"),
            Self::Asked => f.write_str("the annotation machinist.dev/rotate asked for it"),
            Self::Authority => f.write_str("there is a new CA"),
            Self::Names => f.write_str("it was not for the names by which the webhook is called"),
        }
    }
}

/// What keeps us from doing anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// There are no webhook configurations, so nobody who would trust anything.
    NoConfigurations,
    /// The Secret of the authority is somebody else's.
    ForeignAuthority,
    /// The serving Secret is somebody else's.
    ForeignServing,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// In this order, none after one that fails.
    pub actions: Vec<Action>,
    /// Why nothing is done.
    pub obstacle: Option<Obstacle>,
    /// When to look again, if nothing changes before.
    pub look_again: SystemTime,
}

/// Decides. What comes of it follows from what is observed alone; after a write, observe and decide again.
pub fn decide(observed: &Observed, policy: &Policy) -> Plan {
    let now = observed.now;
    let mut plan = Plan {
        actions: Vec::new(),
        obstacle: obstacle(observed),
        look_again: now + LOOK,
    };
    if plan.obstacle.is_some() {
        return plan;
    }
    let signer = match &observed.signer {
        Found::Usable(signer) => signer,
        unusable => {
            plan.actions.push(Action::NewAuthority(
                Because::of(unusable).unwrap_or(Because::Missing),
            ));
            return plan;
        }
    };
    // One that is not valid yet was made by a clock that was wrong: nobody would accept what it signs.
    let usable = signer.root.validity().covers(now);
    let overdue_since = signer.root.validity().two_thirds();
    let because = overdue(signer.rotate, overdue_since, now).or((!usable).then_some(Because::NotValid));
    if let Some(because) = because {
        plan.actions.push(Action::NewAuthority(because));
        return plan;
    }
    plan.look_at(overdue_since);

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
            plan.look_at(view.next_look(observed.since.issued));
        }
    }
    let wrong = |bundle: &Bundle| bundle.littered || bundle.roots != wanted;
    if observed.bundles.iter().any(wrong) {
        plan.actions.push(Action::Trust(wanted));
    }
    match view.reissue() {
        Some(because) if view.may_issue() => plan.actions.push(Action::Issue(because)),
        Some(_) => plan.look_at(view.next_look(observed.since.trusted)),
        None => {
            if let Found::Usable(serving) = &observed.serving {
                plan.look_at(serving.validity.two_thirds());
            }
        }
    }
    plan
}

/// Whether authorities other than the present one are still at stake, so that it matters what replicas serve.
pub fn in_transition(
    signer: &Found<Signer>,
    serving: &Found<Serving>,
    bundles: &[Bundle],
    now: SystemTime,
) -> bool {
    match signer {
        Found::Usable(signer) => !others(&signer.root, serving, bundles, now).is_empty(),
        _ => false,
    }
}

fn obstacle(observed: &Observed) -> Option<Obstacle> {
    if observed.bundles.is_empty() {
        Some(Obstacle::NoConfigurations)
    } else if observed.signer == Found::Foreign {
        Some(Obstacle::ForeignAuthority)
    } else if observed.serving == Found::Foreign {
        Some(Obstacle::ForeignServing)
    } else {
        None
    }
}

/// Roots besides the present one that somebody may serve under: those that are trusted, and those of the certificate in the
/// Secret, should they have been taken out of a `caBundle` by hand.
fn others<'a>(
    root: &Root,
    serving: &'a Found<Serving>,
    bundles: &'a [Bundle],
    now: SystemTime,
) -> BTreeSet<&'a Root> {
    let of_serving = match serving {
        Found::Usable(serving) => Some(&serving.authorities),
        _ => None,
    };
    let trusted = bundles.iter().map(|bundle| &bundle.roots);
    let all = trusted.chain(of_serving).flatten();
    all.filter(|other| *other != root && now <= other.ends())
        .collect()
}

fn overdue(asked: bool, due: SystemTime, now: SystemTime) -> Option<Because> {
    if asked {
        Some(Because::Asked)
    } else {
        (due <= now).then_some(Because::Due)
    }
}

/// What is observed, seen from the present authority.
struct View<'a> {
    observed: &'a Observed,
    policy: &'a Policy,
    root: &'a Root,
    others: &'a BTreeSet<&'a Root>,
}

impl View<'_> {
    /// Whether who trusts the present authority alone accepts this certificate, by every name.
    fn accepts(&self, leaf: &[u8]) -> bool {
        let mut names = self.policy.names.iter();
        names.all(|name| self.root.accepts(leaf, name, self.observed.now))
    }

    /// Whether the serving Secret holds one that the present authority has signed.
    fn is_ours(&self) -> bool {
        matches!(&self.observed.serving, Found::Usable(serving) if self.accepts(&serving.leaf))
    }

    fn lasts(&self, since: Option<SystemTime>) -> bool {
        let lasted = since.and_then(|since| self.observed.now.duration_since(since).ok());
        lasted.is_some_and(|lasted| lasted >= self.policy.overlap)
    }

    /// When what has been so since then will have lasted long enough; after that, when replicas are asked again.
    fn next_look(&self, since: Option<SystemTime>) -> SystemTime {
        let (now, lasts) = (self.observed.now, since.map(|since| since + self.policy.overlap));
        lasts
            .filter(|lasts| *lasts > now)
            .unwrap_or(now + ASK)
            .min(now + ASK)
    }

    /// The replicas, if any is known. A list without one proves nothing: endpoints come later than the pods that serve, and
    /// vanish while they restart.
    fn known_replicas(&self) -> Option<&[Served]> {
        let replicas = self.observed.replicas.as_deref();
        replicas.filter(|replicas| !replicas.is_empty())
    }

    /// Whether nobody serves under another root any more, and nobody will: all who start read what is in the Secret.
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

    /// Why another serving certificate is wanted, if one is.
    fn reissue(&self) -> Option<Because> {
        let serving = match &self.observed.serving {
            Found::Usable(serving) => serving,
            unusable => return Because::of(unusable),
        };
        if !self.is_ours() {
            let (others, leaf) = (self.others.iter().copied(), &serving.leaf);
            let by_another =
                |name: &String| crate::root::accepts(others.clone(), leaf, name, self.observed.now);
            return Some(if self.policy.names.iter().all(by_another) {
                Because::Authority
            } else {
                Because::Names
            });
        }
        overdue(serving.rotate, serving.validity.two_thirds(), self.observed.now)
    }

    /// Whether everybody accepts what is signed now. If there are other roots, API servers may still know those only.
    fn may_issue(&self) -> bool {
        let nobody_serves = |replicas: &[Served]| replicas.iter().all(|served| *served == Served::Nothing);
        self.others.is_empty()
            || self.is_ours()
            || self.lasts(self.observed.since.trusted)
            || self.known_replicas().is_some_and(nobody_serves)
    }
}

impl Because {
    fn of<T>(found: &Found<T>) -> Option<Self> {
        match found {
            Found::Absent => Some(Self::Missing),
            Found::Unusable(why) => Some(Self::Unusable(why.clone())),
            Found::Foreign | Found::Usable(_) => None,
        }
    }
}

impl Plan {
    fn look_at(&mut self, time: SystemTime) {
        self.look_again = self.look_again.min(time);
    }
}
