//! VMs that bear our label and this cluster's identity and have no Machine, with their disks and Nodes: counted whenever
//! the metrics are scraped, named once in the log, and never deleted.

use std::collections::BTreeSet;
use std::sync::Weak;

use machinist_infra::provider::Orphan;
use parking_lot::Mutex;
use prometheus::{IntGaugeVec, Opts};

use super::collectors::{ReadOff, Registered, number};
use crate::context::Context;
use crate::orphans;

/// Counts orphans when the metrics are gathered.
pub fn orphans(context: Weak<Context>) -> Registered<IntGaugeVec> {
    let about = "VMs with our label and this cluster's identity that have no Machine, their disks and Nodes, by kind.";
    let named = Mutex::new(BTreeSet::new());
    let count = IntGaugeVec::new(Opts::new("machinist_orphans", about), &["kind"])?;
    Ok(ReadOff::new(count, move |gauge| {
        if let Some(context) = context.upgrade() {
            // Before that, every VM would be one.
            if context.stores.is_synced() {
                read(&context, gauge, &mut named.lock());
            }
        }
    }))
}

fn read(context: &Context, gauge: &IntGaugeVec, named: &mut BTreeSet<Orphan>) {
    let found = orphans::find(context);
    gauge.reset();
    for kind in ["VirtualMachine", "DataVolume", "PersistentVolumeClaim", "Node"] {
        let count = found.iter().filter(|orphan| orphan.kind == kind).count();
        gauge.with_label_values(&[kind]).set(number(count));
    }
    let found: BTreeSet<Orphan> = found.into_iter().collect();
    for orphan in found.difference(named) {
        tracing::warn!(
            kind = orphan.kind,
            namespace = orphan.namespace,
            name = orphan.name,
            server = orphan.server,
            "it is labeled as this cluster's and has no Machine; it is left alone"
        );
    }
    *named = found;
}
