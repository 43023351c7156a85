//! The client of a site that a valid credential opened.

use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, ready};
use k8s_openapi::jiff::Timestamp;
use machinist_infra::kube::error::RemoteError;
use machinist_infra::provider::{
    AddressOwner, AdoptParams, BootstrapData, Disk, FactError, Guest, InfraClient, InfraKey, Instance,
    InstanceState, InstanceView, Unavailable,
};
use machinist_shared::provider::Opaque;
use serde_json::Value;

use super::files::{self, Contents, GuestFile, INSTANCE, Stored};
use super::provider::{Memory, lock};
use super::spec::Facts;

/// A site, through a credential that opens it.
#[derive(Debug)]
pub(super) struct DirectoryClient {
    pub(super) memory: Arc<Memory>,
}

/// Requeue interval while a site is unavailable. Its return is an event, so no test waits for this.
const POLL_INTERVAL: Duration = Duration::from_mins(5);

impl DirectoryClient {
    fn contents<T>(&self, read: impl FnOnce(&Contents) -> T) -> Result<T, String> {
        match &lock(&self.memory.state).known {
            Some(Ok(contents)) => Ok(read(contents)),
            Some(Err(why)) => Err(why.clone()),
            None => Err("not listed yet".to_owned()),
        }
    }

    /// Writes under the lock of the site, and reads the result into memory at once.
    fn write(&self, write: impl FnOnce() -> io::Result<Result<(), RemoteError>>) -> Result<(), RemoteError> {
        let written = fs::File::create(self.memory.namespace.join(".lock")).and_then(|file| {
            file.lock()?;
            write()
        });
        self.memory.refresh();
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::AlreadyExists => RemoteError::conflict("it exists"),
            kind => RemoteError::other(format!("{}: {kind}", self.memory.key.server)),
        };
        written.map_err(failed)?
    }

    /// The instance of that name on disk: memory may be late.
    fn stored(&self, name: &str) -> io::Result<Option<Stored>> {
        files::parsed(&self.memory.namespace.join(name).join(INSTANCE))
    }
}

impl InfraClient for DirectoryClient {
    fn key(&self) -> &InfraKey {
        &self.memory.key
    }

    fn namespace_uid(&self) -> Option<String> {
        None
    }

    fn get<'a>(
        &'a self,
        name: &'a str,
        disks: &'a [String],
    ) -> BoxFuture<'a, Result<InstanceView, Unavailable>> {
        let view = self.contents(|contents| view(contents, name, disks));
        let unavailable = |why| Unavailable {
            why,
            again: POLL_INTERVAL,
        };
        Box::pin(ready(view.map_err(unavailable)))
    }

    fn uid_of(&self, name: &str) -> Option<String> {
        let uid = |contents: &Contents| Some(contents.instances.get(name)?.0.uid.clone());
        self.contents(uid).ok().flatten()
    }

    fn instances_at_address(&self, address: &str) -> Vec<AddressOwner> {
        let has = |guest: &Option<GuestFile>| {
            let guest = guest.as_ref();
            guest.is_some_and(|guest| guest.addresses.iter().any(|own| own == address))
        };
        let named = self.contents(|contents| {
            let instances = contents.instances.iter().filter(|(_, (_, guest))| has(guest));
            let named = |name: &String| AddressOwner {
                name: name.clone(),
                proven: true,
            };
            instances.map(|(name, _)| named(name)).collect()
        });
        named.unwrap_or_default()
    }

    fn is_absence_conclusive(&self, _name: &str) -> bool {
        self.contents(|_| ()).is_ok()
    }

    fn is_watched(&self) -> bool {
        true
    }

    fn removals(&self) -> u64 {
        lock(&self.memory.state).removals
    }

    fn facts<'a>(&'a self, _needed: &'a Opaque) -> BoxFuture<'a, Result<Opaque, FactError>> {
        let region = fs::read_to_string(self.memory.site.join("region")).ok();
        Box::pin(ready(Ok(Opaque::new(Facts { region }))))
    }

    fn create(&self, instance: Value) -> BoxFuture<'_, Result<(), RemoteError>> {
        let made = serde_json::from_value(instance)
            .map_err(|error| RemoteError::other(error.to_string()))
            .and_then(|stored| {
                self.write(|| files::make(&self.memory.namespace, stored, Timestamp::now()).map(Ok))
            });
        Box::pin(ready(made))
    }

    fn create_user_data<'a>(
        &'a self,
        user_data: BootstrapData<'a>,
    ) -> BoxFuture<'a, Result<(), RemoteError>> {
        let delivered = self.write(|| {
            let Some(stored) = self
                .stored(user_data.instance)?
                .filter(|stored| stored.uid == user_data.uid)
            else {
                return Ok(Err(RemoteError::conflict("the instance is another, or gone")));
            };
            let file = self.memory.namespace.join(stored.name).join(user_data.name);
            if !file.try_exists()? {
                files::write(&file, &String::from_utf8_lossy(user_data.data))?;
            }
            Ok(Ok(()))
        });
        Box::pin(ready(delivered))
    }

    fn label<'a>(&'a self, name: &'a str, label: AdoptParams<'a>) -> BoxFuture<'a, Result<(), RemoteError>> {
        let labeled = self.write(|| {
            let is_it = |stored: &Stored| {
                stored.uid == label.uid && stored.version.to_string() == label.resource_version
            };
            let Some(mut stored) = self.stored(name)?.filter(is_it) else {
                return Ok(Err(RemoteError::conflict("the instance is another")));
            };
            let labels = label.labels.iter();
            stored
                .labels
                .extend(labels.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
            stored.version += 1;
            let text = serde_json::to_string(&stored)?;
            files::write(&self.memory.namespace.join(name).join(INSTANCE), &text).map(Ok)
        });
        Box::pin(ready(labeled))
    }

    fn delete<'a>(&'a self, name: &'a str, uid: &'a str) -> BoxFuture<'a, Result<(), RemoteError>> {
        let deleted = self.write(|| match self.stored(name)? {
            // The lock was had, so the place is there: it is the instance that is not.
            None => Ok(Ok(())),
            Some(stored) if stored.uid == uid => files::remove(&self.memory.namespace, &stored).map(Ok),
            Some(_) => Ok(Err(RemoteError::conflict("the instance is another"))),
        });
        Box::pin(ready(deleted))
    }

    fn recheck_credential(&self) {
        self.memory.refresh();
    }
}

fn view(contents: &Contents, name: &str, disks: &[String]) -> InstanceView {
    let found = contents.instances.get(name);
    let of = |(stored, guest): &(Stored, Option<GuestFile>)| Instance {
        metadata: stored.metadata(),
        user_data: stored.user_data.clone(),
        made_by_peer_for: stored.peer.clone(),
        system_uuid: Some(stored.uid.clone()),
        state: state(guest.as_ref()),
    };
    let disks = disks
        .iter()
        .filter_map(|name| Some((name, contents.disks.get(name)?)));
    InstanceView {
        instance: found.map(|found| Arc::new(of(found))),
        guest: found.and_then(|(_, guest)| {
            let addresses = guest.as_ref()?.addresses.clone();
            Some(Guest {
                started: true,
                addresses,
                ..Guest::default()
            })
        }),
        disks: disks
            .map(|(name, owner)| Disk {
                kind: "disk file",
                metadata: files::disk_metadata(name, owner),
            })
            .collect(),
        ..InstanceView::default()
    }
}

fn state(guest: Option<&GuestFile>) -> InstanceState {
    let (ready, reason, message) = match guest {
        None => (false, "VMStarting", "guest.json does not exist yet"),
        Some(guest) if guest.addresses.is_empty() => {
            (false, "WaitingForAddress", "guest.json has no address yet")
        }
        Some(_) => (true, "VMRunning", "guest.json is there"),
    };
    InstanceState {
        is_retry: false,
        is_unconfirmed: false,
        ready,
        terminal: false,
        progress: !ready,
        reason: reason.to_owned(),
        message: message.to_owned(),
    }
}
