//! Volumes that are attached to the Node of a VM that is gone: Kubernetes detaches them at once if the Node is marked out of
//! service.

use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::jiff::Timestamp;
use machinist_shared::api::names::taint;
use serde_json::json;

use super::super::clock::Deadlines;
use super::super::conditions::Condition;
use super::super::plan::Step;
use super::super::reason::Reason;
use super::super::record::Deletion;
use super::result::Fate;
use super::{PhaseResult, View};
use crate::cache::Node;

/// How long volumes may stay attached to the Node of a VM that is gone: Kubernetes needs a minute to remove the pods of a
/// Node that is out of service.
const RELEASE_TIMEOUT: Duration = Duration::from_mins(2);

/// Volumes that are attached to the Node of a VM that is gone.
pub(super) enum Volumes {
    /// There are none.
    None,
    /// They are to be detached.
    Leaving {
        /// What a person reads of them.
        what: String,
        /// What has to be done for it.
        mark: Option<Step>,
        /// When it is over at the latest.
        requeue_after: Option<Duration>,
    },
    /// They have not been detached for too long: what a person reads of them.
    Left(String),
}

pub(super) fn run(view: &View<'_>) -> PhaseResult {
    let Some((since, volumes)) = of_machine(view) else {
        return PhaseResult::default();
    };
    let Volumes::Leaving {
        what,
        mark,
        requeue_after,
    } = volumes
    else {
        return PhaseResult::default();
    };
    let deletion = Deletion {
        volume_release_started_at: Some(since),
        ..view.deletion()
    };
    let message = format!("the VM is gone; {what}");
    let mut result = PhaseResult::stop()
        .condition(Condition::deleting(Reason::ReleasingVolumes, message))
        .progress(view.progress().with_deletion(deletion))
        .requeue(requeue_after);
    result.steps.extend(mark);
    result
}

/// What a person reads of volumes that a deleting Machine leaves attached, if it does.
pub(super) fn left_behind(view: &View<'_>) -> Option<String> {
    match of_machine(view)? {
        (_, Volumes::Left(message)) => Some(message),
        _ => None,
    }
}

/// The volumes of a deleting Machine whose VM is gone, and since when they are waited for.
fn of_machine(view: &View<'_>) -> Option<(Timestamp, Volumes)> {
    if view.before.found.vm != Some(Fate::Gone) {
        return None;
    }
    let since = view.deletion().volume_release_started_at.unwrap_or(view.now);
    Some((since, volumes(view, view.own_node()?, since)))
}

/// What becomes of the volumes that are attached to the Node of a VM that is gone, and have been waited for `since` then. A pod
/// that needs them elsewhere would wait for six minutes if the Node was deleted now; the taint lets Kubernetes detach them at
/// once.
pub(super) fn volumes(view: &View<'_>, node: &Node, since: Timestamp) -> Volumes {
    let volumes = view.observed.workload.volumes.join(", ");
    if volumes.is_empty() {
        return Volumes::None;
    }
    let mut deadlines = Deadlines::default();
    if deadlines.is_over(view.wait(since, RELEASE_TIMEOUT)) {
        return Volumes::Left(format!(
            "the Node {} is deleted with volumes attached: {volumes}",
            node.name()
        ));
    }
    let is_marked = node
        .spec
        .taints
        .iter()
        .any(|taint| taint.key == taint::OUT_OF_SERVICE);
    Volumes::Leaving {
        what: format!("its Node is marked out of service until these volumes are detached: {volumes}"),
        mark: (!is_marked).then(|| mark(node)),
        requeue_after: deadlines.0,
    }
}

/// Marks the Node out of service.
fn mark(node: &Node) -> Step {
    let mut taints = node.spec.taints.clone();
    taints.push(Taint {
        key: taint::OUT_OF_SERVICE.to_owned(),
        value: Some("nodeshutdown".to_owned()),
        effect: "NoExecute".to_owned(),
        time_added: None,
    });
    Step::PatchNode {
        uid: node.uid().to_owned(),
        patch: json!({
            "metadata": {"uid": node.uid(), "resourceVersion": node.metadata.resource_version},
            "spec": {"taints": taints},
        }),
        puts: Vec::new(),
    }
}
