//! Records every VM that ever existed: an undisturbed Machine has exactly one VM in its life, even if the controller crashes.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures::StreamExt as _;
use kube::{
    Client, ResourceExt as _,
    runtime::{WatchStreamExt as _, watcher},
};
use tokio::task::JoinHandle;

use crate::objects;

type UidsByName = Arc<Mutex<BTreeMap<String, Vec<String>>>>;

/// A running record of the VMs on an infra cluster. It ends when it is dropped.
pub struct VmHistory {
    seen: UidsByName,
    task: JoinHandle<()>,
}

impl VmHistory {
    /// Begins to record.
    pub fn record(infra: Client) -> Self {
        let seen = UidsByName::default();
        let record = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let vms = objects::infra(infra, &objects::virtual_machine());
            let mut events = watcher(vms, watcher::Config::default()).default_backoff().boxed();
            while let Some(event) = events.next().await {
                let Ok(watcher::Event::Apply(vm) | watcher::Event::InitApply(vm)) = event else {
                    continue;
                };
                let mut seen = record.lock().unwrap_or_else(PoisonError::into_inner);
                let uids = seen.entry(vm.name_any()).or_default();
                let uid = vm.uid().unwrap_or_default();
                if !uids.contains(&uid) {
                    uids.push(uid);
                }
            }
        });
        Self { seen, task }
    }

    /// UIDs of all VMs that ever had this name, oldest first.
    pub fn uids(&self, name: &str) -> Vec<String> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
            .unwrap_or_default()
    }

    /// Names of all VMs that ever existed.
    pub fn names(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.keys().cloned().collect()
    }

    /// Names that more than one VM has had.
    pub fn with_more_than_one(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let more = seen.iter().filter(|(_, uids)| uids.len() > 1);
        more.map(|(name, _)| name.clone()).collect()
    }
}

impl Drop for VmHistory {
    fn drop(&mut self) {
        self.task.abort();
    }
}
