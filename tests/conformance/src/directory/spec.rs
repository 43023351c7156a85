//! The pure half: what a spec means.

use std::collections::BTreeMap;

use machinist_shared::names::label;
use machinist_shared::provider::{Blueprint, FailureDomain, Opaque, Order};
use serde_json::{Value, json};

use super::files::Stored;

/// An instance that is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plot {
    /// How many disks it has.
    pub disks: usize,
}

/// What the place says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The text of its file `region`.
    pub region: Option<String>,
}

impl Blueprint for Plot {
    fn disks(&self, machine: &str) -> Vec<String> {
        (0..self.disks)
            .map(|index| format!("{machine}-{index}"))
            .collect()
    }

    fn facts_needed(&self) -> Opaque {
        Opaque::new(())
    }

    fn failure_domain(&self, facts: &Opaque) -> FailureDomain {
        FailureDomain {
            region: facts.of::<Facts>().and_then(|facts| facts.region.clone()),
            zone: None,
        }
    }

    fn render(&self, order: &Order<'_>, facts: &Opaque) -> Option<Value> {
        let region = facts.of::<Facts>()?.region.clone();
        let mut labels: BTreeMap<String, String> = order.labels.clone();
        let ours = [
            (label::MACHINE_UID, Some(order.uid.to_owned())),
            (label::CLUSTER_UID, Some(order.cluster_uid.to_owned())),
            (label::REGION, region),
        ];
        labels.extend(
            ours.into_iter()
                .filter_map(|(key, value)| Some((key.to_owned(), value?))),
        );
        Some(json!(Stored {
            name: order.name.to_owned(),
            labels,
            user_data: Some(order.user_data.to_owned()),
            disks: self.disks(order.name),
            ..Stored::default()
        }))
    }
}
