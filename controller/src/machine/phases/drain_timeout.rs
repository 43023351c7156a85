//! When a Node is not drained, or not any longer: the time limits of a drain, and the annotations that skip it.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use machinist_shared::api::names::annotation;

use super::super::clock::{Deadlines, timeout};
use super::View;
use super::result::Drained;
use crate::cache::Node;

/// For so long a Node that is not Ready may become so again: a kubelet that is restarted loses no pods.
const UNREADY_TIMEOUT: Duration = Duration::from_mins(1);

/// Why the Node is not drained, if it is not.
pub(super) fn why_not(view: &View<'_>, node: &Node, deadlines: &mut Deadlines) -> Option<(Drained, String)> {
    let machine = view.machine();
    if node.annotation(annotation::SKIP_EVICTION).is_some() {
        let why = format!("the Node has the annotation {}", annotation::SKIP_EVICTION);
        return Some((Drained::SkippedWithVolumes, why));
    }
    if let Some(why) = took_too_long(view, deadlines).or_else(|| unready(view, node, deadlines)) {
        return Some((Drained::SkippedWithVolumes, why));
    }
    if machine.annotation(annotation::EXCLUDE_DRAIN).is_some() {
        let why = format!("the Machine has the annotation {}", annotation::EXCLUDE_DRAIN);
        return Some((Drained::Skipped, why));
    }
    let timeout = timeout(machine, annotation::DRAIN_TIMEOUT)?;
    let since = view.deletion().drain_started_at.unwrap_or(view.now);
    deadlines
        .is_over(view.wait(since.min(view.now), timeout))
        .then(|| {
            let why = format!(
                "it took longer than {timeout:?} ({}); pods that are still there end with the VM",
                annotation::DRAIN_TIMEOUT
            );
            (Drained::Skipped, why)
        })
}

/// Why the Node's kubelet is not counted on, if so.
fn unready(view: &View<'_>, node: &Node, deadlines: &mut Deadlines) -> Option<String> {
    if node.is_ready() {
        return None;
    }
    let ready = node.ready();
    let status = ready.map_or("unknown", |ready| ready.status.as_str());
    let changed = ready.and_then(|ready| ready.last_transition_time.as_ref());
    let changed: Option<Timestamp> = changed.map(|time| time.0);
    changed
        .is_none_or(|changed| deadlines.is_over(view.wait(changed, UNREADY_TIMEOUT)))
        .then(|| {
            format!(
                "Node NotReady for {UNREADY_TIMEOUT:?} (Ready={status}); skipping drain because the kubelet may not terminate pods"
            )
        })
}

/// Whether the time is over in which pods and volumes are waited for at all.
pub(super) fn took_too_long(view: &View<'_>, deadlines: &mut Deadlines) -> Option<String> {
    let limit = view.observed.settings.skip_eviction_after?;
    let asked_for = view.machine().metadata.deletion_timestamp.as_ref()?.0;
    deadlines
        .is_over(view.wait(asked_for, limit))
        .then(|| format!("the Machine was deleted more than {limit:?} ago (--skip-eviction-after)"))
}
