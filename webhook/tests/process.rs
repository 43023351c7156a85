//! The program itself: how it ends, and what it never logs.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed; helpers outside of test functions are no exception"
)]

mod common;

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{Client, get, machine, review};
use machinist_certs::DevelopmentCa;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Nothing with this in it may be logged or asked.
const SECRET: &str = "sesame";

/// The running program; killed with this value.
struct Program {
    child: Child,
    lines: Receiver<String>,
    /// Everything it has logged.
    log: Vec<String>,
    address: SocketAddr,
    ops: SocketAddr,
    ca: DevelopmentCa,
    _certificates: TempDir,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    fn start() -> Self {
        let (ca, certificates) = (
            DevelopmentCa::new("webhook-test").unwrap(),
            tempfile::tempdir().unwrap(),
        );
        let leaf = ca.serving(&["localhost"], Duration::from_hours(1)).unwrap();
        common::write(certificates.path(), &leaf);
        let file = |name: &str| certificates.path().join(name).display().to_string();
        let mut child = Command::new(env!("CARGO_BIN_EXE_machinist-webhook"))
            .args([
                "--listen-address=127.0.0.1:0",
                "--ops-address=127.0.0.1:0",
                "--log-debug",
            ])
            .arg(format!("--tls-cert-path={}", file("tls.crt")))
            .arg(format!("--tls-key-path={}", file("tls.key")))
            .env_clear()
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            stderr
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        let mut log = Vec::new();
        let serving = loop {
            let line = lines.recv_timeout(Duration::from_secs(30)).unwrap();
            log.push(line.clone());
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["message"] == "serving" {
                break event;
            }
        };
        let address = |key: &str| serving[key].as_str().unwrap().parse().unwrap();
        let (address, ops) = (address("address"), address("ops"));
        Self {
            child,
            lines,
            log,
            address,
            ops,
            ca,
            _certificates: certificates,
        }
    }

    async fn client(&self) -> Client {
        Client::connect(self.address, &self.ca).await
    }

    fn terminate(&self) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    /// All that it has logged until its end.
    fn logged(&mut self) -> &[String] {
        let _ = self.child.kill();
        self.log.extend(self.lines.iter());
        &self.log
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_is_a_notice_of_ten_seconds_and_a_clean_end() {
    let mut program = Program::start();
    let mut early = program.client().await;
    assert_eq!(get(program.ops, "/readyz").await, (200, "ok".to_owned()));
    let good = review("CREATE", &machine(), &Value::Null);
    assert_eq!(early.review("/validate", &good).await["allowed"], true);

    program.terminate();
    let asked = Instant::now();
    while get(program.ops, "/readyz").await.0 != 503 {
        assert!(
            asked.elapsed() < Duration::from_secs(2),
            "readiness does not fail"
        );
    }
    // Endpoints and API servers take a while to notice: until then everything is answered, on old and new connections.
    let mut served = 0;
    while asked.elapsed() < Duration::from_secs(9) {
        let answer = program.client().await.post("/validate", good.to_string()).await;
        assert_eq!(answer.json()["response"]["allowed"], true);
        assert_eq!(answer.headers["connection"], "close");
        served += 1;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert!(served > 10, "{served}");
    assert_eq!(get(program.ops, "/healthz").await.0, 200);

    let status = loop {
        if let Some(status) = program.child.try_wait().unwrap() {
            break status;
        }
        assert!(asked.elapsed() < Duration::from_secs(18), "it does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(status.success(), "{status}");
    assert!(asked.elapsed() > Duration::from_secs(9), "{:?}", asked.elapsed());
    let last = program.logged().last().unwrap().clone();
    assert!(last.contains("\"done\""), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_neither_logged_nor_returned() {
    let mut program = Program::start();
    let mut client = program.client().await;
    let mut bodies = Vec::new();
    for value in machines_with_secrets() {
        let mut review = review("CREATE", &value, &Value::Null);
        review["request"]["userInfo"]["extra"] = json!({"token": [SECRET]});
        bodies.push(review.to_string());
        let mut update = review.clone();
        update["request"]["operation"] = json!("UPDATE");
        update["request"]["oldObject"] = machine();
        bodies.push(update.to_string());
    }
    // Bodies that end, or go wrong, beside the secret.
    let whole = bodies[0].clone();
    let at = whole.find(SECRET).unwrap();
    bodies.push(whole[..at + SECRET.len()].to_owned());
    bodies.push(whole.replacen(SECRET, &format!("{SECRET}\\ud800"), 1));
    bodies.push(whole.replacen(&format!("\"{SECRET}\""), SECRET, 1));
    for body in &bodies {
        for path in ["/validate", "/mutate"] {
            let answer = client.post(path, body.clone()).await;
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(!text.contains(SECRET), "{path} asked it: {text}");
        }
    }
    let log = program.logged();
    assert!(
        log.iter().filter(|line| line.contains("\"admission\"")).count() > bodies.len(),
        "every admission is logged"
    );
    for line in log {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "no JSON: {line}");
        assert!(!line.contains(SECRET), "logged: {line}");
    }
}

/// Machines with the secret wherever secrets are, in good and bad shape.
fn machines_with_secrets() -> Vec<Value> {
    let kubeconfig = |user: &str, more: &str| {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: 'https://infra.example'}}}}]\nusers: [{{name: u, user: {user}}}]\n{more}"
        )
    };
    let with = |pointer: &str, value: Value| {
        let mut machine = machine();
        let mut place = &mut machine["spec"]["providerSpec"]["value"];
        for key in pointer.split('/') {
            place = &mut place[key];
        }
        *place = value;
        machine
    };
    let auth = |value: Value| with("cloudProviderSpec/auth/kubeconfig", value);
    let token = format!("{{token: {SECRET}}}");
    vec![
        auth(json!(SECRET)),
        auth(json!([SECRET])),
        auth(json!({"value": [SECRET]})),
        auth(json!({"vlaue": SECRET})),
        auth(json!(kubeconfig(&token, ""))),
        auth(json!(STANDARD.encode(kubeconfig(&token, "")))),
        auth(json!(STANDARD.encode(kubeconfig(&token, "\t- nonsense")))),
        auth(json!(
            STANDARD.encode(kubeconfig(&format!("{{tokn: {SECRET}}}"), ""))
        )),
        auth(json!(
            STANDARD.encode(kubeconfig(&format!("{{token: [{SECRET}]}}"), ""))
        )),
        auth(json!(STANDARD.encode(kubeconfig(
            &format!("{{exec: {{command: {SECRET}}}}}"),
            ""
        )))),
        auth(json!(
            STANDARD.encode(kubeconfig(&format!("{{client-key-data: {SECRET}}}"), ""))
        )),
        with(
            "operatingSystemSpec",
            json!({"rhelSubscriptionManagerPassword": SECRET, "rhsmOfflineToken": [SECRET]}),
        ),
        with("overwriteCloudConfig", json!(SECRET)),
        with("overwriteCloudConfig", json!({"password": SECRET})),
        with(
            "cloudProviderSpec/virtualMachine/template/primaryDisk/extraHeaders",
            json!([format!("Authorization: {SECRET}"), {"Authorization": SECRET}]),
        ),
    ]
}
