//! Polls one Machine's objects by GET with its own credential, if that may not watch them.

use std::collections::HashMap;
use std::time::Duration;

use futures::future::try_join_all;
use kube::api::ListParams;
use kube::{Api, Client, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::kind::{Kind, Missing, Objects};
use crate::backoff::Jitter;
use crate::cache::store::{Key, Store};
use crate::kube::error::{RemoteError, is_forbidden};
use crate::kubevirt::objects::Cached;

/// The polled objects, with their time.
#[derive(Debug)]
pub(super) struct Polls {
    /// The polling interval of a Machine, jittered by a fifth either way.
    every: Duration,
    pub(super) objects: Objects,
    taken: Mutex<HashMap<String, Poll>>,
}

#[derive(Debug, Clone)]
struct Poll {
    until: Instant,
    seen: Result<PollResult, RemoteError>,
}

/// The result of a poll.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PollResult {
    /// Kinds of disks that the credential cannot even get: whether their names are free is unknown.
    pub unseen_disks: Vec<&'static str>,
}

/// What to poll.
#[derive(Clone, Copy)]
pub(super) struct PollTarget<'a> {
    pub(super) client: &'a Client,
    pub(super) namespace: &'a str,
    /// Name of the VM.
    pub(super) name: &'a str,
    /// Names of its disks.
    pub(super) disks: &'a [String],
    /// The kinds to poll.
    pub(super) missing: &'a Missing,
}

impl Polls {
    pub(super) fn every(every: Duration) -> Self {
        Self {
            every,
            objects: Objects::default(),
            taken: Mutex::default(),
        }
    }

    /// Polls if the next poll is due; also returns the time until the next poll.
    pub(super) async fn take(&self, sight: PollTarget<'_>) -> (Result<PollResult, RemoteError>, Duration) {
        let now = Instant::now();
        let known = self
            .taken
            .lock()
            .get(sight.name)
            .filter(|poll| poll.until > now)
            .cloned();
        if let Some(poll) = known {
            return (poll.seen, poll.until.saturating_duration_since(now));
        }
        let seen = self.poll(sight).await;
        // A poll without a response does not count; the breaker decides when to retry.
        let lost = matches!(&seen, Err(error) if error.is_unanswered());
        let pause = if lost {
            Duration::from_secs(1).min(self.every)
        } else {
            Jitter::default().spread(self.every)
        };
        let poll = Poll {
            until: Instant::now() + pause,
            seen: seen.clone(),
        };
        let mut taken = self.taken.lock();
        taken.retain(|_, poll| poll.until + 2 * self.every > now);
        taken.insert(sight.name.to_owned(), poll);
        (seen, pause)
    }

    /// Whether the VM with that name has been polled, so that its absence is conclusive.
    pub(super) fn has(&self, name: &str) -> bool {
        self.taken.lock().get(name).is_some_and(|poll| poll.seen.is_ok())
    }

    async fn poll(&self, sight: PollTarget<'_>) -> Result<PollResult, RemoteError> {
        let own = [sight.name.to_owned()];
        let of = |kind: Kind, names| if sight.missing.has(kind) { names } else { &[][..] };
        let (vms, instances, volumes, claims) = tokio::try_join!(
            get(sight, Kind::Vm, &self.objects.vms, of(Kind::Vm, &own)),
            get(sight, Kind::Vmi, &self.objects.vmis, of(Kind::Vmi, &own)),
            get(
                sight,
                Kind::DataVolume,
                &self.objects.data_volumes,
                of(Kind::DataVolume, sight.disks)
            ),
            get(
                sight,
                Kind::Claim,
                &self.objects.claims,
                of(Kind::Claim, sight.disks)
            ),
        )?;
        // Without VM and VMI, nothing is known; without the disks, only whether a VM may be created.
        if let Some(refusal) = vms.or(instances) {
            return Err(refusal);
        }
        let unseen = [(Kind::DataVolume, volumes), (Kind::Claim, claims)];
        let unseen = unseen.into_iter().filter(|(_, refusal)| refusal.is_some());
        Ok(PollResult {
            unseen_disks: unseen.map(|(kind, _)| kind.resource()).collect(),
        })
    }
}

/// Reads one object with the permissions that caching requires anyway: by a list of one, or by GET if its kind cannot
/// be listed and watched.
pub(crate) async fn read_one<K>(api: &Api<K>, name: &str, forbidden: bool) -> Result<Option<K>, kube::Error>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    if forbidden {
        return api.get_opt(name).await;
    }
    let one = ListParams::default().fields(&format!("metadata.name={name}"));
    Ok(api.list(&one).await?.items.into_iter().next())
}

/// Maximum size of one object.
const OBJECT_BYTES: usize = 256 * 1024;

/// Reads the objects into the store; returns the error if the credential may not get that kind.
async fn get<K: Cached>(
    sight: PollTarget<'_>,
    kind: Kind,
    store: &Store<K>,
    names: &[String],
) -> Result<Option<RemoteError>, RemoteError> {
    let api: Api<K> = Api::namespaced(sight.client.clone(), sight.namespace);
    let answers = names.iter().map(async |name| {
        let key = Key::new(sight.namespace, name);
        let known = store.latest_version(&key);
        let found = match read_one(&api, name, sight.missing.forbids(kind)).await {
            Ok(found) => found,
            Err(error) if is_forbidden(&error) => return Ok(Some(RemoteError::from(&error))),
            Err(error) => return Err(RemoteError::from(&error)),
        };
        let bytes = found.as_ref().map_or(0, Cached::bytes);
        if bytes > OBJECT_BYTES {
            let why = format!(
                "{} {name} takes {bytes} bytes, which is more than {OBJECT_BYTES}",
                K::kind(&())
            );
            return Err(RemoteError::other(why));
        }
        store.observed(&key, found, known);
        Ok(None)
    });
    Ok(try_join_all(answers).await?.into_iter().flatten().next())
}
