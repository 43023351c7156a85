//! An author with rights in one namespace, or a server that such an author names, does not disturb other users' Machines.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use anyhow::Result;
use axum::{Router, body::Body, extract::State, http::Uri};
use axum_server::{Handle, tls_rustls::RustlsConfig};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use e2e::{Case, case::WAIT_TIMEOUT, manifest, manifest::NAMESPACE, usage::rss, wait};
use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Node;
use kube::{
    api::{Patch, PatchParams},
    core::DynamicObject,
};
use machinist_certs::{CertificateFiles, Clients, CurrentCertificate, Identity, MinimumTls, server_config};
use rstest::rstest;
use serde_json::{Value, json};
use testbed::{bed::Options, seed::INFRA_NAMESPACE};
use tokio::sync::Notify;

/// A status of so many levels passes the webhook, which validates specs only, and would make a list undecodable.
#[tokio::test]
async fn a_deeply_nested_status_blocks_no_machine_even_after_a_restart() -> Result<()> {
    let case = Case::start().await?;
    let deep = format!("{}1{}", r#"{"a":"#.repeat(300), "}".repeat(300));
    let poison = format!(r#"{{"status":{{"x":{deep}}}}}"#);
    case.apply(&manifest::machine("poison")).await?;
    case.node_ready("poison").await?;
    case.apply(&manifest::machine_set("poison", 0)).await?;
    let mut deployment = manifest::machine_set("poison", 0);
    deployment["kind"] = json!("MachineDeployment");
    case.apply(&deployment).await?;
    for (kind, subresource) in [
        ("machine", ""),
        ("machineset", "status"),
        ("machinedeployment", "status"),
    ] {
        let subresource = format!("--subresource={subresource}");
        let patch = [
            "patch",
            kind,
            "poison",
            "--namespace",
            NAMESPACE,
            "--type=merge",
            "--patch",
            &poison,
            &subresource,
        ];
        let patch = if subresource.ends_with('=') {
            &patch[..patch.len() - 1]
        } else {
            &patch[..]
        };
        case.bed.user().kubectl_ok(patch, "").await?;
    }

    case.bed.controller().terminate().await?;
    case.bed.controller().start().await?;
    case.apply(&manifest::machine("sound")).await?;
    case.node_ready("sound").await?;
    case.delete_machine("sound").await?;
    // The Machines with the nested status are reconciled, too. A typed client could not watch them.
    for kind in ["machine", "machineset", "machinedeployment"] {
        let delete = [
            "delete",
            kind,
            "poison",
            "--namespace",
            NAMESPACE,
            "--timeout=60s",
        ];
        case.bed.user().kubectl_ok(&delete, "").await?;
    }
    case.finish(&[]).await
}

/// The cache of an infra cluster has a memory limit, whatever else is stored there. Machines of an infra cluster beyond the
/// limit are polled, and their VMs are not reported as missing.
#[tokio::test]
async fn machines_of_an_infra_cluster_beyond_the_cache_limit_are_polled() -> Result<()> {
    let case = Case::start_with(Options {
        controller_args: ["--infra-cache-mib=0", "--infra-look-every=1s"]
            .map(str::to_owned)
            .to_vec(),
        ..Options::default()
    })
    .await?;
    case.apply(&manifest::machine("first")).await?;
    case.node_ready("first").await?;
    let claim = |i: usize| {
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": format!("foreign-{i}-{}", "x".repeat(200)), "labels": {"foreign": "true"}},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
    };
    let claims = json!({"apiVersion": "v1", "kind": "List", "items": (0..60).map(claim).collect::<Vec<_>>()});
    let infra = case.bed.infra();
    let namespace = ["--namespace", INFRA_NAMESPACE];
    infra
        .kubectl_ok(
            &[&["create", "-f", "-"][..], &namespace].concat(),
            &claims.to_string(),
        )
        .await?;
    let said = case.condition("first", "CacheFull").await?;
    assert!(said.contains("--infra-cache-mib"), "{said}");
    // The Machines continue, and a restarted controller reports no VM as gone.
    let uid = case.vms().get("first").await?.metadata.uid;
    case.bed.controller().terminate().await?;
    case.bed.controller().start().await?;
    case.apply(&manifest::machine("second")).await?;
    case.node_ready("second").await?;
    assert_eq!(case.vms().get("first").await?.metadata.uid, uid);
    for name in ["first", "second"] {
        case.delete_machine(name).await?;
    }
    let claims = ["delete", "pvc", "--selector=foreign=true", "--wait=false"];
    infra.kubectl_ok(&[&claims[..], &namespace].concat(), "").await?;
    case.finish(&[]).await
}

/// A Machine that is older than a Node of its name, whose guest agent reports that Node's address.
#[rstest]
#[case::by_its_provider_id(json!({"providerID": "aws:///eu/i-0123"}), "")]
#[case::by_its_system_uuid(json!({}), "ec2-abc")]
#[tokio::test]
async fn an_address_of_a_guest_agent_links_no_foreign_node(
    #[case] spec: Value,
    #[case] system_uuid: &str,
) -> Result<()> {
    let case = Case::start().await?;
    let mut machine = manifest::machine("cp-9");
    machine["metadata"]["annotations"] =
        json!({"sim.kubevirt.io/never-joins": "true", "sim.kubevirt.io/agent-address": "10.1.0.99"});
    case.apply(&machine).await?;
    case.condition("cp-9", "WaitingForNode").await?;
    let reported = |vmi: &DynamicObject| vmi.data["status"]["interfaces"][1]["ipAddress"] == "10.1.0.99";
    wait::for_state(
        &case.vmis(),
        "cp-9",
        "its guest agent reports",
        WAIT_TIMEOUT,
        reported,
    )
    .await?;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "cp-9"}, "spec": spec});
    case.bed
        .user()
        .kubectl_ok(&["create", "-f", "-"], &node.to_string())
        .await?;
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "10.1.0.99"}],
        "nodeInfo": {"systemUUID": system_uuid, "architecture": "", "bootID": "", "containerRuntimeVersion": "", "kernelVersion": "",
            "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "operatingSystem": "", "osImage": ""},
    }});
    case.nodes()
        .patch_status("cp-9", &PatchParams::default(), &Patch::Merge(status))
        .await?;
    case.condition("cp-9", "NodeNameTaken").await?;
    case.settled().await;
    let left_alone = |node: &Node| {
        let owned = node
            .metadata
            .labels
            .iter()
            .flatten()
            .any(|(key, _)| key.contains("owned-by") || key == "pool");
        let taints = node
            .spec
            .as_ref()
            .and_then(|spec| spec.taints.as_ref())
            .into_iter()
            .flatten();
        !owned && !taints.into_iter().any(|taint| taint.key == "dedicated")
    };
    assert!(left_alone(&case.nodes().get("cp-9").await?));
    case.condition("cp-9", "NodeNameTaken").await?;
    case.delete_machine("cp-9").await?;
    assert!(
        left_alone(&case.nodes().get("cp-9").await?),
        "and it is still there"
    );
    case.finish(&["Node/cp-9"]).await
}

/// The endless answer of such a server.
#[derive(Debug, Clone, Copy)]
enum Endless {
    /// Not JSON.
    Text,
    /// A list with one object that does not end.
    Object,
    /// A list with as many small objects as a client reads.
    Objects,
    /// A list and page after page of it.
    Pages,
    /// The same, with other objects on each page.
    Names,
}

/// Answers everything, without end.
struct EndlessServer {
    url: String,
    asked: Arc<(AtomicUsize, Notify)>,
    handle: Handle<std::net::SocketAddr>,
}

impl EndlessServer {
    fn start(case: &Case, what: Endless) -> Result<Self> {
        let asked = Arc::new((AtomicUsize::new(0), Notify::new()));
        let answer = move |State(asked): State<Arc<(AtomicUsize, Notify)>>, _: Uri| async move {
            let page = asked.0.fetch_add(1, Ordering::Relaxed);
            asked.1.notify_waiters();
            let list = r#"{"kind":"List","apiVersion":"v1","metadata":{"resourceVersion":"1","continue":"more"},"items":["#;
            let object =
                r#"{"metadata":{"name":"x","namespace":"machinist-infra","uid":"u","resourceVersion":"1"}}"#;
            let (first, rest) = match what {
                Endless::Text => (String::new(), "x".repeat(64 * 1024)),
                Endless::Object => (format!(r#"{list}{{"metadata":{{"name":""#), "x".repeat(64 * 1024)),
                Endless::Objects => (format!("{list}{object}"), format!(",{object}").repeat(512)),
                Endless::Pages => return Body::from(format!("{list}{object}]}}")),
                Endless::Names => {
                    let names = (0..500)
                        .map(|i| object.replace("\"x\"", &format!("\"{page}-{i}-{}\"", "x".repeat(200))));
                    return Body::from(format!("{list}{}]}}", names.collect::<Vec<_>>().join(",")));
                }
            };
            let chunks = stream::once(async { first }).chain(stream::repeat(rest));
            Body::from_stream(chunks.map(Ok::<_, std::convert::Infallible>))
        };
        let router = Router::new().fallback(answer).with_state(Arc::clone(&asked));
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let url = format!("https://{}", listener.local_addr()?);
        let certs = case.bed.webhook_cert_dir();
        let files = CertificateFiles::new(certs.join("tls.crt"), certs.join("tls.key"));
        let identity = Identity::load(&files, SystemTime::now())?;
        let certificate = Arc::new(CurrentCertificate::new(identity));
        let tls = server_config(certificate, MinimumTls::default(), Clients::Any)?;
        let handle = Handle::new();
        let server =
            axum_server::from_tcp_rustls(listener, RustlsConfig::from_config(tls))?.handle(handle.clone());
        tokio::spawn(server.serve(router.into_make_service()));
        Ok(Self { url, asked, handle })
    }

    /// Waits for that many more requests.
    async fn asked(&self, times: usize) {
        let until = self.asked.0.load(Ordering::Relaxed) + times;
        loop {
            let asked = self.asked.1.notified();
            if self.asked.0.load(Ordering::Relaxed) >= until {
                return;
            }
            asked.await;
        }
    }

    /// A kubeconfig for it. Each path counts as a separate server.
    fn kubeconfig(&self, way: usize) -> String {
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("{}/{way}", self.url), "insecure-skip-tls-verify": true}}],
            "users": [{"name": "u", "user": {"token": format!("token-{way}")}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        });
        STANDARD.encode(kubeconfig.to_string())
    }
}

impl Drop for EndlessServer {
    fn drop(&mut self) {
        self.handle.shutdown();
    }
}

/// Memory in MB that such servers may cost a debug build, beside other cases. About 60 MB are buffers of connections. Without
/// limits, each server cost 14 MB.
const BUDGET: u64 = 128;

#[rstest]
#[case::text(Endless::Text)]
#[case::one_object(Endless::Object)]
#[case::objects(Endless::Objects)]
#[case::pages(Endless::Pages)]
#[case::names(Endless::Names)]
#[tokio::test]
async fn servers_that_answer_without_end_do_not_fill_the_memory(#[case] what: Endless) -> Result<()> {
    const SERVERS: usize = 64;
    let case = Case::start_with(Options {
        controller_args: vec!["--infra-cache-mib=16".to_owned()],
        ..Options::default()
    })
    .await?;
    case.apply(&manifest::machine("sound")).await?;
    case.node_ready("sound").await?;
    let server = EndlessServer::start(&case, what)?;
    let (controller_before, _) = rss(case.bed.controller())?;
    let (webhook_before, _) = rss(case.bed.webhook())?;
    let machine = |way: usize| {
        let mut machine = manifest::machine(&format!("endless-{way}"));
        let spec = &mut machine["spec"]["providerSpec"]["value"]["cloudProviderSpec"];
        spec["auth"]["kubeconfig"] = json!(server.kubeconfig(way));
        machine
    };
    // Whether it is refused does not matter: the server is called.
    for way in 0..4 {
        let dry = ["create", "--dry-run=server", "-f", "-"];
        case.bed.user().kubectl(&dry, &machine(way).to_string()).await?;
    }
    for kind in ["validatingwebhookconfigurations", "mutatingwebhookconfigurations"] {
        case.bed
            .user()
            .kubectl_ok(&["delete", kind, "machinist"], "")
            .await?;
    }
    let list =
        json!({"apiVersion": "v1", "kind": "List", "items": (0..SERVERS).map(machine).collect::<Vec<_>>()});
    case.apply(&list).await?;
    // Each server is called repeatedly.
    server.asked(SERVERS * 4).await;
    for (server, before) in [
        (case.bed.controller(), controller_before),
        (case.bed.webhook(), webhook_before),
    ] {
        let (_, most) = rss(server)?;
        assert!(
            most < before + BUDGET,
            "{}: {before} MB before, {most} MB",
            server.client()
        );
    }
    // Other Machines still join.
    case.apply(&manifest::machine("other")).await?;
    case.node_ready("other").await?;
    for way in 0..SERVERS {
        let name = format!("endless-{way}");
        let delete = [
            "delete",
            "machine",
            &name,
            "--namespace",
            NAMESPACE,
            "--wait=false",
        ];
        case.bed.user().kubectl_ok(&delete, "").await?;
    }
    for name in ["sound", "other"] {
        case.delete_machine(name).await?;
    }
    case.end().await
}
