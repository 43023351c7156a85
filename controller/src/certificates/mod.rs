//! The webhook's certificates, where no other makes them: one controller keeps a CA and the serving certificate in two Secrets,
//! and has both webhook configurations trust them (ADR 013). Which one says a Lease of its own: the webhook is to serve beside a
//! machine-controller that leads, too.
//!
//! The usual three steps: what is there (`snapshot.rs`), what to do ([`machinist_certs::rotation`], pure), and the writes
//! (`apply.rs`).

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kube::Client;
use machinist_certs::rotation::{
    Action, Observed, Obstacle, Plan, Policy, RotationState, SecretState, decide,
};
use machinist_command_line::value::ObjectName;
use tokio_util::sync::CancellationToken;

use crate::config::Flags;
use crate::leader::{Elector, Fence};
use crate::telemetry::events::Events;
use crate::telemetry::metrics::Metrics;

mod apply;
mod pace;
mod replicas;
mod snapshot;
mod stores;

use pace::{Outcome, Pace};
pub use replicas::Replicas;
use stores::Stores;

/// What is to be kept, and where.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The Secret that the webhook serves with.
    pub serving: ObjectName,
    /// Name of the CA's Secret, in the same namespace.
    pub authority: String,
    /// Name of both webhook configurations.
    pub configuration: String,
    /// Where the webhook's replicas are.
    pub replicas: Replicas,
    /// Names and times.
    pub policy: Policy,
}

impl Settings {
    /// What the flags say; nothing if another client makes the certificate.
    pub fn new(flags: &Flags) -> Option<Self> {
        let serving = flags.webhook_serving_secret.0.clone()?;
        let replicas = Replicas::new(&flags.webhook_replicas);
        let names = match &*flags.webhook_certificate_names {
            [] => replicas.names(&serving.namespace),
            names => names.to_vec(),
        };
        Some(Self {
            authority: flags.webhook_ca_secret.clone(),
            configuration: flags.webhook_configuration.clone(),
            replicas,
            policy: Policy {
                names,
                authority_lifetime: flags.webhook_ca_lifetime.0,
                leaf_lifetime: flags.webhook_certificate_lifetime.0,
                overlap: flags.webhook_certificate_overlap.0,
            },
            serving,
        })
    }
}

/// What the work is done with. The leader here need not lead otherwise, so its client is not behind that fence.
#[derive(Clone)]
pub struct CertificateContext {
    /// For counts.
    pub metrics: Metrics,
    /// Client of the user cluster.
    pub client: Client,
    /// Writes Events.
    pub events: Events,
}

impl std::fmt::Debug for CertificateContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateContext").finish_non_exhaustive()
    }
}

/// Keeps the certificates while `elector` leads, or always without one, until asked to stop.
pub async fn work(
    hands: CertificateContext,
    settings: Settings,
    elector: Option<Elector>,
    stop: CancellationToken,
) {
    let Some(elector) = elector else {
        let fence = Fence::open().until(stop.clone());
        return Box::pin(keep(&hands, &settings, fence, &stop)).await;
    };
    while !stop.is_cancelled() {
        let leadership = tokio::select! {
            leadership = elector.acquire() => leadership,
            () = stop.cancelled() => return,
        };
        tracing::info!("keeping the webhook's certificates");
        let fence = elector.fence().until(stop.clone());
        let lost = tokio::select! {
            () = Box::pin(keep(&hands, &settings, fence, &stop)) => false,
            () = leadership.lost() => true,
        };
        hands.metrics.webhook_ca_expires.set(0);
        hands.metrics.webhook_cas.set(0);
        if lost {
            tracing::warn!("cannot keep the webhook's certificates any more; standing by");
        } else {
            leadership.release().await;
        }
    }
}

/// Keeps the certificates until asked to stop. What is remembered begins again.
async fn keep(hands: &CertificateContext, settings: &Settings, fence: Fence, stop: &CancellationToken) {
    let stores = Arc::new(Stores::new());
    let keeper = Keeper {
        hands: hands.clone(),
        settings: settings.clone(),
        stores: stores.clone(),
        fence,
    };
    tokio::select! {
        () = stores.watch(&keeper.hands.client, &keeper.settings) => {}
        () = keeper.keep(stop) => {}
    }
}

struct Keeper {
    hands: CertificateContext,
    settings: Settings,
    stores: Arc<Stores>,
    /// Says whether this process may still write.
    fence: Fence,
}

impl Keeper {
    async fn keep(&self, stop: &CancellationToken) {
        let (mut memory, mut reported, mut pace) = (RotationState::default(), None, Pace::default());
        while !stop.is_cancelled() {
            let observed = tokio::select! {
                observed = self.snapshot(&mut memory) => observed,
                () = stop.cancelled() => return,
            };
            let plan = decide(&observed, &self.settings.policy);
            if reported != plan.obstacle {
                reported = plan.obstacle;
                self.tell(plan.obstacle).await;
            }
            self.count(&observed);
            let outcome = self.carry_out(&plan).await;
            let due = plan.requeue_after.duration_since(SystemTime::now());
            let wait = pace.wait(outcome, due.unwrap_or_default(), Instant::now());
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(wait.at_most) => {}
                () = self.stores.changed.notified(), if wait.wakes => {}
            }
        }
    }

    async fn carry_out(&self, plan: &Plan) -> Outcome {
        for action in &plan.actions {
            if !self.fence.may_write() {
                return Outcome::Rest;
            }
            let step = match action {
                Action::NewAuthority(_) => "make the webhook's CA",
                Action::Trust(_) => "patch the caBundle",
                Action::Issue(_) => "issue the webhook's certificate",
            };
            let result = self.write(action).await;
            self.hands.metrics.count_write(step, result.is_ok());
            if let Err(error) = result {
                tracing::warn!(%error, "cannot {step}");
                return Outcome::Failed;
            }
        }
        if plan.actions.is_empty() {
            Outcome::Rest
        } else {
            Outcome::Written
        }
    }

    async fn tell(&self, obstacle: Option<Obstacle>) {
        let (namespace, configuration) = (&self.settings.serving.namespace, &self.settings.configuration);
        let foreign = |name: &str| {
            format!(
                "the Secret {namespace}/{name} is not of the controller's making (label {}) and so left as it is: delete it, or \
                 have the webhook's certificate made by its previous owner (chart value webhook.certificate.mode)",
                machinist_shared::api::names::label::CERTIFICATE
            )
        };
        let (name, message) = match obstacle {
            None => return,
            Some(Obstacle::NoConfigurations) => {
                tracing::info!(
                    configuration,
                    "there are no webhook configurations, so no certificate is needed"
                );
                return;
            }
            Some(Obstacle::ForeignAuthority) => (&self.settings.authority, foreign(&self.settings.authority)),
            Some(Obstacle::ForeignServing) => {
                (&self.settings.serving.name, foreign(&self.settings.serving.name))
            }
        };
        tracing::error!("{message}");
        self.event(name, true, "WebhookCertificateNotOurs", message).await;
    }

    fn count(&self, observed: &Observed) {
        let ends = match &observed.signer {
            SecretState::Usable(signer) => signer.root.ends().duration_since(UNIX_EPOCH).unwrap_or_default(),
            _ => Duration::ZERO,
        };
        let metrics = &self.hands.metrics;
        metrics
            .webhook_ca_expires
            .set(i64::try_from(ends.as_secs()).unwrap_or(i64::MAX));
        let most = observed.bundles.iter().map(|bundle| bundle.roots.len()).max();
        metrics
            .webhook_cas
            .set(i64::try_from(most.unwrap_or(0)).unwrap_or(i64::MAX));
    }
}
