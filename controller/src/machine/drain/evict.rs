//! Asks the API server to evict pods, and to whom volumes belong. What it answers is noted, not returned: a refusal is no
//! failure.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Api;
use kube::api::PostParams;
use kube::core::Status;
use machinist_infra::cache::store::Key;
use machinist_infra::kube::error::RemoteError;
use serde_json::json;

use super::budget::Budget;
use super::sort::{Answer, Refusal};
use super::target::Target;
use super::watch::{Claim, Drains};
use crate::cache::StoredMachine;
use crate::context::Context;
use crate::telemetry::metrics::Eviction;

/// Why pods are evicted, for the log.
const WHY: &str = "the Machine is being deleted, and its Node is drained before";

/// Evictions that are asked for at once, for one Node.
const AT_ONCE: usize = 8;

/// When to ask again: of a pod that should be terminating but is not, and of one that may not be evicted, or of a volume
/// that cannot be read.
const ACCEPTED: Duration = Duration::from_secs(30);
const REFUSED: Duration = Duration::from_secs(5);
/// The same, where the budget that refused it is watched.
const SPENT: Duration = Duration::from_secs(30);

/// Asks to evict each of these pods, by its own grace period, and notes the answers.
pub async fn evict(context: &Context, drains: &Drains, machine: &StoredMachine, targets: &[Target]) {
    let (machine, machine_uid) = (&Key::of(machine), machine.uid());
    stream::iter(targets)
        .for_each_concurrent(AT_ONCE, |target| async move {
            if !context.may_write() {
                return;
            }
            let budget = target.budget.as_ref();
            let budget = budget.and_then(|name| drains.budget(&Key::new(&target.namespace, name)));
            if let Some(budget) = &budget
                && !drains.claim(budget)
            {
                // Another client's pod goes first.
                let answer = spent(budget, context.now());
                drains.answered(machine, &target.uid, answer);
                return;
            }
            let result = ask(context, target).await;
            if let Some(budget) = &budget
                && result.is_err()
            {
                drains.unclaim(budget);
            }
            let answer = answer(result, budget.as_deref(), context.now());
            let (eviction, refusal) = match &answer.refusal {
                None => (Eviction::Accepted, None),
                Some(Refusal::Budget(why, _)) => (Eviction::Blocked, Some(why)),
                Some(Refusal::Other(why)) => (Eviction::Failed, Some(why)),
            };
            context.metrics.count_eviction(eviction);
            let pod = format!("{}/{}", target.namespace, target.name);
            // What was refused has changed nothing, and may be asked for every few seconds; the condition has it.
            match refusal {
                None => tracing::info!(%machine, uid = machine_uid, pod, why = WHY, "evict a pod"),
                Some(why) => {
                    tracing::debug!(%machine, uid = machine_uid, pod, why, "a pod may not be evicted");
                }
            }
            drains.answered(machine, &target.uid, answer);
        })
        .await;
}

/// One eviction of exactly that pod.
async fn ask(context: &Context, target: &Target) -> Result<(), kube::Error> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &target.namespace);
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"namespace": target.namespace, "name": target.name},
        "deleteOptions": {"preconditions": {"uid": target.uid}},
    });
    // kube's own `evict` spells `deleteOptions` otherwise, so that its preconditions are lost.
    api.create_subresource::<_, Status>("eviction", &target.name, &PostParams::default(), &eviction)
        .await
        .map(drop)
}

fn spent(budget: &Budget, now: Timestamp) -> Answer {
    let refusal = Refusal::Budget(budget.refusal(), Some(budget.version().to_owned()));
    Answer {
        refusal: Some(refusal),
        until: after(now, SPENT),
    }
}

fn after(now: Timestamp, pause: Duration) -> Timestamp {
    let pause = SignedDuration::try_from(pause).unwrap_or(SignedDuration::ZERO);
    now.saturating_add(pause).unwrap_or(now)
}

/// What the API server's answer says, where `budget` is the only one about the pod, as it was known before.
fn answer(result: Result<(), kube::Error>, budget: Option<&Budget>, now: Timestamp) -> Answer {
    let refusal = match result {
        Ok(()) => None,
        // Gone, or another of its name by now.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => None,
        Err(kube::Error::Api(status)) if status.code == 429 => Some(too_many(&status, budget)),
        Err(error) => Some(Refusal::Other(RemoteError::from(&error).to_string())),
    };
    let pause = match &refusal {
        None => ACCEPTED,
        Some(Refusal::Budget(_, Some(_))) => SPENT,
        Some(_) => REFUSED,
    };
    Answer {
        refusal,
        until: after(now, pause),
    }
}

/// A budget says itself what it needs and has; without that, it is the API server that has too much to do.
fn too_many(status: &Status, budget: Option<&Budget>) -> Refusal {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let budgets: Vec<&str> = causes
        .filter(|cause| cause.reason == "DisruptionBudget")
        .map(|cause| cause.message.as_str())
        .collect();
    if budgets.is_empty() {
        Refusal::Other(status.message.chars().take(300).collect())
    } else {
        let version = budget.map(|budget| budget.version().to_owned());
        Refusal::Budget(budgets.join(", ").chars().take(300).collect(), version)
    }
}

/// Notes which claims these volumes belong to. What cannot be read is asked for again, for it would else be waited for.
pub async fn look_up(context: &Context, drains: &Drains, machine: &Key, volumes: &[String]) {
    let api: Api<PersistentVolume> = Api::all(context.client.clone());
    for volume in volumes {
        let claim = match api.get_opt(volume).await {
            Ok(found) => found
                .and_then(|volume| volume.spec?.claim_ref)
                .and_then(|claim| Some(format!("{}/{}", claim.namespace?, claim.name?)))
                .map_or(Claim::None, Claim::Known),
            Err(error) => {
                tracing::warn!(machine = %machine, volume, %error, "cannot read a volume");
                Claim::Unread(after(context.now(), REFUSED))
            }
        };
        drains.claimed(machine, volume, claim);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::Value;

    fn refused(status: Value) -> Result<(), kube::Error> {
        Err(kube::Error::Api(Box::new(
            serde_json::from_value(status).unwrap(),
        )))
    }

    fn budget() -> Value {
        // As an API server of 1.36 answers.
        json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 429, "reason": "TooManyRequests",
            "message": "Cannot evict pod as it would violate the pod's disruption budget.",
            "details": {"causes": [{"reason": "DisruptionBudget",
                "message": "The disruption budget web needs 2 healthy pods and has 2 currently"}]},
        })
    }

    #[rstest]
    #[case::accepted(Ok(()), None, 30)]
    #[case::a_pod_that_is_gone_is_evicted(refused(json!({"code": 404})), None, 30)]
    #[case::another_pod_of_its_name(refused(json!({"code": 409})), None, 30)]
    #[case::a_budget_is_named(
        refused(budget()),
        Some(Refusal::Budget("The disruption budget web needs 2 healthy pods and has 2 currently".into(), None)), 5)]
    #[case::a_busy_api_server_is_no_budget(
        refused(json!({"code": 429, "message": "too many requests"})), Some(Refusal::Other("too many requests".into())), 5)]
    fn an_answer(
        #[case] result: Result<(), kube::Error>,
        #[case] refusal: Option<Refusal>,
        #[case] pause: i64,
    ) {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let answer = answer(result, None, now);
        assert_eq!(answer.refusal, refusal);
        assert_eq!(answer.until.duration_since(now).as_secs(), pause);
    }

    #[test]
    fn two_budgets_for_one_pod_are_reported_in_the_api_servers_words() {
        let text = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let answer = answer(
            refused(json!({"code": 500, "reason": "InternalError", "message": text})),
            None,
            now,
        );
        assert!(matches!(answer.refusal, Some(Refusal::Other(reported)) if reported.contains(text)));
    }
}
