//! Machines as Linux VMs with real kubelets, from Machinist's user data alone: joined, used, shut down.
//!
//! `MACHINIST_GUESTS` is how many at a time, 1 by default; `hack/test-guest.sh` builds what they boot from first.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use e2e::{Case, case, leaks, manifest, objects, wait};
use futures::{StreamExt as _, future::try_join_all};
use k8s_openapi::api::{
    certificates::v1::CertificateSigningRequest,
    core::v1::{Node, Pod},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams},
    runtime::{WatchStreamExt as _, watcher},
};
use machinist_shared::api::{Machine, names};
use serde_json::{Value, json};
use testbed::{GuestNetwork, bed::Options};

/// From `kubectl apply` to a Ready Node, and from `kubectl delete` to the removal. Alone on two cores it is 1.5 minutes for two
/// guests, and a quarter of a minute.
const WAIT_TIMEOUT: Duration = Duration::from_mins(6);

#[tokio::test]
async fn machines_become_nodes_with_real_kubelets_and_leave_nothing() -> Result<()> {
    if let Some(obstacle) = GuestNetwork::obstacle() {
        println!("\n*** SKIPPED: no real guest was started, for this machine forbids it: {obstacle} ***\n");
        return Ok(());
    }
    let count: usize = std::env::var("MACHINIST_GUESTS").map_or(Ok(1), |count| count.parse())?;
    let guests: Vec<String> = (1..=count).map(|number| format!("guest-{number}")).collect();
    let case = Case::start_alone(Options {
        real_guests: true,
        ..Options::default()
    })
    .await?;
    let joined = live(&case, &guests).await;
    if joined.is_err() {
        for guest in &guests {
            println!(
                "--- end of the console of {guest} ---\n{}",
                console_tail(&case, guest)
            );
        }
    }
    joined?;
    case.finish(&[]).await
}

async fn live(case: &Case, guests: &[String]) -> Result<()> {
    let first = FirstNodes::record(case.bed.user().client());
    try_join_all(
        guests
            .iter()
            .map(|guest| async move { case.apply(&machine(guest)).await }),
    )
    .await?;
    try_join_all(guests.iter().map(|guest| joins(case, guest))).await?;
    for guest in guests {
        let node = case.nodes().get(guest).await?;
        let machine = case.machines().get(guest).await?;
        is_what_the_machine_asked_for(&first.of(guest)?).context("at the Node's first moment")?;
        is_what_the_machine_asked_for(&node)?;
        is_the_machines(&machine, &node)?;
        is_the_guest_of_the_vm(case, &node).await?;
    }
    got_their_certificates_by_their_tokens(case, guests.len()).await?;
    try_join_all(guests.iter().map(|guest| runs_a_pod(case, guest))).await?;

    let uuids = try_join_all(guests.iter().map(|guest| uuid(case, guest))).await?;
    for uuid in &uuids {
        ensure!(
            runs_with(uuid),
            "no QEMU runs with the UUID {uuid}, so its end would prove nothing"
        );
    }
    try_join_all(guests.iter().map(|guest| goes(case, guest))).await?;
    leaks::check(&case.bed, &[]).await?;
    for uuid in &uuids {
        ensure!(!runs_with(uuid), "QEMU with the UUID {uuid} still runs");
    }
    for guest in guests {
        let console = console(case, guest);
        ensure!(
            console.contains("reboot: Power down"),
            "{guest} was not switched off by itself"
        );
        ensure!(case.vm_history.uids(guest).len() == 1, "{guest} had several VMs");
    }
    Ok(())
}

/// A Machine on a real guest, as small as a kubelet needs.
fn machine(name: &str) -> Value {
    let mut machine = manifest::machine(name);
    machine["metadata"]["annotations"] = json!({"sim.kubevirt.io/guest": "real"});
    let vm = manifest::virtual_machine(&mut machine);
    if let Some(vm) = vm.as_object_mut() {
        vm.remove("instancetype");
        vm.remove("preference");
    }
    vm["template"]["cpus"] = json!("2");
    vm["template"]["memory"] = json!("1536Mi");
    machine
}

async fn joins(case: &Case, guest: &str) -> Result<()> {
    let start = Instant::now();
    wait::for_state(&case.nodes(), guest, "Ready", WAIT_TIMEOUT, case::is_ready).await?;
    let knows = |machine: &Machine| {
        machine
            .status
            .as_ref()
            .is_some_and(|status| status.node_ref.is_some())
    };
    wait::for_state(&case.machines(), guest, "joined to its Node", WAIT_TIMEOUT, knows).await?;
    println!(
        "{guest}: Ready {:.0} s after kubectl apply",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Labels, taints and providerID, which a Node must have from its registration.
fn is_what_the_machine_asked_for(node: &Node) -> Result<()> {
    ensure!(
        node.labels().get("pool").is_some_and(|pool| pool == "workers"),
        "{:?}",
        node.labels()
    );
    let spec = node.spec.as_ref().context("no spec")?;
    let taints = spec.taints.iter().flatten();
    ensure!(
        taints
            .clone()
            .any(|taint| taint.key == "dedicated" && taint.effect == "NoSchedule"),
        "{:?}",
        spec.taints
    );
    ensure!(spec.provider_id.is_some(), "no providerID");
    Ok(())
}

fn is_the_machines(machine: &Machine, node: &Node) -> Result<()> {
    let status = machine.status.as_ref().context("no status")?;
    let node_ref = status.node_ref.as_ref().context("no nodeRef")?;
    ensure!(
        node_ref.uid == node.metadata.uid,
        "nodeRef is another Node's: {node_ref:?}"
    );
    let provider_id = node.spec.as_ref().and_then(|spec| spec.provider_id.as_ref());
    ensure!(
        machine.spec.provider_id.as_ref() == provider_id,
        "the Machine has another providerID than its Node"
    );
    let (theirs, ours) = (node_address(node)?, serde_json::to_string(&status.addresses)?);
    ensure!(
        ours.contains(&format!("{theirs:?}")),
        "{theirs} is not among {ours}"
    );
    Ok(())
}

/// A real system, on the hardware of the VMI's spec.
async fn is_the_guest_of_the_vm(case: &Case, node: &Node) -> Result<()> {
    let name = node.name_any();
    let info = node
        .status
        .as_ref()
        .and_then(|status| status.node_info.as_ref())
        .context("no nodeInfo")?;
    ensure!(info.kubelet_version == "v1.36.3", "{info:?}");
    ensure!(info.os_image.starts_with("Debian"), "{info:?}");
    ensure!(
        info.container_runtime_version.starts_with("containerd://"),
        "{info:?}"
    );
    ensure!(
        info.system_uuid.eq_ignore_ascii_case(&uuid(case, &name).await?),
        "{info:?}"
    );
    let vmi = instances(case).get(&name).await?;
    let address = vmi.data["status"]["interfaces"][0]["ipAddress"].as_str();
    ensure!(
        address == Some(&node_address(node)?),
        "KubeVirt and the kubelet disagree: {}",
        vmi.data["status"]["interfaces"]
    );
    Ok(())
}

/// Each kubelet has got its first certificate by its token, approved by Machinist.
async fn got_their_certificates_by_their_tokens(case: &Case, guests: usize) -> Result<()> {
    let api: Api<CertificateSigningRequest> = Api::all(case.bed.user().client());
    let requests = api.list(&ListParams::default()).await?;
    let by_token = |request: &&CertificateSigningRequest| {
        let mut groups = request.spec.groups.iter().flatten();
        groups.any(|group| group == names::TOKEN_GROUP)
    };
    let tokens: BTreeSet<_> = requests
        .iter()
        .filter(by_token)
        .map(|request| request.spec.username.as_deref())
        .collect();
    ensure!(tokens.len() == guests, "a token each: {tokens:?}");
    for request in requests.iter().filter(by_token) {
        let status = request.status.as_ref().context("undecided")?;
        let approved = status.conditions.iter().flatten().any(|condition| {
            condition.type_ == "Approved" && condition.reason.as_deref() == Some("MachinistApproved")
        });
        ensure!(approved && status.certificate.is_some(), "{status:?}");
    }
    Ok(())
}

/// A pod on the node, with a container that prints a line.
async fn runs_a_pod(case: &Case, guest: &str) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(case.bed.user().client(), "default");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": guest, "namespace": "default"},
        "spec": {
            "nodeName": guest,
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 1,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{
                "name": "main", "image": "guest.test/pause:1", "imagePullPolicy": "Never",
                "args": ["hello", "from", guest],
            }],
        },
    });
    case.apply(&pod).await?;
    let running = |pod: &Pod| {
        let status = pod.status.as_ref();
        let statuses = status.and_then(|status| status.container_statuses.as_ref());
        statuses.into_iter().flatten().any(|container| container.ready)
    };
    wait::for_state(&pods, guest, "running", WAIT_TIMEOUT, running).await?;
    let said = logs(case, guest).await?;
    ensure!(said.trim() == format!("hello from {guest}"), "{said:?}");
    pods.delete(guest, &DeleteParams::default()).await?;
    wait::for_absence(&pods, guest, WAIT_TIMEOUT).await
}

/// The log of the pod, through the API server and the kubelet's port 10250. A kubelet with serverTLSBootstrap must have its
/// serving certificate; the API server does not trust a self-signed one.
async fn logs(case: &Case, guest: &str) -> Result<String> {
    let requests: Api<CertificateSigningRequest> = Api::all(case.bed.user().client());
    let serving = |request: &CertificateSigningRequest| {
        request.spec.signer_name == "kubernetes.io/kubelet-serving"
            && request.spec.username.as_deref() == Some(&format!("system:node:{guest}"))
    };
    if !requests.list(&ListParams::default()).await?.iter().any(serving) {
        let logs = ["logs", guest, "--insecure-skip-tls-verify-backend=true"];
        return case.bed.user().kubectl_ok(&logs, "").await;
    }
    let issued = |request: &CertificateSigningRequest| {
        let status = request.status.as_ref();
        serving(request) && status.is_some_and(|status| status.certificate.is_some())
    };
    wait::any(&requests, "serving certificate", WAIT_TIMEOUT, issued).await?;
    // The kubelet starts to use it after some time, and reports that nowhere.
    let deadline = Instant::now() + WAIT_TIMEOUT;
    loop {
        match case.bed.user().kubectl_ok(&["logs", guest], "").await {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_secs(1)).await,
            said => return said,
        }
    }
}

async fn goes(case: &Case, guest: &str) -> Result<()> {
    case.begin_deletion(guest).await?;
    wait::for_absence(&case.machines(), guest, WAIT_TIMEOUT).await
}

fn instances(case: &Case) -> Api<kube::core::DynamicObject> {
    objects::infra(case.bed.infra().client(), &objects::virtual_machine_instance())
}

async fn uuid(case: &Case, guest: &str) -> Result<String> {
    let vmi = instances(case).get(guest).await?;
    let uuid = vmi.data["spec"]["domain"]["firmware"]["uuid"].as_str();
    Ok(uuid.context("a VMI without a firmware's UUID")?.to_owned())
}

fn node_address(node: &Node) -> Result<String> {
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    let internal = addresses
        .into_iter()
        .flatten()
        .find(|address| address.type_ == "InternalIP");
    Ok(internal.context("a Node without an InternalIP")?.address.clone())
}

/// Whether a process has this word on its command line.
fn runs_with(word: &str) -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|process| fs::read(process.path().join("cmdline")).ok())
        .any(|line| {
            line.split(|byte| *byte == 0)
                .any(|found| found == word.as_bytes())
        })
}

fn console(case: &Case, guest: &str) -> String {
    let text = fs::read(case.bed.consoles().join(format!("{guest}.log"))).unwrap_or_default();
    String::from_utf8_lossy(&text).into_owned()
}

fn console_tail(case: &Case, guest: &str) -> String {
    let console = console(case, guest);
    let lines: Vec<_> = console.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// Records every Node as it was at its registration, until it is dropped.
struct FirstNodes {
    seen: Arc<Mutex<BTreeMap<String, Node>>>,
    task: tokio::task::JoinHandle<()>,
}

impl FirstNodes {
    fn record(user: Client) -> Self {
        let seen = Arc::<Mutex<BTreeMap<String, Node>>>::default();
        let record = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut nodes = watcher(Api::<Node>::all(user), watcher::Config::default())
                .default_backoff()
                .applied_objects()
                .boxed();
            while let Some(node) = nodes.next().await {
                let Ok(node) = node else { continue };
                let mut seen = record.lock().unwrap_or_else(PoisonError::into_inner);
                seen.entry(node.name_any()).or_insert(node);
            }
        });
        Self { seen, task }
    }

    fn of(&self, name: &str) -> Result<Node> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(name)
            .cloned()
            .with_context(|| format!("Node {name} was never seen"))
    }
}

impl Drop for FirstNodes {
    fn drop(&mut self) {
        self.task.abort();
    }
}
