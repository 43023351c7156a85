//! Lists and watches against servers that answer anything.

use std::collections::VecDeque;
use std::sync::Arc;

use http::{Request, Response};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt as _;
use parking_lot::Mutex;
use proptest::prelude::*;
use serde_json::{Value, json};
use tower::service_fn;

use super::*;

/// What a server answers, one after the other, and what it was asked for.
#[derive(Clone, Default)]
struct Script {
    answers: Arc<Mutex<VecDeque<(u16, String)>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Script {
    fn new(answers: impl IntoIterator<Item = (u16, String)>) -> Self {
        let answers = Arc::new(Mutex::new(answers.into_iter().collect()));
        Self {
            answers,
            asked: Arc::default(),
        }
    }

    fn source(&self) -> Source<ConfigMap> {
        let script = self.clone();
        let answer = move |request: Request<Body>| {
            let query = request.uri().query().unwrap_or_default().to_owned();
            script.asked.lock().push(query);
            let (status, text) = script.answers.lock().pop_front().unwrap_or((503, String::new()));
            let response = Response::builder()
                .status(status)
                .body(Body::from(text.into_bytes()));
            async move { response }
        };
        let client = Client::new(service_fn(answer), "default");
        Source::new(Api::all(client), Selector::default(), Trust::Infra)
    }

    /// Runs until the script is at its end; what was learned, in a few words, and the failure.
    async fn run(&self) -> (Vec<String>, RemoteError) {
        let mut learned = Vec::new();
        let on = |event: Event<ConfigMap>| {
            learned.push(match event {
                Event::Init => "begin".to_owned(),
                Event::InitDone => "done".to_owned(),
                Event::InitApply(object) => format!("list {}", object.name_any()),
                Event::InitUnreadable(key) => format!("list unreadable {key}"),
                Event::Apply(object) => format!("apply {}", object.name_any()),
                Event::Unreadable(key) => format!("unreadable {key}"),
                Event::Delete(object) => format!("delete {}", object.name_any()),
            });
        };
        let error = self.source().run(on).await;
        (learned, error)
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().clone()
    }
}

fn object(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "ns", "resourceVersion": "5"}})
}

fn list(items: &[Value], next: &str) -> (u16, String) {
    let metadata = json!({"resourceVersion": "7", "continue": next});
    (
        200,
        json!({"kind": "List", "metadata": metadata, "items": items}).to_string(),
    )
}

fn watch(events: &[(&str, Value)]) -> (u16, String) {
    let lines = events
        .iter()
        .map(|(kind, object)| json!({"type": kind, "object": object}).to_string() + "\n");
    (200, lines.collect())
}

#[tokio::test(start_paused = true)]
async fn pages_and_events_are_delivered_one_by_one_and_undecodable_objects_are_named() {
    let bad = json!({"metadata": {"name": "bad", "namespace": "ns"}, "data": ["not a map"]});
    let bookmark = json!({"metadata": {"resourceVersion": "9", "annotations": {}}, "kind": "ConfigMap", "apiVersion": "v1"});
    let script = Script::new([
        list(&[object("a"), bad.clone()], "more"),
        list(&[json!(7), object("b")], ""),
        watch(&[
            ("ADDED", object("c")),
            ("MODIFIED", bad),
            ("DELETED", object("a")),
            ("BOOKMARK", bookmark),
        ]),
    ]);
    let (learned, error) = script.run().await;
    assert_eq!(
        learned,
        [
            "begin",
            "list a",
            "list unreadable ns/bad",
            "list b",
            "done",
            "apply c",
            "unreadable ns/bad",
            "delete a"
        ]
    );
    assert_eq!(error.code(), Some(503));
    let asked = script.asked();
    assert!(asked[1].contains("continue=more"), "{asked:?}");
    assert!(
        asked[2].contains("resourceVersion=7") && asked[2].contains("allowWatchBookmarks=true"),
        "{asked:?}"
    );
    assert!(
        asked[3].contains("resourceVersion=9"),
        "from the bookmark on: {asked:?}"
    );
}

/// So that the first unreadable object of a kind is seen as an increase.
#[tokio::test]
async fn a_watched_kind_is_counted_from_0() {
    use k8s_openapi::api::core::v1::LimitRange;

    let client = Client::new(
        service_fn(|_: Request<Body>| async { Ok::<_, http::Error>(Response::new(Body::empty())) }),
        "default",
    );
    let _source = Source::<LimitRange>::new(Api::all(client), Selector::default(), Trust::Infra);
    assert!(unreadable::counts().contains(&("LimitRange".to_owned(), 0)));
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_too_large_is_named_and_the_others_are_read() {
    // After the metadata, as API servers write custom resources.
    let mut large = object("large");
    large["spec"] = json!({"x": "y".repeat(OBJECT_BYTES)});
    let script = Script::new([
        list(&[object("a"), large.clone(), object("b")], ""),
        watch(&[("MODIFIED", large), ("ADDED", object("c"))]),
    ]);
    let (learned, _) = script.run().await;
    assert_eq!(
        learned,
        [
            "begin",
            "list a",
            "list unreadable ns/large",
            "list b",
            "done",
            "unreadable ns/large",
            "apply c"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_page_that_is_too_large_is_asked_for_again_with_fewer_objects() {
    let large: Vec<_> = (0..9)
        .map(|n| {
            let mut large = object(&format!("o{n}"));
            large["data"] = json!({"x": "y".repeat(2 * 1024 * 1024)});
            large
        })
        .collect();
    let script = Script::new([list(&large, ""), list(&large[..1], "")]);
    let (learned, _) = script.run().await;
    assert!(
        learned.ends_with(&["list o0".to_owned(), "done".to_owned()]),
        "{learned:?}"
    );
    let asked = script.asked();
    assert!(
        asked[0].contains("limit=500") && asked[1].contains("limit=62"),
        "{asked:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_watch_whose_history_is_gone_begins_with_a_list_again() {
    let gone = json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"});
    let script = Script::new([list(&[], ""), watch(&[("ERROR", gone)]), list(&[object("a")], "")]);
    let mut source = script.source();
    assert_eq!(source.run(|_| {}).await.code(), Some(410));
    assert_eq!(source.run(|_| {}).await.code(), Some(503));
    assert!(script.asked()[2].contains("limit=500"));
}

#[tokio::test(start_paused = true)]
async fn after_a_watch_has_failed_it_goes_on_unless_the_api_server_has_gone_back() {
    let now = |version: &str| {
        let metadata = json!({"resourceVersion": version});
        (
            200,
            json!({"kind": "List", "metadata": metadata, "items": []}).to_string(),
        )
    };
    let away = || (502, String::new());
    let script = Script::new([
        list(&[], ""),
        away(),
        now("8"),
        away(),
        now("6"),
        now("6"),
        away(),
    ]);
    let mut source = script.source();
    for expected in [Some(502), Some(502), None, Some(502)] {
        assert_eq!(source.run(|_| {}).await.code(), expected);
        assert_eq!(source.was_restored(), expected.is_none());
    }
    let asked = script.asked();
    assert!(
        asked[2] == "&limit=1" && asked[3].contains("resourceVersion=7"),
        "{asked:?}"
    );
    assert!(
        asked[4] == "&limit=1" && asked[5].contains("limit=500"),
        "{asked:?}"
    );
    assert!(asked[6].contains("resourceVersion=6"), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ends_each_watch_at_once_is_asked_once_a_second() {
    let script = Script::new(std::iter::once(list(&[], "")).chain((0..10).map(|_| watch(&[]))));
    let begun = Instant::now();
    script.run().await;
    assert!(begun.elapsed() >= 10 * SHORTEST_WATCH);
}

fn junk() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        Just(Value::Null),
        any::<bool>().prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(
                "(metadata|name|namespace|data|items|type|object|kind|.{0,4})",
                inner,
                0..4
            )
            .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Whatever one object is like, the others are reported.
    #[test]
    fn any_json_among_the_objects_hides_none_of_the_others(junk in prop::collection::vec(junk(), 0..4)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let mut items = vec![object("first")];
        items.extend(junk.clone());
        items.push(object("last"));
        let mut events = vec![("ADDED", object("before"))];
        events.extend(junk.into_iter().map(|junk| ("MODIFIED", junk)));
        events.push(("ADDED", object("after")));
        let script = Script::new([list(&items, ""), watch(&events)]);
        let (learned, _) = runtime.block_on(script.run());
        for expected in ["list first", "list last", "apply before", "apply after"] {
            prop_assert!(learned.iter().any(|one| one == expected), "{:?}", learned);
        }
    }
}
