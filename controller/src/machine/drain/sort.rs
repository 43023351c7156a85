//! What becomes of the pods of a draining Node, and what to evict now: a pure function.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use super::budget::Budget;
use super::pod::{Fate, Pod};

/// What the API server answered to an eviction, by the pod's UID.
pub type Answers = HashMap<String, Answer>;

/// What the API server answered to an eviction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Why not, if it refused.
    pub refusal: Option<Refusal>,
    /// Not to be asked again before.
    pub until: Timestamp,
}

/// Why a pod may not be evicted now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// A disruption budget; in the API server's words, and which version of it, if there is only one.
    Budget(String, Option<String>),
    /// Anything else.
    Other(String),
}

/// The pods of a draining Node that are not gone yet, by what they wait for; each list by namespace and name.
#[derive(Debug, Default, PartialEq)]
pub struct Sorted<'a> {
    /// To be evicted now, each with the only budget about it.
    pub evict: Vec<(&'a Pod, Option<&'a Budget>)>,
    /// Asked to end, and still there.
    pub terminating: Vec<&'a Pod>,
    /// Refused last time, some of which are to be tried again now, or that would be refused.
    pub refused: Vec<(&'a Pod, Cow<'a, Refusal>)>,
    /// Those that end by themselves.
    pub completing: Vec<&'a Pod>,
    /// Claims, as `namespace/name`, of those that stay.
    pub kept_claims: BTreeSet<String>,
    /// When the next eviction is due.
    pub again: Option<Timestamp>,
}

/// Sorts the pods of a draining Node.
pub fn sort<'a>(
    pods: &'a [Arc<Pod>],
    answers: &'a Answers,
    budgets: &'a [Arc<Budget>],
    now: Timestamp,
) -> Sorted<'a> {
    let mut pods: Vec<&Pod> = pods.iter().map(Arc::as_ref).collect();
    pods.sort_by_key(|pod| (pod.namespace(), pod.name()));
    let mut sorted = Sorted::default();
    for pod in pods {
        match pod.fate() {
            // What has ended needs its volumes no more.
            Fate::Stays if pod.finished => {}
            Fate::Stays => {
                let claims = pod.claims.iter();
                let claims = claims.map(|claim| format!("{}/{claim}", pod.namespace()));
                sorted.kept_claims.extend(claims);
            }
            _ if pod.is_terminating() => sorted.terminating.push(pod),
            Fate::Completes => sorted.completing.push(pod),
            Fate::Goes => sorted.push(pod, answers.get(pod.uid()), only(budgets, pod), now),
        }
    }
    sorted
}

/// The budget that decides whether the pod may go, if it is the only one about it. Of a pod that is not Ready, only the API
/// server can tell.
fn only<'a>(budgets: &'a [Arc<Budget>], pod: &Pod) -> Option<&'a Budget> {
    let mut covering = budgets.iter().filter(|budget| budget.covers(pod));
    match (covering.next(), covering.next()) {
        (Some(budget), None) if pod.ready => Some(budget),
        _ => None,
    }
}

/// How many different refusals are reported.
const REFUSALS: usize = 5;

/// How many pods of one kind are reported by name.
const NAMES: usize = 3;

impl<'a> Sorted<'a> {
    /// A pod that has to go and has not been asked to.
    fn push(&mut self, pod: &'a Pod, answer: Option<&'a Answer>, budget: Option<&'a Budget>, now: Timestamp) {
        let waits = answer.filter(|answer| answer.until > now);
        if let Some(Answer { refusal: None, .. }) = waits {
            self.terminating.push(pod);
            self.requeue_after(waits);
            return;
        }
        // What it lets go, or not, is known without asking; and what it did not let go, it may now.
        if let Some(spent) = budget.filter(|budget| budget.is_spent()) {
            let refusal = Refusal::Budget(spent.refusal(), Some(spent.version().to_owned()));
            self.refused.push((pod, Cow::Owned(refusal)));
            return;
        }
        let refusal = answer.and_then(|answer| answer.refusal.as_ref());
        if let Some(refusal) = refusal {
            self.refused.push((pod, Cow::Borrowed(refusal)));
        }
        let is_news = match (refusal, budget) {
            (Some(Refusal::Budget(_, Some(then))), Some(budget)) => then != budget.version(),
            _ => false,
        };
        if waits.is_none() || is_news {
            self.evict.push((pod, budget));
        } else {
            self.requeue_after(waits);
        }
    }

    fn requeue_after(&mut self, answer: Option<&Answer>) {
        self.again = self
            .again
            .into_iter()
            .chain(answer.map(|answer| answer.until))
            .min();
    }

    /// Whether no pod is waited for any more.
    pub fn is_over(&self) -> bool {
        self.evict.is_empty()
            && self.terminating.is_empty()
            && self.refused.is_empty()
            && self.completing.is_empty()
    }

    /// How many pods a disruption budget does not let go.
    pub fn blocked(&self) -> usize {
        let refusals = self.refused.iter().map(|(_, refusal)| refusal.as_ref());
        refusals
            .filter(|refusal| matches!(refusal, Refusal::Budget(..)))
            .count()
    }

    /// Whether a disruption budget is in the way.
    pub fn is_blocked(&self) -> bool {
        self.blocked() > 0
    }

    /// What is waited for, for a person.
    pub fn message(&self) -> String {
        let mut parts = Vec::new();
        let mut causes: BTreeMap<String, Vec<&Pod>> = BTreeMap::new();
        for (pod, refusal) in &self.refused {
            let cause = match refusal.as_ref() {
                Refusal::Budget(text, _) => {
                    format!("cannot be evicted without violating a disruption budget: {text}")
                }
                Refusal::Other(text) => format!("cannot be evicted: {text}"),
            };
            causes.entry(cause).or_default().push(pod);
        }
        let others = causes.values().skip(REFUSALS).map(Vec::len).sum::<usize>();
        for (cause, pods) in causes.iter().take(REFUSALS) {
            parts.push(format!("{} {cause}", names(pods)));
        }
        if others > 0 {
            parts.push(format!("{others} more for other reasons"));
        }
        let refused: BTreeSet<&str> = self.refused.iter().map(|(pod, _)| pod.uid()).collect();
        let fresh = self.evict.iter().map(|(pod, _)| *pod);
        let fresh: Vec<&Pod> = fresh.filter(|pod| !refused.contains(pod.uid())).collect();
        for (pods, what) in [
            (&fresh, "to be evicted"),
            (&self.terminating, "terminating and still on the Node"),
            (&self.completing, "waited for to complete by themselves"),
        ] {
            if !pods.is_empty() {
                parts.push(format!("{} {what}", names(pods)));
            }
        }
        parts.join("; ")
    }
}

fn names(pods: &[&Pod]) -> String {
    let named: Vec<String> = pods
        .iter()
        .take(NAMES)
        .map(|pod| format!("{}/{}", pod.namespace(), pod.name()))
        .collect();
    let (plural, more) = (
        if pods.len() == 1 { "" } else { "s" },
        pods.len().saturating_sub(NAMES),
    );
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!("pod{plural} {}{more}", named.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn pod(name: &str, extra: &Value) -> Arc<Pod> {
        let mut pod = json!({"metadata": {"name": name, "namespace": "ns", "uid": name}});
        json_patch::merge(&mut pod, extra);
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn labeled(rule: &str) -> Value {
        json!({"metadata": {"labels": {"cluster.x-k8s.io/drain": rule}}})
    }

    fn answer(refusal: Option<Refusal>, until: i64) -> Answer {
        Answer {
            refusal,
            until: at(until),
        }
    }

    fn of<'a>(pods: &[&'a Pod]) -> Vec<&'a str> {
        pods.iter().map(|pod| pod.name()).collect()
    }

    fn evicted<'a>(sorted: &Sorted<'a>) -> Vec<&'a str> {
        sorted.evict.iter().map(|(pod, _)| pod.name()).collect()
    }

    fn ready(name: &str) -> Arc<Pod> {
        pod(
            name,
            &json!({"metadata": {"labels": {"app": "web"}}, "status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}]}}),
        )
    }

    fn budget(name: &str, version: &str, allowed: i64) -> Arc<Budget> {
        let budget = json!({
            "metadata": {"name": name, "namespace": "ns", "generation": 1, "resourceVersion": version},
            "spec": {"selector": {"matchLabels": {"app": "web"}}},
            "status": {"observedGeneration": 1, "disruptionsAllowed": allowed, "desiredHealthy": 2, "currentHealthy": 2},
        });
        Arc::new(serde_json::from_value(budget).unwrap())
    }

    #[rstest]
    #[case::that_is_spent_is_not_asked(vec![budget("a", "1", 0)], &[], true)]
    #[case::that_has_room_is(vec![budget("a", "1", 1)], &["a"], false)]
    #[case::among_two_that_are_spent_is_for_the_api_server_to_tell(vec![budget("a", "1", 0), budget("b", "1", 0)], &["a"], false)]
    fn a_budget(#[case] budgets: Vec<Arc<Budget>>, #[case] goes: &[&str], #[case] blocked: bool) {
        let pods = [ready("a")];
        let none = Answers::new();
        let sorted = sort(&pods, &none, &budgets, at(0));
        assert_eq!(evicted(&sorted), goes);
        assert_eq!(sorted.is_blocked(), blocked);
        assert!(!sorted.is_over());
        if blocked {
            assert!(
                sorted
                    .message()
                    .contains("The disruption budget a needs 2 healthy pods and has 2 currently")
            );
        }
    }

    #[test]
    fn of_a_pod_that_is_not_ready_only_the_api_server_can_tell() {
        let pods = [pod("a", &json!({"metadata": {"labels": {"app": "web"}}}))];
        let (none, budgets) = (Answers::new(), [budget("a", "1", 0)]);
        assert_eq!(evicted(&sort(&pods, &none, &budgets, at(0))), ["a"]);
    }

    #[rstest]
    #[case::not_while_the_budget_is_the_same("1", 1, &[])]
    #[case::not_while_it_is_spent("2", 0, &[])]
    #[case::at_once_when_it_has_room_again("2", 1, &["a"])]
    fn what_a_budget_refused_is_asked_again(
        #[case] version: &str,
        #[case] allowed: i64,
        #[case] goes: &[&str],
    ) {
        let pods = [ready("a")];
        let refusal = Refusal::Budget("b".into(), Some("1".into()));
        let answers = Answers::from([("a".to_owned(), answer(Some(refusal), 30))]);
        let budgets = [budget("a", version, allowed)];
        assert_eq!(evicted(&sort(&pods, &answers, &budgets, at(0))), goes);
    }

    #[test]
    fn a_pod_that_may_go_already_is_not_held_against_its_budget() {
        let pods = [ready("a")];
        let answers = Answers::from([("a".to_owned(), answer(None, 30))]);
        let budgets = [budget("a", "1", 0)];
        let sorted = sort(&pods, &answers, &budgets, at(0));
        assert!(!sorted.is_blocked() && evicted(&sorted).is_empty());
        assert_eq!(of(&sorted.terminating), ["a"]);
    }

    #[test]
    fn pods_are_evicted_by_namespace_and_name_and_those_that_stay_are_not() {
        let pods = [
            pod("b", &json!({})),
            pod("z", &json!({"metadata": {"namespace": "a"}})),
            pod("a", &json!({})),
            pod("c", &labeled("skip")),
        ];
        let none = Answers::new();
        let sorted = sort(&pods, &none, &[], at(0));
        assert_eq!(evicted(&sorted), ["z", "a", "b"]);
        assert!(!sorted.is_over() && !sorted.is_blocked());
    }

    #[test]
    fn a_node_is_drained_when_only_those_are_left_that_stay() {
        let pods = [
            pod("a", &labeled("skip")),
            pod("b", &json!({"status": {"phase": "Succeeded"}})),
            pod(
                "c",
                &json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": ""},
                "deletionTimestamp": "2026-01-01T12:00:00Z"}}),
            ),
        ];
        assert!(sort(&pods, &Answers::new(), &[], at(0)).is_over());
        assert!(sort(&[], &Answers::new(), &[], at(0)).is_over());
    }

    #[test]
    fn what_ends_by_itself_is_waited_for_and_never_evicted() {
        let pods = [pod("a", &labeled("wait-completed"))];
        let none = Answers::new();
        let sorted = sort(&pods, &none, &[], at(0));
        assert_eq!((of(&sorted.completing), sorted.evict.len()), (vec!["a"], 0));
        assert!(!sorted.is_over());
    }

    #[test]
    fn a_terminating_pod_is_waited_for_and_not_evicted_again() {
        let terminating = json!({"metadata": {"deletionTimestamp": "2026-01-01T12:00:00Z"}});
        let pods = [pod("a", &terminating)];
        let answers = Answers::from([("a".to_owned(), answer(None, -9))]);
        let sorted = sort(&pods, &answers, &[], at(0));
        assert_eq!((of(&sorted.terminating), sorted.evict.len()), (vec!["a"], 0));
    }

    #[rstest]
    #[case::one_that_was_accepted_waits_for_its_pod_to_end(answer(None, 5), 0, &[], false)]
    #[case::one_that_was_accepted_and_did_nothing_is_repeated(answer(None, 5), 5, &["a"], false)]
    #[case::one_that_a_budget_refused_waits(answer(Some(Refusal::Budget("b".into(), None)), 5), 4, &[], true)]
    #[case::one_that_a_budget_refused_is_repeated(answer(Some(Refusal::Budget("b".into(), None)), 5), 5, &["a"], true)]
    #[case::one_that_was_refused_otherwise_waits(answer(Some(Refusal::Other("b".into())), 5), 4, &[], false)]
    fn an_eviction(#[case] answer: Answer, #[case] now: i64, #[case] goes: &[&str], #[case] blocked: bool) {
        let pods = [pod("a", &json!({}))];
        let answers = Answers::from([("a".to_owned(), answer)]);
        let sorted = sort(&pods, &answers, &[], at(now));
        assert_eq!(evicted(&sorted), goes);
        assert_eq!(sorted.is_blocked(), blocked);
        assert!(!sorted.is_over());
        assert_eq!(sorted.again.is_some(), goes.is_empty(), "it comes back by itself");
    }

    #[test]
    fn an_answer_about_a_pod_says_nothing_of_another_of_its_name() {
        let pods = [pod("a", &json!({"metadata": {"uid": "new"}}))];
        let answers = Answers::from([("a".to_owned(), answer(None, 5))]);
        assert_eq!(evicted(&sort(&pods, &answers, &[], at(0))), ["a"]);
    }

    #[test]
    fn the_claims_of_those_that_stay_are_known_but_for_what_has_ended() {
        let mut volumes = labeled("skip");
        volumes["spec"] = json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]});
        let mut ended = volumes.clone();
        ended["status"] = json!({"phase": "Failed"});
        ended["metadata"]["namespace"] = json!("other");
        let pods = [pod("a", &volumes), pod("b", &ended)];
        let none = Answers::new();
        let kept: Vec<_> = sort(&pods, &none, &[], at(0)).kept_claims.into_iter().collect();
        assert_eq!(kept, ["ns/c"]);
    }

    #[test]
    fn the_message_names_budgets_and_pods_by_what_they_wait_for() {
        let mut pods: Vec<_> = ["a", "b", "c", "d", "e"].map(|name| pod(name, &json!({}))).into();
        pods.push(pod(
            "f",
            &json!({"metadata": {"deletionTimestamp": "2026-01-01T12:00:00Z"}}),
        ));
        pods.push(pod("g", &labeled("wait-completed")));
        let budget = || {
            Some(Refusal::Budget(
                "The disruption budget web needs 4 healthy pods and has 4 currently".into(),
                None,
            ))
        };
        let mut answers: Answers = ["a", "b", "c", "d"]
            .map(|name| (name.to_owned(), answer(budget(), 5)))
            .into();
        answers.insert(
            "e".into(),
            answer(Some(Refusal::Other("403 Forbidden".into())), 5),
        );
        let sorted = sort(&pods, &answers, &[], at(0));
        assert_eq!(
            sorted.message(),
            "pods ns/a, ns/b, ns/c and 1 more cannot be evicted without violating a disruption budget: The disruption budget web \
             needs 4 healthy pods and has 4 currently; pod ns/e cannot be evicted: 403 Forbidden; pod ns/f terminating and still on \
             the Node; pod ns/g waited for to complete by themselves"
        );
    }
}
