//! What a node of the deployment will have, for the cluster-autoscaler, which scales up from nothing by it.

use std::time::Duration;

use machinist_shared::admission::autoscaler::Changes;

use super::super::snapshot::types::{Deployment, Snapshot};
use crate::autoscaler;

/// Annotations that it gets or loses, and how long the instancetype that they follow from is cached.
pub(super) fn changes(observed: &Snapshot) -> (Changes, Option<Duration>) {
    let deployment = &observed.deployment;
    if !deployment.may_be_a_node_group() {
        return (Changes::new(), None);
    }
    let instancetype = observed.instancetype.as_ref();
    let changes = autoscaler::corrections(&deployment.as_node_group(), instancetype);
    (changes, observed.instancetype_again)
}

impl Deployment {
    /// Whether the cluster-autoscaler may take it for a node group, or what we wrote for it is to be taken away.
    pub(crate) fn may_be_a_node_group(&self) -> bool {
        autoscaler::may_be_one(|key| self.annotation(key))
    }

    /// As much of the object as tells its capacity.
    pub(crate) fn as_node_group(&self) -> serde_json::Value {
        autoscaler::object(&self.annotations, &self.template)
    }
}

#[cfg(test)]
mod tests {
    use machinist_shared::api::names::annotation;
    use machinist_shared::api::names::autoscaler::{CAPACITY, MAX_SIZE, WRITTEN};

    use serde_json::{Value, json};

    use super::super::super::plan::Step;
    use super::super::fixtures::{at, deployment, observed, set, template};
    use super::super::{decide, with_hash};
    use super::*;
    use crate::cache::Template;

    fn group(instancetype: &str) -> Deployment {
        let mut deployment = deployment(1);
        let mut template = template(2);
        template["spec"]["providerSpec"]["value"] = json!({
            "cloudProvider": "kubevirt", "operatingSystem": "ubuntu",
            "cloudProviderSpec": {"virtualMachine": {
                "instancetype": {"name": instancetype}, "template": {"primaryDisk": {"size": "10Gi"}}}},
        });
        deployment.template = Template::from(template);
        deployment.annotations.insert(MAX_SIZE.to_owned(), "5".to_owned());
        deployment
    }

    /// What is written to the deployment's annotations.
    fn written(deployment: Deployment, cpus: Option<u32>) -> Value {
        let mut set = set(2, 1);
        set.template = with_hash(&deployment.template, "1");
        let mut observed = observed(deployment, vec![set]);
        observed.instancetype = cpus.map(|cpus| json!({"cpu": {"guest": cpus}, "memory": {"guest": "16Gi"}}));
        let plan = decide(&observed, at(100));
        let patches = plan.steps.into_iter().filter_map(|step| match step {
            Step::PatchDeployment(patch) => Some(patch["metadata"]["annotations"].clone()),
            _ => None,
        });
        patches.last().unwrap_or_default()
    }

    #[test]
    fn a_node_group_is_reported_what_its_instancetype_has_and_nothing_twice() {
        let mut deployment = group("large");
        let unknown = written(deployment.clone(), None);
        assert_eq!(unknown.get(format!("{CAPACITY}cpu")), None, "{unknown}");
        let first = written(deployment.clone(), Some(4));
        assert_eq!(first[format!("{CAPACITY}cpu")], "4");
        for (key, value) in first.as_object().unwrap() {
            deployment
                .annotations
                .insert(key.clone(), value.as_str().unwrap().to_owned());
        }
        assert_eq!(written(deployment.clone(), Some(4)), Value::Null);
        // While it is not known, what was reported stays.
        assert_eq!(written(deployment.clone(), None), Value::Null);
        let changed = written(deployment, Some(8));
        let keys: Vec<&String> = changed.as_object().unwrap().keys().collect();
        assert_eq!(keys, [&format!("{CAPACITY}cpu"), WRITTEN]);
    }

    #[test]
    fn what_is_no_node_group_any_more_is_reported_nothing() {
        let mut deployment = group("large");
        let first = written(deployment.clone(), Some(4));
        for (key, value) in first.as_object().unwrap() {
            deployment
                .annotations
                .insert(key.clone(), value.as_str().unwrap().to_owned());
        }
        deployment.annotations.remove(MAX_SIZE);
        let taken = written(deployment.clone(), Some(4));
        assert_eq!(taken[WRITTEN], Value::Null);
        assert!(taken.as_object().unwrap().contains_key(&format!("{CAPACITY}cpu")));
        deployment.paused = true;
        assert_ne!(written(deployment.clone(), Some(4)), Value::Null);
        deployment.held_by = Some(annotation::PAUSED);
        assert_eq!(written(deployment, Some(4)), Value::Null, "it is left alone");
    }
}
