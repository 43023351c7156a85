//! Years of rotations in seconds: what any replica serves is trusted by every API server at any time, whatever
//! restarts, lags, is deleted or is asked for meanwhile. Real keys, real certificates, and a real verification of each.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed; helpers outside of test functions are no exception"
)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use machinist_certs::rotation::{
    Action, Observed, Policy, RotationState, SecretState, Serving, Signer, decide, in_transition,
};
use machinist_certs::{Authority, Bundle, Served, accepts, bundle_pem};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

const NAME: &str = "machinist-webhook.machinist-system.svc";
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const OVERLAP: Duration = Duration::from_mins(5);
/// How far apart the looks of the leader, and of the test, are while something goes on.
const STEP: Duration = Duration::from_mins(1);

#[derive(Clone)]
struct Data {
    certificate: String,
    key: String,
    authority: String,
    rotate: bool,
}

/// A replica of the webhook, which serves from memory.
struct Replica {
    leaf: Option<Vec<u8>>,
    /// The watch tells it of a change this late.
    lag: Duration,
}

/// A `caBundle` as the API server has it, and as the watch of an API server shows it.
struct Trusting {
    stored: String,
    used: String,
}

struct Cluster {
    now: SystemTime,
    random: StdRng,
    authority: Option<Data>,
    serving: Option<Data>,
    /// Since when the serving Secret holds what it holds.
    written: SystemTime,
    bundles: Vec<Trusting>,
    /// When the bundles were written.
    patched: SystemTime,
    replicas: Vec<Replica>,
    memory: RotationState,
    writes: [usize; 3],
    checks: usize,
}

impl Cluster {
    fn new(seed: u64) -> Self {
        let now = UNIX_EPOCH + 20_000 * DAY;
        let empty = || Trusting {
            stored: String::new(),
            used: String::new(),
        };
        Self {
            now,
            random: StdRng::seed_from_u64(seed),
            authority: None,
            serving: None,
            written: now,
            bundles: vec![empty(), empty()],
            patched: now,
            replicas: (0..3)
                .map(|_| Replica {
                    leaf: None,
                    lag: Duration::ZERO,
                })
                .collect(),
            memory: RotationState::default(),
            writes: [0; 3],
            checks: 0,
        }
    }

    fn policy() -> Policy {
        Policy {
            names: vec![NAME.to_owned()],
            authority_lifetime: 365 * DAY,
            leaf_lifetime: 90 * DAY,
            overlap: OVERLAP,
        }
    }

    /// What the leader sees now.
    fn observe(&mut self) -> Observed {
        let signer = self.authority.as_ref().map_or(SecretState::Absent, |data| {
            Signer::read(data.certificate.as_bytes(), data.key.as_bytes(), data.rotate)
        });
        let serving = self.serving.as_ref().map_or(SecretState::Absent, |data| {
            let texts = [&data.certificate, &data.key, &data.authority].map(String::as_bytes);
            Serving::read("n/s", texts, data.rotate, self.now)
        });
        let bundles: Vec<_> = self
            .bundles
            .iter()
            .map(|bundle| Bundle::from_pem(bundle.stored.as_bytes()))
            .collect();
        let since = self.memory.note(&signer, &serving, &bundles, self.now);
        let replicas = in_transition(&signer, &serving, &bundles, self.now).then(|| {
            let served =
                |replica: &Replica| replica.leaf.clone().map_or(Served::Nothing, Served::Certificate);
            self.replicas.iter().map(served).collect::<Vec<_>>()
        });
        // Some do not answer.
        let replicas = replicas.map(|mut replicas: Vec<Served>| {
            if self.random.random_bool(0.1) {
                replicas[0] = Served::Unknown;
            }
            replicas
        });
        Observed {
            now: self.now,
            signer,
            serving,
            bundles,
            replicas,
            since,
        }
    }

    /// Observes, decides and writes until there is nothing to write, or until the leader falls; returns when to
    /// reconcile again.
    fn lead(&mut self) -> SystemTime {
        loop {
            let observed = self.observe();
            let plan = decide(&observed, &Self::policy());
            if plan.actions.is_empty() {
                return plan.requeue_after;
            }
            for action in plan.actions {
                if self.random.random_bool(0.05) {
                    // Another leads from now on, and remembers nothing.
                    self.memory = RotationState::default();
                    return self.now + STEP;
                }
                self.write(action);
                self.check();
            }
        }
    }

    fn write(&mut self, action: Action) {
        match action {
            Action::NewAuthority(_) => {
                let authority = Authority::new("ca", self.now, Self::policy().authority_lifetime).unwrap();
                self.authority = Some(Data {
                    certificate: authority.root().pem(),
                    key: authority.key(),
                    authority: String::new(),
                    rotate: false,
                });
                self.writes[0] += 1;
            }
            Action::Trust(roots) => {
                // One of the two writes may fail.
                let written = if self.random.random_bool(0.1) { 1 } else { 2 };
                for bundle in &mut self.bundles[..written] {
                    bundle.stored = bundle_pem(&roots);
                }
                self.patched = self.now;
                self.writes[1] += 1;
            }
            Action::Issue(_) => {
                let data = self.authority.as_ref().unwrap();
                let authority =
                    Authority::from_pem(data.certificate.as_bytes(), data.key.as_bytes()).unwrap();
                let leaf = authority
                    .issue(&[NAME], self.now, Self::policy().leaf_lifetime)
                    .unwrap();
                self.serving = Some(Data {
                    certificate: leaf.certificate,
                    key: leaf.key,
                    authority: authority.root().pem(),
                    rotate: false,
                });
                self.written = self.now;
                self.writes[2] += 1;
            }
        }
    }

    /// Watches tell what they have to tell; the clock goes on.
    fn pass(&mut self, time: Duration) {
        self.now += time;
        // API servers know within the overlap.
        if self.now >= self.patched + OVERLAP - STEP {
            for bundle in &mut self.bundles {
                bundle.used.clone_from(&bundle.stored);
            }
        }
        if let Some(leaf) = self.serving.as_ref().map(der) {
            for replica in &mut self.replicas {
                if self.now >= self.written + replica.lag {
                    replica.leaf = Some(leaf.clone());
                }
            }
        }
    }

    fn restart_a_replica(&mut self) {
        let count = self.replicas.len();
        let index = self.random.random_range(0..count);
        // One that starts reads the Secret as it is.
        let leaf = self.serving.as_ref().map(der);
        let lag = match self.random.random_range(0..10) {
            0 => 10 * DAY * self.random.random_range(0..2),
            1..5 => HOUR * self.random.random_range(0..30),
            _ => Duration::ZERO,
        };
        self.replicas[index] = Replica { leaf, lag };
    }

    /// Every API server accepts every replica.
    fn check(&mut self) {
        for (index, replica) in self.replicas.iter().enumerate() {
            let Some(leaf) = &replica.leaf else { continue };
            for bundle in &self.bundles {
                for (which, text) in [("stored", &bundle.stored), ("used", &bundle.used)] {
                    let roots = Bundle::from_pem(text.as_bytes()).roots;
                    let day =
                        self.now.duration_since(UNIX_EPOCH).unwrap().as_secs_f64() / 86_400.0 - 20_000.0;
                    assert!(
                        accepts(&roots, leaf, NAME, self.now),
                        "on day {day:.3} replica {index} (lag {:?}) is not accepted by the bundle that is {which}",
                        replica.lag,
                    );
                    self.checks += 1;
                }
            }
        }
    }

    /// A user requests a rotation, or deletes a Secret.
    fn meddle(&mut self) {
        match self.random.random_range(0..4) {
            0 => self.authority.iter_mut().for_each(|data| data.rotate = true),
            1 => self.serving.iter_mut().for_each(|data| data.rotate = true),
            2 => self.serving = None,
            _ => self.authority = None,
        }
    }
}

fn der(data: &Data) -> Vec<u8> {
    CertificateDer::from_pem_slice(data.certificate.as_bytes())
        .unwrap()
        .to_vec()
}

/// Goes on for so many days; meddlers come on so many of a thousand.
fn live(seed: u64, days: u32, meddlers: u32) -> Cluster {
    let mut cluster = Cluster::new(seed);
    let end = cluster.now + days * DAY;
    // A fresh install serves at once, and API servers trust it as soon as they know. Leaders may fall meanwhile.
    while cluster.serving.is_none() {
        cluster.lead();
    }
    assert!(
        cluster.now + days * DAY == end,
        "the first start waits for nothing"
    );
    for bundle in &mut cluster.bundles {
        bundle.used.clone_from(&bundle.stored);
    }
    cluster.pass(STEP);
    while cluster.now < end {
        if cluster.random.random_ratio(meddlers, 1000) {
            cluster.meddle();
        }
        if cluster.random.random_ratio(1, 5) {
            cluster.restart_a_replica();
        }
        // Minute by minute while something goes on, then to the next day.
        for _ in 0..30 {
            cluster.check();
            let requeue_after = cluster.lead();
            cluster.check();
            cluster.pass(STEP);
            if requeue_after > cluster.now + HOUR / 2 {
                break;
            }
        }
        cluster.check();
        let rest = 20 * HOUR + STEP * cluster.random.random_range(0..400);
        cluster.pass(rest);
    }
    cluster
}

#[test]
fn for_three_years_every_bundle_trusts_what_every_replica_serves() {
    let mut cluster = live(1, 3 * 365, 0);
    let [authorities, _, leaves] = cluster.writes;
    println!(
        "3 years: {authorities} authorities, {leaves} certificates, {} verifications",
        cluster.checks
    );
    assert!((4..=6).contains(&authorities), "{authorities} authorities");
    assert!((18..=26).contains(&leaves), "{leaves} certificates");
    // And what is no longer needed is no longer trusted.
    for replica in &mut cluster.replicas {
        replica.lag = Duration::ZERO;
    }
    for _ in 0..60 {
        cluster.pass(STEP);
        cluster.lead();
    }
    for bundle in &cluster.bundles {
        assert_eq!(Bundle::from_pem(bundle.stored.as_bytes()).roots.len(), 1);
    }
}

#[test]
fn nor_does_it_matter_who_rotates_or_deletes_what_and_when() {
    for seed in 0..4 {
        let cluster = live(seed, 90, 400);
        println!(
            "90 days of meddling, seed {seed}: writes {:?}, {} verifications",
            cluster.writes, cluster.checks
        );
        assert!(cluster.writes[0] > 10, "{:?}", cluster.writes);
    }
}
