//! The watches of one infra cluster: one per kind, with any credential that may watch it.

use std::sync::Arc;
use std::time::Duration;

use kube::Api;
use tokio::task::AbortHandle;

use super::entry::{Entry, SyncState};
use super::kind::Kind;
use crate::backoff::Backoff;
use crate::cache::reflect::follow;
use crate::cache::store::Store;
use crate::cache::watch::Event;
use crate::kubevirt::objects::Cached;
use crate::kubevirt::objects::{Claim, DataVolume, Vm, Vmi};
use crate::provider::InfraEvent;

/// Pauses before a failed watch is reopened.
const RETRY_BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(200),
    longest: Duration::from_secs(30),
};

/// Starts all watches; each waits for a credential.
pub(super) fn start(entry: &Arc<Entry>) -> Vec<AbortHandle> {
    let objects = &entry.objects;
    let own = |name: &str| name.to_owned();
    let of_disk = |name: &str| vm_of_disk(name).to_owned();
    vec![
        spawn::<Vm>(entry, Kind::Vm, &objects.vms, own),
        spawn::<Vmi>(entry, Kind::Vmi, &objects.vmis, own),
        spawn::<DataVolume>(entry, Kind::DataVolume, &objects.data_volumes, of_disk),
        spawn::<Claim>(entry, Kind::Claim, &objects.claims, of_disk),
    ]
}

fn spawn<K: Cached>(
    entry: &Arc<Entry>,
    kind: Kind,
    store: &Arc<Store<K>>,
    vm: fn(&str) -> String,
) -> AbortHandle {
    let (entry, store) = (Arc::clone(entry), Arc::clone(store));
    tokio::spawn(async move { keep(&entry, kind, &store, vm).await }).abort_handle()
}

/// Watches one kind across changes of credentials and cluster; runs until dropped.
async fn keep<K: Cached>(entry: &Entry, kind: Kind, store: &Store<K>, vm: fn(&str) -> String) {
    let mut pauses = RETRY_BACKOFF.pauses();
    loop {
        if entry.share.is_paused() {
            store.clear();
            entry.update_size();
            entry.set_sync_state(kind, SyncState::Syncing);
            entry.emit_for_all();
            entry.share.allowed().await;
        }
        entry.breaker.closed().await;
        let credential = entry.watcher(kind).await;
        let Some(client) = credential.client() else {
            continue;
        };
        // The cluster's identity must be verified before VMs can disappear from the store.
        let verified = match kind {
            Kind::Vm => entry.verify_namespace(&client).await,
            _ => Ok(()),
        };
        let mut synced = false;
        let on = |mut event: Event<K>| {
            if let Event::InitApply(object) | Event::Apply(object) = &mut event {
                entry.reduce(object, vm);
            }
            let is_done = matches!(event, Event::InitDone);
            for change in store.apply(event) {
                // Incomplete stores are not read, and all Machines are notified when they are complete.
                if entry.is_current(kind)
                    && let Some(name) = change.versions().find_map(|object| object.meta().name.as_deref())
                {
                    entry.emit(InfraEvent::Vm { name: vm(name) });
                }
            }
            entry.update_size();
            if is_done {
                synced = true;
                entry.set_sync_state(kind, SyncState::Current);
                entry.fits();
            }
        };
        let api: Api<K> = Api::namespaced(client, &entry.key.namespace);
        let failure = if let Err(error) = verified {
            Some(error)
        } else {
            tokio::select! {
                failure = follow(api, on) => failure,
                () = entry.share.exceeded() => continue,
                () = entry.superseded(&credential, kind) => None,
                () = entry.breaker.opened() => {
                    entry.set_sync_state(kind, SyncState::Syncing);
                    None
                }
            }
        };
        if synced {
            pauses.reset();
        }
        let Some(error) = failure else { continue };
        tracing::warn!(server = entry.key.server, kind = kind.resource(), %error, "a watch of the infra cluster failed");
        match error.code() {
            // The history is too short: the kind is listed again.
            Some(410) => continue,
            None if error.is_unanswered() => {
                entry.set_sync_state(kind, SyncState::Syncing);
                entry.breaker.suspect(error);
            }
            Some(401 | 403) => {
                credential.recheck_credential();
                entry.emit_for_credential(&credential);
                // Another credential continues the watch.
                if entry.can_watch(kind) {
                    continue;
                }
                entry.set_sync_state(kind, SyncState::Trouble(error));
            }
            _ => entry.set_sync_state(kind, SyncState::Trouble(error)),
        }
        tokio::select! {
            () = tokio::time::sleep(pauses.after_failure()) => {}
            () = entry.share.exceeded() => {}
        }
    }
}

/// `web-1-secondarydisk0` belongs to the VM `web-1`; other names are the VM's own.
fn vm_of_disk(name: &str) -> &str {
    match name.rsplit_once("-secondarydisk") {
        Some((vm, index)) if !index.is_empty() && index.bytes().all(|b| b.is_ascii_digit()) => vm,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::vm_of_disk;
    use rstest::rstest;

    #[rstest]
    #[case("web-1", "web-1")]
    #[case("web-1-secondarydisk0", "web-1")]
    #[case("web-1-secondarydisk12", "web-1")]
    #[case("web-1-secondarydisk", "web-1-secondarydisk")]
    #[case("web-1-secondarydiskx", "web-1-secondarydiskx")]
    fn disks_are_named_after_their_vm(#[case] disk: &str, #[case] vm: &str) {
        assert_eq!(vm_of_disk(disk), vm);
    }
}
