//! Leader election over a Lease: one process writes, the others stand by.
//!
//! ```text
//! Elector ──acquire()──▶ Leadership ──lost()──▶ the process ends
//!    └─────fence()─────▶ Fence ──may_write()──▶ asked before every write
//! ```

mod fence;
mod lease;
mod released;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use fence::Fence;
use fence::Renewed;
use lease::{Attempt, Election, Timing};
use released::Released;

/// How long one request may take. A write that hangs longer counts as failed, and the Lease is read again.
const REQUEST: Duration = Duration::from_secs(3);

/// Who stands for election, and where.
#[derive(Debug, Clone)]
pub struct ElectorConfig {
    lease: String,
    namespace: String,
    identity: String,
    timing: Timing,
}

impl ElectorConfig {
    /// A candidate for the Lease of that name in `namespace`. `identity` must differ in each process: the one that finds it in the
    /// Lease takes itself for the leader.
    pub fn new(lease: String, namespace: String, identity: String) -> Self {
        Self {
            lease,
            namespace,
            identity,
            timing: Timing::default(),
        }
    }
}

/// A candidate.
pub struct Elector {
    api: Api<Lease>,
    config: ElectorConfig,
    renewed: Arc<watch::Sender<Renewed>>,
}

impl fmt::Debug for Elector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Elector")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Elector {
    /// A candidate that stands by until [`Self::acquire`].
    pub fn new(client: Client, config: ElectorConfig) -> Self {
        let api = Api::namespaced(client, &config.namespace);
        Self {
            api,
            config,
            renewed: Arc::new(watch::Sender::new(None)),
        }
    }

    /// Asked before every write; closed until this candidate leads.
    pub fn fence(&self) -> Fence {
        Fence::new(self.renewed.subscribe(), self.config.timing.deadline)
    }

    /// Waits until this process leads, which it tries as soon as the Lease is seen released, and keeps the Lease renewed from then on.
    pub async fn acquire(&self) -> Leadership {
        let config = &self.config;
        let (namespace, identity) = (config.namespace.clone(), config.identity.clone());
        let election = Election::new(config.lease.clone(), namespace, identity, config.timing);
        let mut candidate = Candidate {
            api: self.api.clone(),
            name: config.lease.clone(),
            election,
        };
        let mut released = Released::new(self.api.clone(), config.lease.clone());
        loop {
            if let Err(error) = candidate.turn().await {
                tracing::warn!(lease = %self.lease(), error = %error, "cannot take the Lease");
            }
            if candidate.election.renewed().is_some() {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(jittered(config.timing.retry)) => released.may_open(),
                () = released.seen() => {}
            }
        }
        self.renewed.send_replace(candidate.election.renewed());
        let stop = CancellationToken::new();
        let task = tokio::spawn(renew(
            candidate,
            self.config.timing.retry,
            self.lease(),
            self.renewed.clone(),
            stop.clone(),
        ));
        Leadership {
            renewed: self.renewed.clone(),
            deadline: self.config.timing.deadline,
            lease: self.lease(),
            stop: stop.drop_guard(),
            task,
        }
    }

    fn lease(&self) -> String {
        format!("{}/{}", self.config.namespace, self.config.lease)
    }
}

/// The right to write, while it lasts.
pub struct Leadership {
    renewed: Arc<watch::Sender<Renewed>>,
    deadline: Duration,
    lease: String,
    stop: DropGuard,
    task: JoinHandle<Candidate>,
}

impl fmt::Debug for Leadership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leadership")
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

impl Leadership {
    /// Returns once the leadership is lost. It does not rely on the renewing task: a renewal that is too old is a loss,
    /// whatever became of the task.
    pub async fn lost(&self) {
        let mut renewed = self.renewed.subscribe();
        loop {
            let last = *renewed.borrow_and_update();
            let Some(last) = last else { return };
            tokio::select! {
                // The sender lives in `self`.
                _ = renewed.changed() => {}
                () = tokio::time::sleep_until((last + self.deadline).into()) => {
                    if *renewed.borrow() == Some(last) {
                        return;
                    }
                }
            }
        }
    }

    /// Stops renewing and empties the Lease, so that a standby takes over at once. Call it when the last write is done:
    /// the fence closes here.
    pub async fn release(self) {
        drop(self.stop);
        self.renewed.send_replace(None);
        let Ok(mut candidate) = self.task.await else {
            return;
        };
        match candidate.leave().await {
            Ok(()) => tracing::info!(lease = %self.lease, "released the Lease"),
            Err(error) => {
                tracing::warn!(lease = %self.lease, error = %error, "cannot release the Lease; it expires");
            }
        }
    }
}

/// Renews until asked to stop or until the leadership is lost.
async fn renew(
    mut candidate: Candidate,
    pause: Duration,
    lease: String,
    renewed: Arc<watch::Sender<Renewed>>,
    stop: CancellationToken,
) -> Candidate {
    loop {
        tokio::select! {
            () = stop.cancelled() => return candidate,
            () = tokio::time::sleep(pause) => {}
        }
        // Not cancelled: what becomes of a request that is under way decides what release() has to write.
        if let Err(error) = candidate.turn().await {
            tracing::warn!(lease, error = %error, "cannot renew the Lease");
        }
        candidate.election.expire(Instant::now());
        let last = candidate.election.renewed();
        // Under the channel's lock: release() cancels first and closes the fence then, and it must stay closed.
        renewed.send_modify(|renewed| {
            if !stop.is_cancelled() {
                *renewed = last;
            }
        });
        if last.is_none() {
            tracing::error!(
                lease,
                "the Lease was not renewed in time, or another process took it"
            );
            return candidate;
        }
    }
}

/// Why a turn of the election failed.
#[derive(Debug, thiserror::Error)]
enum TurnError {
    #[error("{0}")]
    Request(#[from] kube::Error),
    #[error("no answer within {} s", REQUEST.as_secs())]
    Timeout,
}

/// The election and the API server that it is held at.
struct Candidate {
    api: Api<Lease>,
    name: String,
    election: Election,
}

impl Candidate {
    /// One try to take or renew the Lease. A conflict is followed by a read and one more try at once.
    async fn turn(&mut self) -> Result<(), TurnError> {
        let mut conflicts = 0;
        loop {
            let attempt = self.election.next(Instant::now(), Timestamp::now());
            let started = Instant::now();
            let written = match attempt {
                Attempt::Wait | Attempt::Tombstones => return Ok(()),
                Attempt::Read => {
                    let lease = timely(self.api.get_opt(&self.name)).await?;
                    self.election.observe(lease, Instant::now());
                    continue;
                }
                Attempt::Create(lease) => timely(self.api.create(&PostParams::default(), &lease)).await,
                Attempt::Replace(lease) => {
                    timely(self.api.replace(&self.name, &PostParams::default(), &lease)).await
                }
            };
            match written {
                Ok(lease) => {
                    self.election.written(lease, started);
                    return Ok(());
                }
                Err(error) => {
                    self.election.refused();
                    if conflicts > 0 || !is_outdated(&error) {
                        return Err(error);
                    }
                    conflicts += 1;
                }
            }
        }
    }

    /// Empties the Lease if it is ours.
    async fn leave(&mut self) -> Result<(), TurnError> {
        for attempt in 0.. {
            let Some(lease) = self.election.farewell(Timestamp::now()) else {
                break;
            };
            match timely(self.api.replace(&self.name, &PostParams::default(), &lease)).await {
                Ok(_) => break,
                // A renewal whose answer never came may have landed.
                Err(error) if attempt == 0 && is_outdated(&error) => {
                    let lease = timely(self.api.get_opt(&self.name)).await?;
                    self.election.observe(lease, Instant::now());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

async fn timely<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, TurnError> {
    match tokio::time::timeout(REQUEST, request).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(TurnError::Timeout),
    }
}

/// Whether the Lease is another than we thought: changed or created (409), or deleted (404).
fn is_outdated(error: &TurnError) -> bool {
    matches!(error, TurnError::Request(kube::Error::Api(status)) if matches!(status.code, 404 | 409))
}

/// Up to a fifth longer, so that standbys do not move in step.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(1.0 + 0.2 * rand::random::<f64>())
}

#[cfg(test)]
mod tests;
