//! VMs that bear our label and this cluster's identity and have no Machine, with their disks and Nodes: counted whenever
//! somebody asks for the metrics, named once in the log, and never deleted.

use std::collections::BTreeSet;
use std::sync::Weak;

use machinist_infra::orphans::of_node;
use machinist_infra::provider::Orphan;
use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGaugeVec, Opts};

use crate::context::Context;

/// Counts orphans when the metrics are gathered.
pub struct Orphans {
    context: Weak<Context>,
    count: IntGaugeVec,
    named: Mutex<BTreeSet<Orphan>>,
}

impl Orphans {
    /// To be registered.
    pub fn new(context: Weak<Context>) -> Result<Self, prometheus::Error> {
        let count = IntGaugeVec::new(
            Opts::new(
                "machinist_orphans",
                "VMs with our label and this cluster's identity that have no Machine, their disks and Nodes, by kind.",
            ),
            &["kind"],
        )?;
        Ok(Self {
            context,
            count,
            named: Mutex::default(),
        })
    }

    fn look(&self) {
        let Some(context) = self.context.upgrade() else {
            return;
        };
        // Before that, every VM would be one.
        if !context.stores.is_synced() {
            return;
        }
        let stores = &context.stores;
        // What a tombstone finishes is not left behind.
        let has_machine = |uid: &str| stores.machines.has_index(uid) || stores.lost.has_uid(uid);
        let mut found = context.infra.orphans(&context.settings.cluster_uid, &has_machine);
        let nodes = stores.nodes.all();
        let nodes = nodes
            .iter()
            .filter(|node| of_node(&node.metadata, &has_machine).is_some());
        found.extend(nodes.map(|node| Orphan {
            kind: "Node",
            server: String::new(),
            namespace: String::new(),
            name: node.name().to_owned(),
        }));
        self.count.reset();
        for kind in ["VirtualMachine", "DataVolume", "PersistentVolumeClaim", "Node"] {
            let count = found.iter().filter(|orphan| orphan.kind == kind).count();
            // Their number is far below the limit.
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.count.with_label_values(&[kind]).set(count);
        }
        let found: BTreeSet<Orphan> = found.into_iter().collect();
        let mut named = self.named.lock();
        for orphan in found.difference(&named) {
            tracing::warn!(
                kind = orphan.kind,
                namespace = orphan.namespace,
                name = orphan.name,
                server = orphan.server,
                "it is labelled as this cluster's and has no Machine; it is left alone"
            );
        }
        *named = found;
    }
}

impl Collector for Orphans {
    fn desc(&self) -> Vec<&Desc> {
        self.count.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.look();
        self.count.collect()
    }
}
