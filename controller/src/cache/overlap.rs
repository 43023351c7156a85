//! Two that select each other's Machines: each counts the other's as its own, and so does the one that counts by selector.

use serde_json::Value;

use super::selection::{Selection, labels_of};
use super::{StoredMachineDeployment, StoredMachineSet, Stores, owner};

/// How many are named.
const NAMED: usize = 3;

/// MachineDeployments beside this one that select its Machines, or whose Machines it selects; by name.
pub fn of_deployment(stores: &Stores, deployment: &StoredMachineDeployment) -> Vec<String> {
    let others = stores.machine_deployments_in(deployment.namespace()).into_iter();
    let others =
        others.filter(|other| other.uid() != deployment.uid() && is_mutual(deployment, other.as_ref()));
    sorted(others.map(|other| other.name().to_owned()))
}

/// MachineSets beside this one that select its Machines, or whose Machines it selects; by name. Those of one
/// MachineDeployment share its Machines out.
pub fn of_set(stores: &Stores, set: &StoredMachineSet) -> Vec<String> {
    let controller = |set: &StoredMachineSet| owner::controller(&set.metadata).map(|owner| owner.uid.clone());
    let ours = controller(set);
    let others = stores.machine_sets_in(set.namespace()).into_iter();
    let others = others.filter(|other| {
        let siblings = ours.is_some() && controller(other) == ours;
        other.uid() != set.uid() && !siblings && is_mutual(set, other.as_ref())
    });
    sorted(others.map(|other| other.name().to_owned()))
}

/// Some of the names, for a person.
pub fn listed(names: &[String]) -> String {
    let text = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

/// Has a selector, and labels that its Machines are made with.
pub trait Selects {
    /// The selector.
    fn selection(&self) -> &Selection;
    /// The template.
    fn template(&self) -> &Value;
}

impl Selects for StoredMachineDeployment {
    fn selection(&self) -> &Selection {
        &self.selector
    }

    fn template(&self) -> &Value {
        &self.template
    }
}

impl Selects for StoredMachineSet {
    fn selection(&self) -> &Selection {
        &self.selector
    }

    fn template(&self) -> &Value {
        &self.template
    }
}

/// Whether one of them selects the other's Machines.
pub fn is_mutual<S: Selects>(one: &S, other: &S) -> bool {
    let selects = |one: &S, other: &S| one.selection().matches(Some(&labels_of(other.template())));
    selects(one, other) || selects(other, one)
}

fn sorted(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinist_infra::cache::watch::Event;
    use rstest::rstest;
    use serde_json::json;

    fn object<K: serde::de::DeserializeOwned>(
        name: &str,
        owner: Option<&str>,
        selector: &Value,
        labels: &Value,
    ) -> K {
        let owner = owner.map(|uid| json!([{"apiVersion": "v1", "kind": "MachineDeployment", "name": uid, "uid": uid, "controller": true}]));
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "ns", "uid": name, "resourceVersion": "1", "ownerReferences": owner},
            "spec": {"selector": {"matchLabels": selector}, "template": {"metadata": {"labels": labels}}},
        }))
        .unwrap()
    }

    #[rstest]
    #[case::the_same_labels(json!({"a": "1"}), json!({"a": "1"}), true)]
    #[case::its_machines_are_selected(json!({"b": "1"}), json!({"a": "1", "b": "1"}), true)]
    #[case::others(json!({"a": "2"}), json!({"a": "2"}), false)]
    fn deployments_that_select_each_others_machines(
        #[case] selector: Value,
        #[case] labels: Value,
        #[case] overlap: bool,
    ) {
        let (stores, plain) = (Stores::default(), json!({"a": "1"}));
        let ours: StoredMachineDeployment = object("ours", None, &plain, &plain);
        let theirs: StoredMachineDeployment = object("theirs", None, &selector, &labels);
        for deployment in [&ours, &theirs] {
            stores.machine_deployments.apply(Event::Apply(deployment.clone()));
        }
        let want = |name: &str| {
            if overlap {
                vec![name.to_owned()]
            } else {
                Vec::new()
            }
        };
        assert_eq!(of_deployment(&stores, &ours), want("theirs"));
        assert_eq!(of_deployment(&stores, &theirs), want("ours"));
    }

    #[test]
    fn the_sets_of_one_deployment_are_no_trouble_and_others_are() {
        let (stores, labels) = (Stores::default(), json!({"a": "1"}));
        for (name, owner) in [
            ("one", Some("d")),
            ("two", Some("d")),
            ("alone", None),
            ("lonely", None),
        ] {
            stores
                .machine_sets
                .apply(Event::Apply(object(name, owner, &labels, &labels)));
        }
        let set = |name: &str, owner| object::<StoredMachineSet>(name, owner, &labels, &labels);
        assert_eq!(of_set(&stores, &set("one", Some("d"))), ["alone", "lonely"]);
        assert_eq!(of_set(&stores, &set("alone", None)), ["lonely", "one", "two"]);
    }

    #[test]
    fn a_long_list_is_cut() {
        let names: Vec<String> = ["a", "b", "c", "d", "e"].map(str::to_owned).into();
        assert_eq!(listed(&names[..2]), "a, b");
        assert_eq!(listed(&names), "a, b, c and 2 more");
    }
}
