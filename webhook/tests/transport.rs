//! The rules of the transport, and what hostile clients get.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed; helpers outside of test functions are no exception"
)]

mod common;

use std::time::Duration;

use common::{Server, client_ca, get, machine, request, review};
use http::StatusCode;
use http_body_util::{BodyExt as _, Full};
use machinist_infra::http_server::{self, Handle, NoDelayAcceptor, Timeouts};
use machinist_webhook::server::{self, Draining, Limits};
use rstest::rstest;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

fn body() -> String {
    review("CREATE", &machine(), &Value::Null).to_string()
}

#[rstest]
#[case::a_charset("POST", "/validate", "application/json; charset=utf-8", 200)]
#[case::another_case("POST", "/mutate", "Application/JSON", 200)]
#[case::text("POST", "/validate", "text/plain", 415)]
#[case::no_content_type("POST", "/validate", "", 415)]
#[case::the_wrong_method("GET", "/validate", "application/json", 405)]
#[case::an_unknown_path("POST", "/machines", "application/json", 404)]
#[case::a_path_below("POST", "/validate/x", "application/json", 404)]
#[tokio::test]
async fn each_limit_has_its_status(
    #[case] method: &str,
    #[case] path: &str,
    #[case] content_type: &str,
    #[case] want: u16,
) {
    let server = Server::start();
    let answer = server
        .client()
        .await
        .send(request(method, path, content_type, body()))
        .await;
    assert_eq!(answer.status.as_u16(), want);
}

#[rstest]
#[case::nothing(b"")]
#[case::no_json(b"hello")]
#[case::half_a_review(br#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"#)]
#[case::no_request(br#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}"#)]
#[case::a_future_version(
    br#"{"apiVersion":"admission.k8s.io/v9","kind":"AdmissionReview","request":{"uid":"u"}}"#
)]
#[case::another_kind(br#"{"apiVersion":"v1","kind":"Pod"}"#)]
#[case::no_utf8(b"{\"apiVersion\":\"\xff\xfe\"}")]
#[case::no_utf8_in_the_object(
    b"{\"apiVersion\":\"admission.k8s.io/v1\",\"kind\":\"AdmissionReview\",\"request\":{\"uid\":\"u\",\"object\":\"\xff\"}}"
)]
#[case::a_byte_order_mark(b"\xef\xbb\xbf{\"apiVersion\":\"admission.k8s.io/v1\",\"kind\":\"AdmissionReview\",\"request\":{\"uid\":\"u\"}}")]
#[case::two_of_them(
    br#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u"}}{}"#
)]
#[case::a_key_twice(br#"{"kind":"AdmissionReview","kind":"AdmissionReview"}"#)]
#[tokio::test]
async fn what_is_no_review_is_a_bad_request(#[case] body: &'static [u8]) {
    let server = Server::start();
    let mut client = server.client().await;
    for path in ["/mutate", "/validate"] {
        let answer = client.post(path, body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert!(!answer.body.is_empty());
    }
}

#[rstest]
#[case::nested_without_end(&format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000)))]
#[case::objects_without_end(&format!("{}1{}", r#"{"a":"#.repeat(200_000), "}".repeat(200_000)))]
#[case::a_number_beyond_all_bounds("1e400")]
#[case::a_number_of_a_million_digits(&"9".repeat(1_000_000))]
#[case::half_a_character(r#""\ud800""#)]
#[tokio::test]
async fn an_object_that_cannot_be_held_is_refused_by_its_uid(#[case] hostile: &str) {
    let server = Server::with(patient(), Duration::ZERO);
    let mut client = server.client().await;
    let body = body().replace("\"2\"", hostile);
    assert!(body.len() > hostile.len());
    let response = client.post("/validate", body.clone()).await.json()["response"].clone();
    assert_eq!(
        (response["uid"].as_str(), response["allowed"].as_bool()),
        (Some("705ab4f5-6393-11e8-b7cc-42010a800002"), Some(false))
    );
    assert_eq!(response["status"]["code"], 422);
    assert!(
        response.to_string().len() < 1000,
        "the input is not quoted: {response}"
    );
    assert_eq!(
        client.post("/mutate", body).await.json()["response"]["allowed"],
        true
    );
}

#[rstest]
#[case::a_key_twice(r#""2", "cpus": "nonsense""#)]
#[case::a_number_that_is_almost_zero("1e-400")]
#[case::minus_zero("-0")]
#[case::a_list_of_a_million(&format!("[{}0]", "0,".repeat(1_000_000)))]
#[case::a_hundred_thousand_keys(&format!("{{{}}}", (0..100_000).map(|i| format!("\"k{i}\":0")).collect::<Vec<_>>().join(",")))]
#[case::control_characters(r#""\u0000\u001b[2J\r\n""#)]
#[tokio::test]
async fn an_object_full_of_nonsense_is_refused_for_its_field(#[case] hostile: &str) {
    let server = Server::with(patient(), Duration::ZERO);
    let body = body().replace("\"2\"", hostile);
    let answer = server.client().await.post("/validate", body).await.json();
    let status = &answer["response"]["status"];
    assert_eq!(
        status["details"]["causes"][0]["field"],
        "spec.providerSpec.value.cloudProviderSpec.virtualMachine.template.cpus",
        "{status}"
    );
}

/// Hostile bodies take a while to write.
fn patient() -> Limits {
    Limits {
        timeouts: Timeouts {
            request: Duration::from_secs(30),
            ..Timeouts::default()
        },
        ..Limits::default()
    }
}

#[tokio::test]
async fn a_body_up_to_the_limit_is_read_and_one_beyond_is_not() {
    let server = Server::with(patient(), Duration::ZERO);
    let (limit, body) = (7 * 1024 * 1024, body());
    let padded = |length: usize| format!("{body}{}", " ".repeat(length - body.len()));
    let answer = server.client().await.post("/validate", padded(limit)).await;
    assert_eq!(answer.status, StatusCode::OK);

    // Refused by its length, before any of it is sent.
    let mut stream = server.raw().await;
    let head = format!(
        "POST /validate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        limit + 1
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    assert!(read_some(&mut stream).await.starts_with("HTTP/1.1 413"));

    // Refused when it is passed, without a given length.
    let mut stream = server.raw().await;
    stream.write_all(b"POST /validate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
    let chunk = format!("{:x}\r\n{}\r\n", 64 * 1024, " ".repeat(64 * 1024));
    for _ in 0..=limit / (64 * 1024) {
        if stream.write_all(chunk.as_bytes()).await.is_err() {
            break;
        }
    }
    assert!(read_some(&mut stream).await.starts_with("HTTP/1.1 413"));
}

async fn read_some(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut buffer = vec![0; 4096];
    let read = timeout(Duration::from_secs(5), stream.read(&mut buffer))
        .await
        .expect("an answer")
        .unwrap_or(0);
    String::from_utf8_lossy(&buffer[..read]).into_owned()
}

/// Reads until the server closes.
async fn closed_within(stream: &mut (impl tokio::io::AsyncRead + Unpin), limit: Duration) -> String {
    let mut text = Vec::new();
    let _ = timeout(limit, stream.read_to_end(&mut text))
        .await
        .expect("the server closes");
    String::from_utf8_lossy(&text).into_owned()
}

#[rstest]
#[case::nothing_at_all("")]
#[case::half_a_head("POST /validate HTTP/1.1\r\nhost: x\r\ncontent-ty")]
#[case::garbage("\u{16}\u{3}\u{1}garbage\r\n\r\n")]
#[case::a_head_without_end(&"x".repeat(1 << 20))]
#[tokio::test]
async fn a_client_that_never_asks_is_hung_up_on(#[case] sent: &str) {
    let server = Server::start();
    let mut stream = server.raw().await;
    let _ = stream.write_all(sent.as_bytes()).await;
    let answer = closed_within(&mut stream, Duration::from_secs(3)).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
}

#[tokio::test]
async fn a_body_that_never_comes_is_given_up_on() {
    let server = Server::start();
    let mut stream = server.raw().await;
    let head = "POST /validate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = closed_within(&mut stream, Duration::from_secs(3)).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn a_body_that_drips_is_given_up_on() {
    let server = Server::start();
    let (mut read, mut write) = tokio::io::split(server.raw().await);
    let head = "POST /validate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n";
    write.write_all(head.as_bytes()).await.unwrap();
    let drip = async {
        let mut drops = tokio::time::interval(Duration::from_millis(20));
        while write.write_all(b" ").await.is_ok() {
            let _ = write.flush().await;
            drops.tick().await;
        }
        std::future::pending::<()>().await;
    };
    let answer = tokio::select! {
        answer = closed_within(&mut read, Duration::from_secs(3)) => answer,
        () = drip => String::new(),
    };
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn probes_and_reviews_have_a_port_each() {
    let server = Server::start();
    let mut client = server.client().await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(server.ops(path).await.0, 200, "{path}");
        let answer = client.send(request("GET", path, "", "")).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path} beside reviews");
    }
    for path in ["/validate", "/mutate"] {
        assert_eq!(server.ops(path).await.0, 404, "{path} without TLS");
    }
}

#[tokio::test]
async fn a_client_without_tls_is_hung_up_on() {
    let server = Server::start();
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut plain = TcpStream::connect(server.address).await.unwrap();
    plain
        .write_all(b"POST /validate HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    assert!(
        !closed_within(&mut plain, Duration::from_secs(3))
            .await
            .starts_with("HTTP")
    );
    assert_eq!(closed_within(&mut silent, Duration::from_secs(3)).await, "");
}

#[tokio::test]
async fn old_tls_is_spoken_by_whom_it_is_asked_of_only() {
    let server = Server::start();
    let refused = server.raw_tls12().await.unwrap_err().to_string();
    assert!(refused.contains("ProtocolVersion"), "{refused}");

    let old = ["--tls-min-version=1.2".to_owned()];
    let server = Server::with_args(Limits::default(), Duration::ZERO, &old);
    let mut stream = server.raw_tls12().await.unwrap();
    stream
        .write_all(b"GET /validate HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    assert!(read_some(&mut stream).await.starts_with("HTTP/1.1 405"));
    // And the new one, too.
    server.raw().await;
}

#[tokio::test]
async fn only_clients_of_the_ca_with_an_allowed_name_are_answered_and_everybody_sees_what_is_served() {
    let (ca, [leaf, kubelet]) = client_ca(["kube-apiserver", "system:node:web-1"]);
    let (_, [foreign]) = client_ca(["kube-apiserver"]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), ca).unwrap();
    let args = [
        format!("--client-ca-file={}", file.path().display()),
        "--client-allowed-names=admin,kube-apiserver".to_owned(),
    ];
    let server = Server::with_args(Limits::default(), Duration::ZERO, &args);
    let answer = server.asked_with(Some(&leaf)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let others = [
        ("no client", None),
        ("a foreign", Some(&foreign)),
        ("a kubelet", Some(&kubelet)),
    ];
    for (who, certificate) in others {
        let answer = server.asked_with(certificate).await;
        assert!(answer.is_err(), "{who} was answered: {answer:?}");
    }
    let want = certificate_in(&server);
    let seen = machinist_certs::served(server.address, "localhost", Duration::from_secs(5)).await;
    assert_eq!(seen, machinist_certs::Served::Certificate(want));
}

fn certificate_in(server: &Server) -> Vec<u8> {
    let file = server.certificates.path().join("tls.crt");
    CertificateDer::from_pem_file(file).unwrap().to_vec()
}

#[tokio::test]
async fn http_2_is_spoken() {
    let server = Server::start();
    let mut client = server.client2().await;
    let mut request = request("POST", "/validate", "application/json", body());
    *request.uri_mut() = "https://localhost/validate".parse().unwrap();
    request.headers_mut().remove("host");
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(
        serde_json::from_slice::<Value>(&body).unwrap()["response"]["allowed"],
        true
    );
}

#[tokio::test]
async fn a_request_that_there_is_no_slot_for_is_turned_away() {
    let limits = Limits {
        in_flight: 0,
        ..Limits::default()
    };
    let server = Server::with(limits, Duration::ZERO);
    let answer = server.client().await.post("/validate", body()).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn requests_that_do_not_come_whole_take_no_slot_and_end_in_time() {
    let limits = Limits {
        in_flight: 1,
        ..Limits::default()
    };
    let server = Server::with(limits, Duration::ZERO);
    let begun = tokio::time::Instant::now();
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut stream = server.raw().await;
        let head = "POST /validate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{";
        stream.write_all(head.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    let mut client = server.client().await;
    for _ in 0..20 {
        assert_eq!(client.post("/validate", body()).await.status, StatusCode::OK);
    }
    for stream in &mut slow {
        let answer = timeout(Duration::from_secs(10), read_some(stream)).await.unwrap();
        let (too_slow, given_up) = ("HTTP/1.1 408", "HTTP/1.1 429");
        assert!(
            answer.starts_with(too_slow) || answer.starts_with(given_up),
            "{answer}"
        );
    }
    assert!(
        begun.elapsed() >= Duration::from_secs(2),
        "none of 64 is given up before"
    );
}

#[tokio::test]
async fn a_panic_ends_one_request_and_tells_nothing() {
    async fn trap() -> &'static str {
        panic!("sesame")
    }
    let router = axum::Router::new()
        .route("/trap", axum::routing::get(trap))
        .route("/fine", axum::routing::get(|| async { "fine" }));
    let timeouts = Timeouts::default();
    let router = server::limited(router, &timeouts, Draining::default());
    let listener = server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        http_server::serve(listener, NoDelayAcceptor::new(), router, &timeouts, Handle::new()).await
    });
    assert_eq!(get(address, "/trap").await, (500, "internal error".to_owned()));
    assert_eq!(get(address, "/fine").await, (200, "fine".to_owned()));
    serving.abort();
}

#[tokio::test]
async fn the_end_is_announced_and_no_request_is_lost() {
    let mut server = Server::with(Limits::default(), Duration::from_secs(1));
    let (mut early, mut idle) = (server.client().await, server.client().await);
    assert_eq!(
        idle.post("/validate", body()).await.headers.get("connection"),
        None
    );
    assert_eq!(server.ops("/readyz").await, (200, "ok".to_owned()));
    server.terminate();
    let start = Instant::now();
    while server.ops("/readyz").await.0 != 503 {
        assert!(
            start.elapsed() < Duration::from_millis(500),
            "readiness fails at once"
        );
    }
    assert_eq!(server.ops("/healthz").await.0, 200);
    // Old and new connections are served, and asked to go elsewhere next time.
    for client in [&mut early, &mut server.client().await] {
        let answer = client.post("/validate", body()).await;
        assert_eq!(
            (answer.status, answer.headers["connection"].as_bytes()),
            (StatusCode::OK, b"close".as_slice())
        );
    }
    let ended = timeout(Duration::from_secs(5), &mut server.task)
        .await
        .expect("the webhook ends")
        .unwrap();
    assert!(ended.is_ok(), "{ended:?}");
    assert!(start.elapsed() >= Duration::from_millis(900));
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn what_was_answered_is_counted() {
    let server = Server::start();
    let mut client = server.client().await;
    client.post("/validate", body()).await;
    client.post("/mutate", body()).await;
    client.post("/mutate", "{}").await;
    let (status, text) = server.ops("/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "machinist_admissions_total{operation=\"CREATE\",resource=\"machines\",step=\"validate\",verdict=\"allowed\"} 1",
        "machinist_admissions_total{operation=\"CREATE\",resource=\"machines\",step=\"mutate\",verdict=\"patched\"} 1",
        "machinist_admissions_unreadable_total{step=\"mutate\"} 1",
        "machinist_admission_seconds_count{resource=\"machines\",step=\"validate\",verdict=\"allowed\"} 1",
        "machinist_serving_certificate_expires_timestamp_seconds ",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn a_new_certificate_is_served_while_requests_run() {
    let server = Server::start();
    let mut old = server.client().await;
    for _ in 0..3 {
        let leaf = server.rotate();
        let leaf = CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap();
        let taken = async {
            while server.served().await != leaf {
                // Every one of these must be answered, whichever certificate its connection has.
                for client in [&mut old, &mut server.client().await] {
                    assert_eq!(client.post("/validate", body()).await.status, StatusCode::OK);
                }
            }
        };
        timeout(Duration::from_secs(5), taken)
            .await
            .expect("the new certificate is served");
    }
}

#[tokio::test]
async fn requests_on_one_connection_do_not_mix() {
    let server = Server::start();
    let mut client = server.client2().await;
    let mut answers = Vec::new();
    for i in 0..50 {
        let uid = format!("uid-{i}");
        let body = body().replace("705ab4f5-6393-11e8-b7cc-42010a800002", &uid);
        let request =
            http::Request::post("https://localhost/validate").header("content-type", "application/json");
        client.ready().await.unwrap();
        answers.push((
            uid,
            client.send_request(request.body(Full::new(body.into())).unwrap()),
        ));
    }
    for (uid, answer) in answers {
        let body = answer
            .await
            .unwrap()
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes();
        assert_eq!(
            serde_json::from_slice::<Value>(&body).unwrap()["response"]["uid"],
            uid
        );
    }
}
