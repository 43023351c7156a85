//! The guest joins with only its user data: breaking any part of it breaks the join.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed; helpers outside of test functions are no exception"
)]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{TIMEOUT, TestNamespace, client, plane, spec};
use futures::StreamExt as _;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use kubevirt_sim::objects::{Kind, text};
use serde_json::json;
use tokio::task::JoinHandle;

/// The parts of the user data; a test changes one at a time.
#[derive(Clone)]
struct UserData {
    server: String,
    ca: String,
    token: String,
    node: String,
    taints: String,
    unit: String,
}

impl UserData {
    async fn good(node: &str, token: &str) -> Self {
        let plane = plane().await;
        Self {
            server: plane.server().to_owned(),
            ca: plane.ca().base64(),
            token: token.to_owned(),
            node: node.to_owned(),
            taints: "dedicated=db:NoSchedule,fresh:NoExecute".to_owned(),
            unit: "kubelet.service".to_owned(),
        }
    }

    fn render(&self) -> String {
        let Self {
            server,
            ca,
            token,
            node,
            taints,
            unit,
        } = self;
        let ca_file = STANDARD.encode(STANDARD.decode(ca).unwrap_or_default());
        format!(
            r#"#cloud-config
hostname: {node}
write_files:
- path: /etc/systemd/system/{unit}
  content: |
    [Unit]
    Description=kubelet
    [Service]
    Environment="LABELS=topology.kubernetes.io/zone=z1,pool=db"
    ExecStart=/usr/bin/kubelet \
      --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf \
      --kubeconfig=/var/lib/kubelet/kubeconfig \
      --config=/etc/kubernetes/kubelet-config.yaml \
      --hostname-override={node} \
      --register-with-taints={taints} \
      --node-labels=${{LABELS}} \
      --provider-id=kubermatic://kubevirt/1234
    Restart=always
- path: /etc/kubernetes/bootstrap-kubelet.conf
  permissions: "0600"
  content: |
    apiVersion: v1
    kind: Config
    clusters:
    - name: c
      cluster:
        server: {server}
        certificate-authority-data: {ca}
    users:
    - name: c
      user:
        token: {token}
    contexts:
    - name: c
      context: {{cluster: c, user: c}}
    current-context: c
- path: /etc/kubernetes/pki/ca.crt
  encoding: b64
  content: {ca_file}
- path: /etc/kubernetes/kubelet-config.yaml
  content: |
    apiVersion: kubelet.config.k8s.io/v1beta1
    kind: KubeletConfiguration
    serverTLSBootstrap: true
    authentication:
      x509:
        clientCAFile: /etc/kubernetes/pki/ca.crt
"#
        )
    }
}

/// A bootstrap token of Machinist's group, which may request certificates; only the test approves them.
async fn token(client: &Client, id: &str) -> String {
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "test-bootstrappers"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-bootstrapper"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:bootstrappers:machinist:machine"}],
    });
    let params = PatchParams::apply("test").force();
    let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
    bindings
        .patch("test-bootstrappers", &params, &Patch::Apply(binding))
        .await
        .unwrap();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": format!("bootstrap-token-{id}"), "namespace": "kube-system"},
        "stringData": {
            "token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
            "auth-extra-groups": "system:bootstrappers:machinist:machine",
        },
    });
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "kube-system");
    secrets
        .patch(&format!("bootstrap-token-{id}"), &params, &Patch::Apply(secret))
        .await
        .unwrap();
    format!("{id}.0123456789abcdef")
}

/// Approves the requests of this node's kubelet, and no others.
fn approver(client: Client, id: &str, node: &str) -> JoinHandle<()> {
    let users = BTreeMap::from([
        (
            format!("system:bootstrap:{id}"),
            "kubernetes.io/kube-apiserver-client-kubelet",
        ),
        (format!("system:node:{node}"), "kubernetes.io/kubelet-serving"),
    ]);
    let common_name = format!("system:node:{node}");
    tokio::spawn(async move {
        let api: Api<CertificateSigningRequest> = Api::all(client);
        let changes = watcher(api.clone(), watcher::Config::default())
            .default_backoff()
            .applied_objects();
        let mut changes = std::pin::pin!(changes);
        while let Some(change) = changes.next().await {
            let Ok(csr) = change else { continue };
            let user = csr.spec.username.clone().unwrap_or_default();
            let decided = csr
                .status
                .as_ref()
                .and_then(|status| status.conditions.as_ref())
                .is_some();
            // The DER of the request contains the name as text.
            let pem = String::from_utf8(csr.spec.request.0.clone()).unwrap();
            let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
            let der = STANDARD.decode(body).unwrap();
            let named = der
                .windows(common_name.len())
                .any(|part| part == common_name.as_bytes())
                && der.windows(12).any(|part| part == b"system:nodes");
            if decided || !named || users.get(&user) != Some(&csr.spec.signer_name.as_str()) {
                continue;
            }
            let approval = json!({"status": {"conditions": [
                {"type": "Approved", "status": "True", "reason": "Test", "message": "by the test"},
            ]}});
            let name = csr.name_any();
            let _ = api
                .patch_approval(&name, &PatchParams::default(), &Patch::Merge(approval))
                .await;
        }
    })
}

/// A scene with one VM of this name and user data.
async fn boot(name: &str, user_data: &UserData) -> TestNamespace {
    let scene = TestNamespace::start(name).await;
    let secret = json!({"stringData": {"userdata": user_data.render()}});
    scene.create(Kind::Secret, "userdata", secret).await.unwrap();
    scene.create_vm(name, spec(name, Some("userdata"))).await;
    scene
}

async fn node(client: &Client, name: &str) -> Node {
    let api: Api<Node> = Api::all(client.clone());
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    loop {
        let found = api.get_opt(name).await.unwrap();
        if let Some(node) = found.filter(is_ready) {
            return node;
        }
        assert!(tokio::time::Instant::now() < deadline, "Node {name} is not Ready");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn taints(node: &Node) -> Vec<String> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints
        .filter(|taint| !taint.key.starts_with("node.kubernetes.io/"))
        .map(|taint| {
            format!(
                "{}={}:{}",
                taint.key,
                taint.value.clone().unwrap_or_default(),
                taint.effect
            )
        })
        .collect()
}

#[tokio::test]
async fn a_guest_becomes_a_node_with_what_its_user_data_says() {
    let client = client().await;
    let token = token(&client, "good00").await;
    let approver = approver(client.clone(), "good00", "join-good");
    let scene = boot("join-good", &UserData::good("join-good", &token).await).await;
    let node = node(&client, "join-good").await;
    assert_eq!(
        scene.simulator.guest_node("join-good").as_deref(),
        Some("join-good")
    );
    assert_eq!(scene.simulator.guest_error("join-good"), None);
    assert_eq!(taints(&node), ["dedicated=db:NoSchedule", "fresh=:NoExecute"]);
    assert_eq!(node.labels()["pool"], "db");
    assert_eq!(node.labels()["topology.kubernetes.io/zone"], "z1");
    assert_eq!(
        node.spec.as_ref().unwrap().provider_id.as_deref(),
        Some("kubermatic://kubevirt/1234")
    );
    let status = node.status.as_ref().unwrap();
    let vmi = scene.api(Kind::Vmi).get("join-good").await.unwrap();
    let address = text(&vmi, "/status/interfaces/0/ipAddress").unwrap();
    let addresses: Vec<&str> = status
        .addresses
        .iter()
        .flatten()
        .map(|address| address.address.as_str())
        .collect();
    assert_eq!(addresses, [address, "join-good"]);
    let system_uuid = text(&vmi, "/spec/domain/firmware/uuid").unwrap();
    assert_eq!(status.node_info.as_ref().unwrap().system_uuid, system_uuid);

    heartbeats(&client, "join-good").await;
    serving_certificate(&client, "join-good").await;
    pods_run_and_end(&client, "join-good").await;

    scene.delete(Kind::Vm, "join-good").await;
    scene.gone(Kind::Vm, "join-good").await;
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    while scene.simulator.guest_node("join-good").is_some() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the guest outlives its VM"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Api::<Node>::all(client)
        .delete("join-good", &DeleteParams::default())
        .await
        .unwrap();
    approver.abort();
    scene.stop().await;
}

async fn heartbeats(client: &Client, node: &str) {
    let api: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    while api.get_opt(node).await.unwrap().is_none() {
        assert!(tokio::time::Instant::now() < deadline, "no Lease");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let lease = api.get(node).await.unwrap().spec.unwrap();
    assert_eq!(lease.holder_identity.as_deref(), Some(node));
    assert!(lease.renew_time.is_some());
}

async fn serving_certificate(client: &Client, node: &str) {
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    loop {
        let issued = api
            .list(&ListParams::default())
            .await
            .unwrap()
            .into_iter()
            .any(|csr| {
                csr.spec.signer_name == "kubernetes.io/kubelet-serving"
                    && csr.spec.username.as_deref() == Some(&format!("system:node:{node}"))
                    && csr.status.is_some_and(|status| status.certificate.is_some())
            });
        if issued {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "no serving certificate");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn pods_run_and_end(client: &Client, node: &str) {
    let api: Api<Pod> = Api::namespaced(client.clone(), node);
    let pod = json!({
        "metadata": {"name": "web"},
        "spec": {
            "nodeName": node, "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 30,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "web", "image": "registry.test/web"}],
        },
    });
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    let pod: Pod = serde_json::from_value(pod).unwrap();
    while let Err(error) = api.create(&PostParams::default(), &pod).await {
        // The namespace's ServiceAccount takes a moment to exist.
        assert!(tokio::time::Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    loop {
        let phase = api
            .get("web")
            .await
            .unwrap()
            .status
            .and_then(|status| status.phase);
        if phase.as_deref() == Some("Running") {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "the pod is {phase:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    api.delete("web", &DeleteParams::default()).await.unwrap();
    while api.get_opt("web").await.unwrap().is_some() {
        assert!(tokio::time::Instant::now() < deadline, "the pod does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until a guest that cannot join reports this. It retries, and on a busy machine a try may time out first.
async fn fails_with(scene: &TestNamespace, vm: &str, expected: &str) {
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    loop {
        let error = scene.simulator.guest_error(vm);
        if error.as_ref().is_some_and(|error| error.contains(expected)) {
            return;
        }
        let joined = scene.simulator.guest_node(vm);
        assert!(joined.is_none(), "{vm} joined as {joined:?}");
        assert!(tokio::time::Instant::now() < deadline, "{vm} says {error:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Breaks one part of the user data; the text is the CA of some other cluster.
type Corruption = fn(&mut UserData, &str);

#[tokio::test]
async fn each_broken_part_of_the_user_data_breaks_the_join() {
    let client = client().await;
    let token = token(&client, "broken").await;
    let other_ca = testbed::pki::Ca::new("other").unwrap().base64();
    let parts: [(&str, Corruption, &str); 5] = [
        (
            "bad-server",
            |data, _| data.server = "https://127.0.0.1:1".to_owned(),
            "Connection refused",
        ),
        (
            "bad-ca",
            |data, other| other.clone_into(&mut data.ca),
            "certificate",
        ),
        (
            "bad-token",
            |data, _| data.token = "broken.0000000000000000".to_owned(),
            "Unauthorized",
        ),
        (
            "bad-taints",
            |data, _| data.taints = "a=b".to_owned(),
            "invalid taint spec",
        ),
        (
            "bad-unit",
            |data, _| data.unit = "other.service".to_owned(),
            "kubelet.service not found",
        ),
    ];
    for (name, spoil, expected) in parts {
        let approver = approver(client.clone(), "broken", name);
        let mut user_data = UserData::good(name, &token).await;
        spoil(&mut user_data, &other_ca);
        let scene = boot(name, &user_data).await;
        fails_with(&scene, name, expected).await;
        assert!(
            Api::<Node>::all(client.clone())
                .get_opt(name)
                .await
                .unwrap()
                .is_none()
        );
        // KubeVirt sees a guest that runs, whatever it does.
        let vm = scene.vm_is(name, "Running").await;
        assert_eq!(vm.data["status"]["ready"], true);
        approver.abort();
        scene.stop().await;
    }
}

#[tokio::test]
async fn another_node_name_gets_no_certificate() {
    let client = client().await;
    let token = token(&client, "naming").await;
    let approver = approver(client.clone(), "naming", "join-name");
    let mut user_data = UserData::good("join-name", &token).await;
    user_data.node = "cp-1".to_owned();
    let scene = boot("join-name", &user_data).await;
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let asked =
        |csr: &CertificateSigningRequest| csr.spec.username.as_deref() == Some("system:bootstrap:naming");
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    let csr = loop {
        if let Some(csr) = api
            .list(&ListParams::default())
            .await
            .unwrap()
            .into_iter()
            .find(asked)
        {
            break csr;
        }
        assert!(tokio::time::Instant::now() < deadline, "no request was made");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    let csr = api.get(&csr.name_any()).await.unwrap();
    let decided = csr.status.and_then(|status| status.conditions);
    assert!(
        decided.is_none(),
        "no request for another node's name is approved: {decided:?}"
    );
    let nodes: Api<Node> = Api::all(client.clone());
    for name in ["cp-1", "join-name"] {
        assert!(nodes.get_opt(name).await.unwrap().is_none());
    }
    assert_eq!(scene.simulator.guest_node("join-name"), None);
    approver.abort();
    scene.stop().await;
}

#[tokio::test]
async fn taints_that_are_not_in_the_user_data_are_not_on_the_node() {
    let client = client().await;
    let token = token(&client, "taints").await;
    let approver = approver(client.clone(), "taints", "join-taints");
    let mut user_data = UserData::good("join-taints", &token).await;
    user_data.taints = String::new();
    let scene = boot("join-taints", &user_data).await;
    assert_eq!(taints(&node(&client, "join-taints").await), Vec::<String>::new());
    approver.abort();
    scene.stop().await;
}

#[tokio::test]
async fn a_guest_with_the_fault_never_joins_joins_once_the_fault_ends() {
    let client = client().await;
    let token = token(&client, "never0").await;
    let approver = approver(client.clone(), "never0", "join-never");
    let scene = TestNamespace::start("join-never").await;
    let user_data = UserData::good("join-never", &token).await.render();
    scene
        .create(
            Kind::Secret,
            "userdata",
            json!({"stringData": {"userdata": user_data}}),
        )
        .await
        .unwrap();
    let mut spec = spec("join-never", Some("userdata"));
    spec["template"]["metadata"]["annotations"] = json!({"sim.kubevirt.io/never-joins": "true"});
    scene.create_vm("join-never", spec).await;
    scene.vm_is("join-never", "Running").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(
        Api::<Node>::all(client.clone())
            .get_opt("join-never")
            .await
            .unwrap()
            .is_none()
    );
    scene.fault("join-never", "never-joins", "false").await;
    node(&client, "join-never").await;
    approver.abort();
    scene.stop().await;
}

#[tokio::test]
async fn a_hundred_guests_join_on_one_thread() {
    let client = client().await;
    let token = token(&client, "many00").await;
    let approver = approver(client.clone(), "many00", "many-");
    let scene = TestNamespace::start("join-many").await;
    for number in 0..100 {
        let name = format!("many-{number}");
        let user_data = UserData::good(&name, &token).await.render();
        scene
            .create(
                Kind::Secret,
                &name,
                json!({"stringData": {"userdata": user_data}}),
            )
            .await
            .unwrap();
        scene.create_vm(&name, spec(&name, Some(&name))).await;
    }
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let nodes: Api<Node> = Api::all(client.clone());
    let joined = async || {
        let nodes = nodes.list(&ListParams::default()).await.unwrap();
        nodes
            .iter()
            .filter(|node| node.name_any().starts_with("many-") && is_ready(node))
            .count()
    };
    let deadline = tokio::time::Instant::now() + 2 * TIMEOUT;
    while joined().await < 100 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "only {} have joined",
            joined().await
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(threads() < 100, "{} threads", threads());
    for number in 0..100 {
        scene.delete(Kind::Vm, &format!("many-{number}")).await;
    }
    for number in 0..100 {
        scene.gone(Kind::Vm, &format!("many-{number}")).await;
        scene.gone(Kind::Pvc, &format!("many-{number}")).await;
    }
    approver.abort();
    scene.stop().await;
}
