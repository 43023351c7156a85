//! What comes before the deletion of a Machine's VM, in Cluster API's order: hooks, the drain of its Node, the volumes there,
//! hooks again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use machinist_shared::names::{annotation, condition};
use serde_json::json;

use super::super::conditions::{Condition, Reason, Status};
use super::super::drain::sort::{Sorted, sort};
use super::super::drain::target::Target;
use super::super::drain::watch::{Claim, Pods, Seen};
use super::super::observed::Refuge;
use super::super::plan::Step;
use super::delete::{deleting, own_node};
use super::draft::Draft;
use crate::cache::{Node, Remnant};
use crate::config::{self, OptionalDuration};

/// For so long a Node that is not Ready may become so again: a kubelet that is restarted loses nobody's pods.
const UNREADY: Duration = Duration::from_mins(1);

/// When it is looked at again whose turn it is, should nothing tell.
const TURN: Duration = Duration::from_secs(30);

/// Why a Node is not drained at the end of a cluster.
const NOWHERE: &str =
    "its pods have nowhere to go: all other Nodes are cordoned and no Machine is about to join";

/// How the drain of a Node stands.
enum Drain {
    /// It is not over.
    Goes,
    /// It is over; the claims of the pods that stay.
    Over(BTreeSet<String>),
    /// It is left out, and volumes are waited for all the same.
    Skipped,
    /// It is left out, and with it the wait for volumes, which nobody would detach.
    SkippedWithVolumes,
}

/// Why a Node is not drained.
enum WhyNot {
    /// Somebody wants it so, or it took too long: volumes are another question.
    Drain(String),
    /// Volumes would not be detached either.
    Anything(String),
}

/// Whether all that comes before the VM's deletion is done; else does the next of it, or says what is waited for.
pub(super) fn is_said(draft: &mut Draft<'_>) -> bool {
    if waits_before_drain(draft) {
        return false;
    }
    // Whoever holds the end up may have pods there that must see it: what comes late is not evicted any more.
    let drained =
        stored_reason(draft, condition::DELETING) == Some(Reason::WaitingForPreTerminateHook.text());
    if !drained && let Some(node) = own_node(draft) {
        match drain(draft, &node) {
            Drain::SkippedWithVolumes => {}
            Drain::Skipped if is_detached_undrained(draft) => {}
            Drain::Over(kept) if is_detached(draft, &kept) => {}
            Drain::Goes | Drain::Skipped | Drain::Over(_) => return false,
        }
    }
    !waits_before_end(draft)
}

/// Whether somebody holds up with annotations the deletion of a Machine whose VM is gone, or going already.
pub(super) fn waits_for_hooks(draft: &mut Draft<'_>) -> bool {
    waits_before_drain(draft) || waits_before_end(draft)
}

/// Whether a hook holds up the drain; there is none of a Machine without a Node.
fn waits_before_drain(draft: &mut Draft<'_>) -> bool {
    own_node(draft).is_some()
        && waits_for_hook(draft, annotation::PRE_DRAIN_HOOK, Reason::WaitingForPreDrainHook)
}

fn waits_before_end(draft: &mut Draft<'_>) -> bool {
    waits_for_hook(
        draft,
        annotation::PRE_TERMINATE_HOOK,
        Reason::WaitingForPreTerminateHook,
    )
}

/// Whether somebody holds the deletion up with annotations of that prefix; nothing but their removal ends that.
fn waits_for_hook(draft: &mut Draft<'_>, prefix: &str, reason: Reason) -> bool {
    let annotations = draft.observed.machine.metadata.annotations.iter().flatten();
    let hooks = annotations.filter(|(key, _)| key.starts_with(prefix));
    let hooks: Vec<String> = hooks
        .map(|(key, owner)| match owner.as_str() {
            "" => key.clone(),
            owner => format!("{key} (of {owner})"),
        })
        .collect();
    if hooks.is_empty() {
        return false;
    }
    let message = format!(
        "waiting for these annotations to be removed: {}",
        hooks.join(", ")
    );
    deleting(draft, reason, &message);
    true
}

fn drain(draft: &mut Draft<'_>, node: &Arc<Node>) -> Drain {
    let mut skipped = why_not(draft, node);
    if let Some(WhyNot::Drain(why) | WhyNot::Anything(why)) = &skipped
        && stored_reason(draft, condition::DRAINED) != Some(Reason::DrainSkipped.text())
    {
        let message = format!("the Node {} is not drained: {why}", node.name());
        draft.tell_after_patch(true, "DrainSkipped", message);
    }
    // Whoever ends a cluster knows, and would be told by as many Events as there are Machines.
    if skipped.is_none() && draft.observed.guests.refuge == Refuge::None {
        skipped = Some(WhyNot::Anything(NOWHERE.to_owned()));
    }
    if let Some(why_not) = skipped {
        let (skipped, why) = match why_not {
            WhyNot::Drain(why) => (Drain::Skipped, why),
            WhyNot::Anything(why) => (Drain::SkippedWithVolumes, why),
        };
        draft.condition(Condition::new(
            condition::DRAINED,
            Status::False,
            Reason::DrainSkipped,
            why,
        ));
        return skipped;
    }
    let observed = draft.observed;
    if let Some(turn) = observed.guests.turn.filter(|turn| turn.ahead >= turn.limit) {
        let message = format!(
            "{} Machines of the MachineDeployment are drained first, {} at a time ({})",
            turn.ahead,
            turn.limit,
            annotation::MAX_CONCURRENT_DRAINS
        );
        draft.condition(
            Condition::new(
                condition::DELETING,
                Status::True,
                Reason::WaitingForOtherDrains,
                message,
            )
            .lazy(),
        );
        draft.plan.look_again(TURN);
        return Drain::Goes;
    }
    let remnant = draft
        .record
        .as_ref()
        .map(|record| Remnant::new(&observed.machine, record));
    let is_told = remnant.is_none() || Remnant::is_on(node, observed.machine.uid());
    if !node.spec.unschedulable || !is_told {
        let mut patch = json!({
            "metadata": {"uid": node.uid(), "resourceVersion": node.metadata.resource_version},
            "spec": {"unschedulable": true},
        });
        if let Some(remnant) = remnant.filter(|_| !is_told) {
            let remnant = json!(remnant).to_string();
            patch["metadata"]["annotations"] = json!({annotation::DELETING: remnant});
        }
        let uid = node.uid().to_owned();
        draft.plan.push(Step::PatchNode {
            uid,
            patch,
            puts: Vec::new(),
        });
        begins(draft, node, "the Node is being cordoned");
        return Drain::Goes;
    }
    match &observed.guests.pods {
        Seen::Unwatched => {
            draft.plan.push(Step::WatchPods);
            begins(draft, node, "the Node's pods are being listed");
            Drain::Goes
        }
        Seen::Opening(None) => {
            begins(draft, node, "the Node's pods are being listed");
            Drain::Goes
        }
        Seen::Opening(Some(why)) => {
            draining(
                draft,
                node,
                &format!("the Node's pods cannot be listed, which is tried again: {why}"),
            );
            Drain::Goes
        }
        Seen::Pods(pods) => pods_go(draft, node, pods),
    }
}

/// For so long nothing is said of a drain that has just begun: mostly there is more to say before.
const MOMENT: Duration = Duration::from_secs(2);

/// Nothing is known of the pods yet. Where others wait for their turn, it shows whose it is.
fn begins(draft: &mut Draft<'_>, node: &Node, message: &str) {
    draining(draft, node, message);
    let observed = draft.observed;
    let is_said = stored_reason(draft, condition::DELETING) == Some(Reason::DrainingNode.text());
    let begun = observed
        .machine
        .metadata
        .deletion_timestamp
        .as_ref()
        .map(|time| time.0);
    if observed.guests.turn.is_none()
        && !is_said
        && let Some(begun) = begun
        && !is_past(draft, begun, MOMENT)
    {
        draft.say_nothing_yet();
    }
}

/// Evicts what there is to evict.
fn pods_go(draft: &mut Draft<'_>, node: &Arc<Node>, pods: &Pods) -> Drain {
    let sorted = sort(&pods.pods, &pods.answers, &pods.budgets, draft.now);
    if sorted.is_over() {
        let message = format!("no pod is left on the Node {} that must go", node.name());
        draft.condition(Condition::new(
            condition::DRAINED,
            Status::True,
            Reason::NodeDrained,
            message,
        ));
        return Drain::Over(sorted.kept_claims);
    }
    if sorted.is_blocked() {
        // That it is blocked is news, by which pods it is not.
        let known = stored_reason(draft, condition::DRAINED) == Some(Reason::EvictionBlocked.text());
        let blocked = Condition::new(
            condition::DRAINED,
            Status::False,
            Reason::EvictionBlocked,
            sorted.message(),
        );
        draft.condition(if known { blocked.lazy() } else { blocked });
    }
    draining(draft, node, &sorted.message());
    if let Some(again) = sorted.again {
        let wait = draft.until(again);
        draft.plan.look_again(wait);
    }
    evict(draft, &sorted);
    Drain::Goes
}

fn evict(draft: &mut Draft<'_>, sorted: &Sorted<'_>) {
    let targets = sorted.evict.iter().map(|(pod, budget)| Target {
        namespace: pod.namespace().to_owned(),
        name: pod.name().to_owned(),
        uid: pod.uid().to_owned(),
        budget: budget.and_then(|budget| budget.metadata.name.clone()),
    });
    let targets: Vec<Target> = targets.collect();
    if !targets.is_empty() {
        draft.plan.push(Step::EvictPods(targets));
    }
}

fn draining(draft: &mut Draft<'_>, node: &Node, message: &str) {
    draft.condition(Condition::new(condition::DRAINED, Status::False, Reason::Draining, message).lazy());
    let message = format!(
        "the Node {} is being drained; see the condition Drained",
        node.name()
    );
    deleting(draft, Reason::DrainingNode, &message);
}

/// Why the Node is not drained, if it is not.
fn why_not(draft: &mut Draft<'_>, node: &Node) -> Option<WhyNot> {
    let observed = draft.observed;
    if node.annotation(annotation::SKIP_EVICTION).is_some() {
        return Some(WhyNot::Anything(format!(
            "the Node has the annotation {}",
            annotation::SKIP_EVICTION
        )));
    }
    if let Some(why) = took_too_long(draft) {
        return Some(WhyNot::Anything(why));
    }
    if let Some(why) = unready(draft, node) {
        return Some(WhyNot::Anything(why));
    }
    if observed.machine.annotation(annotation::EXCLUDE_DRAIN).is_some() {
        return Some(WhyNot::Drain(format!(
            "the Machine has the annotation {}",
            annotation::EXCLUDE_DRAIN
        )));
    }
    let since = since(draft, condition::DRAINED);
    if let Some(timeout) = timeout(draft, annotation::DRAIN_TIMEOUT)
        && is_past(draft, since, timeout)
    {
        return Some(WhyNot::Drain(format!(
            "it took longer than {timeout:?} ({}); pods that are still there end with the VM",
            annotation::DRAIN_TIMEOUT
        )));
    }
    None
}

/// Why the Node's kubelet is not counted on, if so.
fn unready(draft: &mut Draft<'_>, node: &Node) -> Option<String> {
    if node.is_ready() {
        return None;
    }
    let ready = node.ready();
    let status = ready.map_or("unknown", |ready| ready.status.as_str());
    let changed = ready
        .and_then(|ready| ready.last_transition_time.as_ref())
        .map(|time| time.0);
    changed
        .is_none_or(|changed| is_past(draft, changed, UNREADY))
        .then(|| {
            format!(
                "it has not been Ready for {UNREADY:?} (it is {status}), so nobody can count on its pods' ending"
            )
        })
}

/// Whether the time is over in which pods and volumes are waited for at all.
fn took_too_long(draft: &mut Draft<'_>) -> Option<String> {
    let limit = draft.observed.settings.skip_eviction_after?;
    let begun = draft.observed.machine.metadata.deletion_timestamp.as_ref()?.0;
    is_past(draft, begun, limit)
        .then(|| format!("the Machine was deleted more than {limit:?} ago (--skip-eviction-after)"))
}

/// The same of a Node that was not drained: its pods are listed only if that can matter.
fn is_detached_undrained(draft: &mut Draft<'_>) -> bool {
    let observed = draft.observed;
    if observed.guests.volumes.is_empty() {
        return is_detached(draft, &BTreeSet::new());
    }
    let pods = match &observed.guests.pods {
        Seen::Pods(pods) => pods,
        Seen::Unwatched => {
            let detached = is_detached(draft, &BTreeSet::new());
            if !detached {
                draft.plan.push(Step::WatchPods);
            }
            return detached;
        }
        Seen::Opening(_) => return is_detached(draft, &BTreeSet::new()),
    };
    let sorted = sort(&pods.pods, &pods.answers, &pods.budgets, draft.now);
    is_detached(draft, &sorted.kept_claims)
}

/// Whether the Node's volumes are detached, but for those of pods that stay, or nobody waits for that.
fn is_detached(draft: &mut Draft<'_>, kept: &BTreeSet<String>) -> bool {
    let observed = draft.observed;
    let nothing_known = BTreeMap::new();
    let claims = match &observed.guests.pods {
        Seen::Pods(pods) => &pods.claims,
        _ => &nothing_known,
    };
    let attached = &observed.guests.volumes;
    // Only what pods that stay may have is of interest.
    let asked_for: &[String] = if kept.is_empty() { &[] } else { attached };
    let mut unknown = Vec::new();
    for volume in asked_for {
        match claims.get(volume) {
            Some(Claim::Known(_) | Claim::None) => {}
            Some(Claim::Unread(until)) if *until > draft.now => {
                let wait = draft.until(*until);
                draft.plan.look_again(wait);
            }
            Some(Claim::Unread(_)) | None => unknown.push(volume.clone()),
        }
    }
    let claim = |volume: &String| match claims.get(volume) {
        Some(Claim::Known(claim)) => Some(claim),
        _ => None,
    };
    let awaited: Vec<String> = attached
        .iter()
        .filter(|volume| claim(volume).is_none_or(|claim| !kept.contains(claim)))
        .map(|volume| {
            claim(volume).map_or_else(|| volume.clone(), |claim| format!("{volume} (claim {claim})"))
        })
        .collect();
    if awaited.is_empty() {
        if stored_reason(draft, condition::VOLUMES_DETACHED).is_some() {
            draft.condition(Condition::new(
                condition::VOLUMES_DETACHED,
                Status::True,
                Reason::VolumesDetached,
                "no volume of a pod that had to go is attached to the Node any more",
            ));
        }
        return true;
    }
    if let Some(why) = why_not_detached(draft) {
        let message = format!("{}: {why}", awaited.join(", "));
        draft.condition(Condition::new(
            condition::VOLUMES_DETACHED,
            Status::False,
            Reason::VolumeDetachSkipped,
            message,
        ));
        return true;
    }
    if !unknown.is_empty() {
        draft.plan.push(Step::LookUpVolumes(unknown));
    }
    let message = format!("still attached to the Node: {}", awaited.join(", "));
    draft.condition(
        Condition::new(
            condition::VOLUMES_DETACHED,
            Status::False,
            Reason::VolumesAttached,
            message.clone(),
        )
        .lazy(),
    );
    deleting(draft, Reason::WaitingForVolumeDetach, &message);
    false
}

/// Why nobody waits for volumes, if so.
fn why_not_detached(draft: &mut Draft<'_>) -> Option<String> {
    if draft
        .observed
        .machine
        .annotation(annotation::EXCLUDE_DETACH)
        .is_some()
    {
        return Some(format!(
            "the Machine has the annotation {}",
            annotation::EXCLUDE_DETACH
        ));
    }
    if let Some(why) = took_too_long(draft) {
        return Some(why);
    }
    let timeout = timeout(draft, annotation::DETACH_TIMEOUT)?;
    let since = since(draft, condition::VOLUMES_DETACHED);
    is_past(draft, since, timeout)
        .then(|| format!("it took longer than {timeout:?} ({})", annotation::DETACH_TIMEOUT))
}

/// A timeout from an annotation of the Machine. None at all, `0s` and what is no duration set no limit.
pub(super) fn timeout(draft: &Draft<'_>, key: &str) -> Option<Duration> {
    let text = draft.observed.machine.annotation(key)?;
    let OptionalDuration(timeout) = config::duration(text).ok()?;
    timeout.filter(|timeout| !timeout.is_zero())
}

/// Since when a condition is False; from now on, if it is not.
fn since(draft: &Draft<'_>, kind: &str) -> Timestamp {
    let conditions = draft.observed.machine.status.conditions.iter().flatten();
    let stored = conditions.filter(|stored| stored.type_ == kind && stored.status == "False");
    let mut times = stored.filter_map(|stored| stored.last_transition_time.as_ref());
    let since = times.next();
    since.map_or(draft.now, |since| since.0.min(draft.now))
}

/// Whether `timeout` is over that began at `since`; if not, it is looked at again when it is.
pub(super) fn is_past(draft: &mut Draft<'_>, since: Timestamp, timeout: Duration) -> bool {
    let Ok(end) = since.checked_add(timeout) else {
        return false;
    };
    if end <= draft.now {
        return true;
    }
    let wait = draft.until(end);
    draft.plan.look_again(wait);
    false
}

fn stored_reason(draft: &Draft<'_>, kind: &str) -> Option<String> {
    let mut conditions = draft.observed.machine.status.conditions.iter().flatten();
    let stored = conditions.find(|stored| stored.type_ == kind);
    stored.and_then(|stored| stored.reason.clone())
}
