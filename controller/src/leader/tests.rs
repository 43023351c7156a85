//! The election over HTTP, in short time, against a server that keeps one Lease as the API server does.

use std::convert::Infallible;
use std::sync::Mutex;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

#[derive(Default)]
struct Server {
    lease: Option<Value>,
    version: u64,
    down: bool,
    /// What watches see.
    changes: watch::Sender<Option<Value>>,
}

type Shared = Arc<Mutex<Server>>;

impl Server {
    fn answer(&mut self, method: &Method, path: &str, body: &[u8]) -> (StatusCode, Value) {
        assert!(
            path.starts_with("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"),
            "{path}"
        );
        let refuse = |code: StatusCode, reason: &str| {
            (
                code,
                json!({"kind": "Status", "status": "Failure", "code": code.as_u16(), "reason": reason, "message": reason}),
            )
        };
        if self.down {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable");
        }
        let current = self
            .lease
            .as_ref()
            .map(|lease| lease["metadata"]["resourceVersion"].clone());
        match (method, current) {
            (&Method::GET, Some(_)) => (StatusCode::OK, self.lease.clone().unwrap()),
            (&Method::GET | &Method::PUT, None) => refuse(StatusCode::NOT_FOUND, "NotFound"),
            (&Method::POST, Some(_)) => refuse(StatusCode::CONFLICT, "AlreadyExists"),
            (_, current) => {
                let mut lease: Value = serde_json::from_slice(body).unwrap();
                if current.is_some_and(|version| version != lease["metadata"]["resourceVersion"]) {
                    return refuse(StatusCode::CONFLICT, "Conflict");
                }
                self.version += 1;
                lease["metadata"]["resourceVersion"] = json!(self.version.to_string());
                self.lease = Some(lease.clone());
                self.changes.send_replace(self.lease.clone());
                (StatusCode::OK, lease)
            }
        }
    }
}

fn client(server: &Shared) -> Client {
    let server = server.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let server = server.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await.unwrap();
            if parts.uri.query().unwrap_or_default().contains("watch=true") {
                let changes = server.lock().unwrap().changes.subscribe();
                return Ok(Response::new(StreamBody::new(events(changes)).boxed_unsync()));
            }
            let (code, answer) = server
                .lock()
                .unwrap()
                .answer(&parts.method, parts.uri.path(), &body);
            let answer = Full::new(Bytes::from(serde_json::to_vec(&answer).unwrap())).boxed_unsync();
            Ok::<_, Infallible>(Response::builder().status(code).body(answer).unwrap())
        }
    });
    Client::new(service, "kube-system")
}

/// A watch's answer: every change from now on.
fn events(
    changes: watch::Receiver<Option<Value>>,
) -> impl futures::Stream<Item = Result<Frame<Bytes>, Infallible>> {
    futures::stream::unfold(changes, async |mut changes| {
        changes.changed().await.ok()?;
        let event = json!({"type": "MODIFIED", "object": *changes.borrow_and_update()});
        Some((Ok(Frame::data(Bytes::from(format!("{event}\n")))), changes))
    })
}

/// About ten times as fast as in production.
fn elector(server: &Shared, identity: &str) -> Elector {
    let timing = Timing {
        lease: Duration::from_secs(2),
        deadline: Duration::from_secs(1),
        retry: Duration::from_millis(200),
    };
    let config = ElectorConfig {
        timing,
        ..ElectorConfig::new(
            "machine-controller".to_owned(),
            "kube-system".to_owned(),
            identity.to_owned(),
        )
    };
    Elector::new(client(server), config)
}

fn holder(server: &Shared) -> String {
    server.lock().unwrap().lease.as_ref().unwrap()["spec"]["holderIdentity"]
        .as_str()
        .unwrap()
        .to_owned()
}

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_leader_renews_and_hands_over_when_it_leaves() {
    let server = Shared::default();
    let (first, second) = (elector(&server, "first"), elector(&server, "second"));
    let (fence, other) = (first.fence(), second.fence());
    assert!(!fence.may_write());
    let leadership = first.acquire().await;
    assert!(fence.may_write());
    assert!(
        tokio::time::timeout(Duration::from_secs(3), second.acquire())
            .await
            .is_err(),
        "it is held"
    );
    assert!(fence.may_write(), "it was renewed all the while");
    assert!(!other.may_write());
    assert!(server.lock().unwrap().version > 5);
    assert!(
        tokio::time::timeout(Duration::ZERO, leadership.lost())
            .await
            .is_err()
    );

    leadership.release().await;
    assert!(!fence.may_write());
    assert_eq!(holder(&server), "");
    let leadership = tokio::time::timeout(Duration::from_secs(1), second.acquire())
        .await
        .unwrap();
    assert_eq!(holder(&server), "second");
    assert!(other.may_write());
    let spec = server.lock().unwrap().lease.clone().unwrap()["spec"].clone();
    assert_eq!(spec["leaseTransitions"], 1);
    // Microseconds, as other programs' decoders demand.
    assert_eq!(
        spec["renewTime"].as_str().unwrap().len(),
        "2026-01-01T00:00:00.000000Z".len()
    );
    leadership.release().await;
}

#[tokio::test]
async fn who_stands_by_leads_as_soon_as_the_lease_is_released() {
    let server = Shared::default();
    let leadership = elector(&server, "first").acquire().await;
    let mut second = elector(&server, "second");
    // Not by its next try.
    second.config.timing.retry = Duration::from_hours(1);
    let standby = tokio::spawn(async move { second.acquire().await });
    let watches = || server.lock().unwrap().changes.receiver_count();
    while watches() == 0 {
        tokio::task::yield_now().await;
    }
    leadership.release().await;
    let leadership = tokio::time::timeout(SOON, standby).await.unwrap().unwrap();
    assert_eq!(holder(&server), "second");
    drop(leadership);
}

#[tokio::test]
async fn a_leader_that_cannot_renew_notices_and_its_fence_closes() {
    let server = Shared::default();
    let elector = elector(&server, "a");
    let fence = elector.fence();
    let leadership = elector.acquire().await;
    server.lock().unwrap().down = true;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(fence.may_write(), "a short outage is no loss");
    tokio::time::timeout(SOON, leadership.lost()).await.unwrap();
    assert!(!fence.may_write());
    server.lock().unwrap().down = false;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!fence.may_write(), "what is lost stays lost");
}

#[tokio::test]
async fn a_leader_notices_that_another_took_the_lease() {
    let server = Shared::default();
    let elector = elector(&server, "a");
    let fence = elector.fence();
    let leadership = elector.acquire().await;
    {
        let mut server = server.lock().unwrap();
        server.version += 1;
        let version = server.version.to_string();
        let lease = server.lease.as_mut().unwrap();
        lease["metadata"]["resourceVersion"] = json!(version);
        lease["spec"]["holderIdentity"] = json!("thief");
    }
    tokio::time::timeout(SOON, leadership.lost()).await.unwrap();
    assert!(!fence.may_write());
    leadership.release().await;
    assert_eq!(
        holder(&server),
        "thief",
        "a Lease of another client is not emptied"
    );
}

#[tokio::test]
async fn a_fence_does_not_rely_on_the_renewing_task() {
    let server = Shared::default();
    let elector = elector(&server, "a");
    let fence = elector.fence();
    let leadership = elector.acquire().await;
    // Nothing on this runtime runs meanwhile, as in a process that is stopped.
    std::thread::sleep(Duration::from_millis(1_100));
    assert!(!fence.may_write());
    tokio::time::timeout(SOON, leadership.lost()).await.unwrap();
    assert_eq!(server.lock().unwrap().version, 1, "woken late, it writes nothing");
}

#[tokio::test]
async fn a_lease_that_changed_since_the_last_renewal_is_released_all_the_same() {
    let server = Shared::default();
    let leadership = elector(&server, "a").acquire().await;
    {
        let mut server = server.lock().unwrap();
        server.version += 1;
        let version = server.version.to_string();
        server.lease.as_mut().unwrap()["metadata"]["resourceVersion"] = json!(version);
    }
    leadership.release().await;
    assert_eq!(holder(&server), "");
}
