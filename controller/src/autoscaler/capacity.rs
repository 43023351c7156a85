//! What a node of a node group will have, as annotations tell the cluster-autoscaler.

use std::collections::BTreeMap;

use machinist_shared::admission::autoscaler::{self, Changes};
use machinist_shared::api::config_var::LookupError;
use machinist_shared::api::names::autoscaler::{MAX_SIZE, WRITTEN};
use serde_json::{Value, json};

/// Whether an object with these annotations may be a node group, or what we wrote for it is to be taken away.
pub(crate) fn may_be_one<'a>(annotation: impl Fn(&str) -> Option<&'a str>) -> bool {
    annotation(MAX_SIZE).is_some() || annotation(WRITTEN).is_some()
}

/// As much of a node group as tells its capacity.
pub(crate) fn object(annotations: &BTreeMap<String, String>, template: &Value) -> Value {
    json!({"metadata": {"annotations": annotations}, "spec": {"template": template}})
}

/// The annotations that keep its capacity true. What refers to Secrets is not read: the one that may read the object would read it
/// there.
pub(crate) fn corrections(object: &Value, instancetype: Option<&Value>) -> Changes {
    let unread = |_: &_| Err(LookupError::Unavailable("not read".to_owned()));
    autoscaler::corrections(object, &autoscaler::capacity(object, &unread, instancetype))
}
