//! KubeVirt's part in [`crate::provider`].

use serde_json::Value;

use super::facts::{Facts, facts_needed};
use super::render::{RenderInput, disk_names, render};
use super::resolved::ResolvedSpec;
use crate::provider::{Blueprint, FailureDomain, Opaque, Order};

impl Blueprint for ResolvedSpec {
    fn disks(&self, machine: &str) -> Vec<String> {
        disk_names(machine, self)
    }

    fn facts_needed(&self) -> Opaque {
        Opaque::new(facts_needed(self))
    }

    fn failure_domain(&self, facts: &Opaque) -> FailureDomain {
        let found = facts.of::<Facts>();
        let own = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        FailureDomain {
            region: own(&self.region).or_else(|| found?.region.clone()),
            zone: own(&self.zone).or_else(|| found?.zone.clone()),
        }
    }

    fn render(&self, order: &Order<'_>, facts: &Opaque) -> Option<Value> {
        Some(render(&RenderInput {
            name: order.name,
            uid: order.uid,
            labels: order.labels,
            annotations: order.annotations,
            machine_deployment: order.machine_deployment,
            cluster_uid: order.cluster_uid,
            namespace: order.namespace,
            spec: self,
            facts: facts.of()?,
            user_data_secret: order.user_data,
            ignition: order.ignition,
        }))
    }
}
