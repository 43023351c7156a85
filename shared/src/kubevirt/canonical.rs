//! What is made of a spec, in one form for all its notations: the VM as it is rendered, without facts of any cluster.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::facts::{Facts, UNKNOWN};
use super::render::{RenderInput, render};
use super::resolved::resolve_unchecked;
use super::spec::CloudProviderSpec;
use crate::api::quantity;
use crate::provider::Env;

/// A text and a number and a boolean, for whatever is behind a reference: the reference itself counts.
const REFERENCED: &str = "1";

/// The form; `None` if no VM can be rendered.
pub(super) fn canonical(spec: &CloudProviderSpec) -> Option<Value> {
    let mut resolved = resolve_unchecked(spec, &Env::default(), &|_| Ok(REFERENCED.to_owned())).ok()?;
    let (vm, disk) = (&spec.virtual_machine, &spec.virtual_machine.primary_disk);
    let mut known = resolved.clone();
    for (text, var) in [
        (&mut known.image.pull_method, &disk.pull_method),
        (&mut known.dns_policy, &vm.dns_policy),
        (&mut known.node_affinity, &spec.node_affinity.kind),
    ] {
        if var.reference().is_some() {
            text.clear();
        }
    }
    known.check().ok()?;
    let facts = Facts::placeholders(&resolved);
    let amounts = [
        &mut resolved.cpus,
        &mut resolved.memory,
        &mut resolved.primary_disk.size,
    ];
    let further = resolved.secondary_disks.iter_mut().map(|disk| &mut disk.size);
    for amount in amounts.into_iter().chain(further) {
        *amount = quantity::canonical(amount);
    }
    let none = BTreeMap::new();
    let instance = render(&RenderInput {
        name: "",
        uid: "",
        labels: &none,
        annotations: &none,
        machine_deployment: None,
        cluster_uid: "",
        namespace: UNKNOWN,
        spec: &resolved,
        facts: &facts,
        user_data_secret: "",
        ignition: None,
    });
    let mut references: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (field, text) in spec.texts() {
        references.entry(field).or_default().push(text.reference());
    }
    references.insert(
        "enableNetworkMultiQueue",
        vec![vm.network_multi_queue.reference()],
    );
    // As many as there are disks, constraints and values, which the instance has.
    references.retain(|_, found| found.iter().any(Option::is_some));
    let references: BTreeMap<_, Vec<_>> = references
        .into_iter()
        .map(|(field, found)| {
            let found = found.into_iter();
            (
                field,
                found
                    .map(|reference| reference.map(ToString::to_string))
                    .collect(),
            )
        })
        .collect();
    Some(json!({
        "credential": spec.kubeconfig.canonical(),
        "instance": instance,
        "references": references,
    }))
}
