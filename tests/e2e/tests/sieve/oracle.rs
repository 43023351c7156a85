//! The invariants after every interference: the specs are fulfilled, no Machine and no VM was created needlessly, nothing
//! healthy was deleted, and there are no leftovers.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use e2e::{Case, case::is_ready, leaks};
use kube::{ResourceExt, api::ListParams};

use super::bed::{BYSTANDER, Bed, machines};

/// Between two checks of the leftovers.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// What an operation does to the Machines of the pool.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    /// So many are created.
    pub(crate) created: usize,
    /// So many of the earlier ones stay.
    pub(crate) kept: usize,
}

/// A Machine with what belongs to it, by UID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CompleteMachine {
    machine: String,
    vm: String,
    node: String,
}

/// The complete Machines, by name.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot(BTreeMap<String, CompleteMachine>);

impl Snapshot {
    /// All Machines; an error if one lacks its VM or a Ready Node.
    pub(crate) async fn take(case: &Case) -> Result<Self> {
        let nodes = case.nodes().list(&ListParams::default()).await?;
        let vms = case.vms().list(&ListParams::default()).await?;
        let mut seen = BTreeMap::new();
        for machine in machines(case).await? {
            let name = machine.name_any();
            let node = nodes
                .iter()
                .find(|node| node.name_any() == name && is_ready(node));
            let vm = vms.iter().find(|vm| vm.name_any() == name);
            let (Some(node), Some(vm)) = (node.and_then(ResourceExt::uid), vm.and_then(ResourceExt::uid))
            else {
                bail!("Machine {name} lacks its VM or its Ready Node");
            };
            let machine = machine.uid().unwrap_or_default();
            seen.insert(name, CompleteMachine { machine, vm, node });
        }
        Ok(Self(seen))
    }

    /// Names of the pool's Machines.
    pub(crate) fn pool(&self) -> impl Iterator<Item = &str> {
        self.0
            .keys()
            .map(String::as_str)
            .filter(|name| !is_bystander(name))
    }

    fn contains_uid(&self, uid: &str) -> bool {
        self.0.values().any(|whole| whole.machine == uid)
    }

    /// Whether an object belongs to one of the Machines: it has its name or the Machine's UID.
    fn owns(&self, left: &str) -> bool {
        let (kind, name) = left.split_once('/').unwrap_or((left, ""));
        // No Machine that has joined has one of these.
        let transient = kind == "CertificateSigningRequest" || name.starts_with("bootstrap-token-");
        let belongs = |machine: &String, whole: &CompleteMachine| {
            let rest = name.strip_prefix(machine.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-')) || name.contains(&whole.machine)
        };
        !transient && self.0.iter().any(|(machine, whole)| belongs(machine, whole))
    }
}

fn is_bystander(name: &str) -> bool {
    name.starts_with(BYSTANDER)
}

/// Waits until every Machine is complete and there are no leftovers, and returns the Machines.
pub(crate) async fn clean(bed: &Bed, deadline: Instant) -> Result<Snapshot> {
    loop {
        let problem = match bed.seen().await {
            Err(error) => format!("{error:#}"),
            Ok(seen) => {
                let left = left_behind(&bed.case, &seen).await?;
                if left.is_empty() {
                    return Ok(seen);
                }
                format!("left behind: {left:?}")
            }
        };
        ensure!(Instant::now() < deadline, "{problem}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Objects that belong to none of the Machines.
pub(crate) async fn left_behind(case: &Case, seen: &Snapshot) -> Result<Vec<String>> {
    let mut left = leaks::leftovers(&case.bed).await?;
    left.retain(|left| !seen.owns(left));
    Ok(left)
}

/// No more Machines and VMs were created than the operation requests, and other objects are unchanged.
pub(crate) fn check(
    bed: &Bed,
    expected: Expected,
    created_before: &BTreeMap<String, String>,
    before: &Snapshot,
    after: &Snapshot,
) -> Result<()> {
    let created: BTreeSet<String> = bed
        .created()
        .into_keys()
        .filter(|uid| !created_before.contains_key(uid))
        .collect();
    ensure!(
        created.len() == expected.created,
        "{} Machines were created instead of {}: {created:?}",
        created.len(),
        expected.created
    );
    ensure!(
        created.iter().all(|uid| after.contains_uid(uid)),
        "not all that were created are there: {created:?}"
    );
    let kept = after
        .pool()
        .filter(|name| before.0.get(*name) == after.0.get(*name))
        .count();
    ensure!(
        kept == expected.kept,
        "{kept} Machines of the pool are as they were, instead of {}",
        expected.kept
    );
    for name in after.0.keys() {
        let vms = bed.case.vm_history.uids(name);
        ensure!(vms.len() == 1, "Machine {name} has had the VMs {vms:?}");
    }
    bystander(before, after)
}

/// The bystander's Machine, VM and Node are the same.
pub(crate) fn bystander(before: &Snapshot, after: &Snapshot) -> Result<()> {
    let of = |seen: &Snapshot| -> Vec<_> {
        let all = seen.0.iter().filter(|(name, _)| is_bystander(name));
        all.map(|(name, whole)| (name.clone(), whole.clone())).collect()
    };
    ensure!(
        of(before) == of(after),
        "the bystander was {:?} and is {:?}",
        of(before),
        of(after)
    );
    Ok(())
}
