//! What becomes of the pods of a draining Node, and what to evict now: a pure function.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

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
    /// A disruption budget; in the API server's words.
    Budget(String),
    /// Anything else.
    Other(String),
}

/// The pods of a draining Node that are not gone yet, by what they wait for; each list by namespace and name.
#[derive(Debug, Default, PartialEq)]
pub struct Sorted<'a> {
    /// To be evicted now.
    pub evict: Vec<&'a Pod>,
    /// Told to end, and still there.
    pub terminating: Vec<&'a Pod>,
    /// Refused last time, some of which are to be tried again now.
    pub refused: Vec<(&'a Pod, &'a Refusal)>,
    /// Those that end by themselves.
    pub completing: Vec<&'a Pod>,
    /// Claims, as `namespace/name`, of those that stay.
    pub kept_claims: BTreeSet<String>,
    /// When the next eviction is due.
    pub again: Option<Timestamp>,
}

/// Sorts the pods of a draining Node.
pub fn sort<'a>(pods: &'a [Arc<Pod>], answers: &'a Answers, now: Timestamp) -> Sorted<'a> {
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
            Fate::Goes => sorted.to_go(pod, answers.get(pod.uid()), now),
        }
    }
    sorted
}

/// How many different refusals are told.
const REFUSALS: usize = 5;

/// How many pods of one kind are told by name.
const NAMES: usize = 3;

impl<'a> Sorted<'a> {
    fn to_go(&mut self, pod: &'a Pod, answer: Option<&'a Answer>, now: Timestamp) {
        let Some(answer) = answer else {
            self.evict.push(pod);
            return;
        };
        let due = answer.until <= now;
        if due {
            self.evict.push(pod);
        } else {
            let again = self.again.map_or(answer.until, |again| again.min(answer.until));
            self.again = Some(again);
        }
        match &answer.refusal {
            Some(refusal) => self.refused.push((pod, refusal)),
            None if !due => self.terminating.push(pod),
            None => {}
        }
    }

    /// Whether no pod is waited for any more.
    pub fn is_over(&self) -> bool {
        self.evict.is_empty()
            && self.terminating.is_empty()
            && self.refused.is_empty()
            && self.completing.is_empty()
    }

    /// Whether a disruption budget is in the way.
    pub fn is_blocked(&self) -> bool {
        self.refused
            .iter()
            .any(|(_, refusal)| matches!(refusal, Refusal::Budget(_)))
    }

    /// What is waited for, for a person.
    pub fn message(&self) -> String {
        let mut parts = Vec::new();
        let mut causes: BTreeMap<String, Vec<&Pod>> = BTreeMap::new();
        for (pod, refusal) in &self.refused {
            let cause = match refusal {
                Refusal::Budget(text) => {
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
        let fresh = self.evict.iter().copied();
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

    fn labelled(rule: &str) -> Value {
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

    #[test]
    fn pods_are_evicted_by_namespace_and_name_and_those_that_stay_are_not() {
        let pods = [
            pod("b", &json!({})),
            pod("z", &json!({"metadata": {"namespace": "a"}})),
            pod("a", &json!({})),
            pod("c", &labelled("skip")),
        ];
        let none = Answers::new();
        let sorted = sort(&pods, &none, at(0));
        assert_eq!(of(&sorted.evict), ["z", "a", "b"]);
        assert!(!sorted.is_over() && !sorted.is_blocked());
    }

    #[test]
    fn a_node_is_drained_when_only_those_are_left_that_stay() {
        let pods = [
            pod("a", &labelled("skip")),
            pod("b", &json!({"status": {"phase": "Succeeded"}})),
            pod(
                "c",
                &json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": ""},
                "deletionTimestamp": "2026-01-01T12:00:00Z"}}),
            ),
        ];
        assert!(sort(&pods, &Answers::new(), at(0)).is_over());
        assert!(sort(&[], &Answers::new(), at(0)).is_over());
    }

    #[test]
    fn what_ends_by_itself_is_waited_for_and_never_evicted() {
        let pods = [pod("a", &labelled("wait-completed"))];
        let none = Answers::new();
        let sorted = sort(&pods, &none, at(0));
        assert_eq!((of(&sorted.completing), sorted.evict.len()), (vec!["a"], 0));
        assert!(!sorted.is_over());
    }

    #[test]
    fn a_terminating_pod_is_waited_for_and_not_evicted_again() {
        let terminating = json!({"metadata": {"deletionTimestamp": "2026-01-01T12:00:00Z"}});
        let pods = [pod("a", &terminating)];
        let answers = Answers::from([("a".to_owned(), answer(None, -9))]);
        let sorted = sort(&pods, &answers, at(0));
        assert_eq!((of(&sorted.terminating), sorted.evict.len()), (vec!["a"], 0));
    }

    #[rstest]
    #[case::one_that_was_accepted_waits_for_its_pod_to_end(answer(None, 5), 0, &[], false)]
    #[case::one_that_was_accepted_and_did_nothing_is_repeated(answer(None, 5), 5, &["a"], false)]
    #[case::one_that_a_budget_refused_waits(answer(Some(Refusal::Budget("b".into())), 5), 4, &[], true)]
    #[case::one_that_a_budget_refused_is_repeated(answer(Some(Refusal::Budget("b".into())), 5), 5, &["a"], true)]
    #[case::one_that_was_refused_otherwise_waits(answer(Some(Refusal::Other("b".into())), 5), 4, &[], false)]
    fn an_eviction(
        #[case] answer: Answer,
        #[case] now: i64,
        #[case] evicted: &[&str],
        #[case] blocked: bool,
    ) {
        let pods = [pod("a", &json!({}))];
        let answers = Answers::from([("a".to_owned(), answer)]);
        let sorted = sort(&pods, &answers, at(now));
        assert_eq!(of(&sorted.evict), evicted);
        assert_eq!(sorted.is_blocked(), blocked);
        assert!(!sorted.is_over());
        assert_eq!(
            sorted.again.is_some(),
            evicted.is_empty(),
            "it comes back by itself"
        );
    }

    #[test]
    fn an_answer_about_a_pod_says_nothing_of_another_of_its_name() {
        let pods = [pod("a", &json!({"metadata": {"uid": "new"}}))];
        let answers = Answers::from([("a".to_owned(), answer(None, 5))]);
        assert_eq!(of(&sort(&pods, &answers, at(0)).evict), ["a"]);
    }

    #[test]
    fn the_claims_of_those_that_stay_are_known_but_for_what_has_ended() {
        let mut volumes = labelled("skip");
        volumes["spec"] = json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]});
        let mut ended = volumes.clone();
        ended["status"] = json!({"phase": "Failed"});
        ended["metadata"]["namespace"] = json!("other");
        let pods = [pod("a", &volumes), pod("b", &ended)];
        let none = Answers::new();
        let kept: Vec<_> = sort(&pods, &none, at(0)).kept_claims.into_iter().collect();
        assert_eq!(kept, ["ns/c"]);
    }

    #[test]
    fn the_message_names_budgets_and_pods_by_what_they_wait_for() {
        let mut pods: Vec<_> = ["a", "b", "c", "d", "e"].map(|name| pod(name, &json!({}))).into();
        pods.push(pod(
            "f",
            &json!({"metadata": {"deletionTimestamp": "2026-01-01T12:00:00Z"}}),
        ));
        pods.push(pod("g", &labelled("wait-completed")));
        let budget = || {
            Some(Refusal::Budget(
                "The disruption budget web needs 4 healthy pods and has 4 currently".into(),
            ))
        };
        let mut answers: Answers = ["a", "b", "c", "d"]
            .map(|name| (name.to_owned(), answer(budget(), 5)))
            .into();
        answers.insert(
            "e".into(),
            answer(Some(Refusal::Other("403 Forbidden".into())), 5),
        );
        let sorted = sort(&pods, &answers, at(0));
        assert_eq!(
            sorted.message(),
            "pods ns/a, ns/b, ns/c and 1 more cannot be evicted without violating a disruption budget: The disruption budget web \
             needs 4 healthy pods and has 4 currently; pod ns/e cannot be evicted: 403 Forbidden; pod ns/f terminating and still on \
             the Node; pod ns/g waited for to complete by themselves"
        );
    }
}
