//! KubeVirt's and CDI's own controllers and webhooks, as processes beside an infra cluster's API server.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::{
    ControlPlane, Kubevirt, crds,
    pki::Ca,
    ports::Port,
    process::{Process, Program},
    seed::INFRA_NAMESPACE,
};

/// How long all of them may take until they are ready, on a busy machine.
const START_TIMEOUT: Duration = Duration::from_mins(2);
/// Folder of their certificates in theirs.
const CERTIFICATES: &str = "certificates";
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Namespace and ServiceAccount of each process.
const ACCOUNTS: [(&str, &str, &str); 4] = [
    ("virt-api", "kubevirt", "kubevirt-apiserver"),
    ("virt-controller", "kubevirt", "kubevirt-controller"),
    ("cdi-apiserver", "cdi", "cdi-apiserver"),
    ("cdi-controller", "cdi", "cdi-sa"),
];

/// The prepared objects of the cluster.
pub(crate) struct Prepared {
    program: PathBuf,
    dir: PathBuf,
    ports: [Port; 3],
    webhooks: Vec<Value>,
}

/// The running processes. They are stopped when this is dropped.
pub struct KubevirtProcesses {
    processes: Vec<Process>,
    _ports: [Port; 3],
}

/// Creates what their operators install, without the webhooks: CRDs, ServiceAccounts and rights. Certificates are in `dir`.
pub(crate) async fn prepare(infra: &ControlPlane, dir: &Path) -> Result<Prepared> {
    let kubevirt = tokio::task::spawn_blocking(Kubevirt::build).await??;
    let dir = dir.join("kubevirt");
    let ca = Ca::new("kubevirt-ca")?;
    // They watch the whole folder of their certificates, so no log may be written there.
    let certificates = dir.join(CERTIFICATES);
    ca.serving("kubevirt", &[])?.write(&certificates, "tls")?;
    let ca_file = certificates.join("ca.crt");
    fs::write(&ca_file, ca.pem())?;
    let ports = [Port::reserve()?, Port::reserve()?, Port::reserve()?];
    let [virt_api, _, cdi_apiserver] = &ports;
    let objects = kubevirt.manifests(&virt_api.address(), &cdi_apiserver.address(), &ca_file)?;
    let is = |part: &str| {
        let part = part.to_owned();
        move |object: &Value| object["kind"].as_str().is_some_and(|kind| kind.contains(&part))
    };
    let (installed, others): (Vec<Value>, Vec<Value>) =
        objects.into_iter().partition(is("CustomResourceDefinition"));
    let (webhooks, rights): (Vec<Value>, Vec<Value>) = others.into_iter().partition(is("Webhook"));
    let installed = installed
        .into_iter()
        .map(serde_json::from_value)
        .collect::<Result<Vec<CustomResourceDefinition>, _>>()?;
    crds::install(&infra.client(), &installed).await?;
    for namespace in ["kubevirt", "cdi"] {
        infra.ensure_namespace(namespace).await?;
    }
    apply(infra, &rights).await?;
    for (name, namespace, account) in ACCOUNTS {
        let kubeconfig = infra
            .service_account_kubeconfig(namespace, account, infra.server())
            .await?;
        fs::write(dir.join(format!("{name}.kubeconfig")), kubeconfig)?;
    }
    Ok(Prepared {
        program: kubevirt.program().to_owned(),
        dir,
        ports,
        webhooks,
    })
}

impl Prepared {
    /// Starts them, and returns when they are ready.
    pub(crate) async fn start(self, infra: &ControlPlane) -> Result<KubevirtProcesses> {
        let [virt_api, virt_controller, cdi_apiserver] = &self.ports;
        let file = |name: &str| self.dir.join(name).display().to_string();
        let program = |name: &str| {
            let kubeconfig = format!("--kubeconfig={}", file(&format!("{name}.kubeconfig")));
            Program::new(name, &self.program, &self.dir)
                // Similar to their Deployments: without limits, each would use a whole machine.
                .env("GOMAXPROCS", "2")
                .arg(name)
                .arg(kubeconfig)
        };
        let (certificate, key) = (
            file(&format!("{CERTIFICATES}/tls.crt")),
            file(&format!("{CERTIFICATES}/tls.key")),
        );
        let with_certificate = |program: Program, purpose: &str| {
            program
                .arg(format!("--{purpose}-cert-file={certificate}"))
                .arg(format!("--{purpose}-key-file={key}"))
        };
        let listening = |program: Program, port: &Port| {
            program
                .arg("--listen=127.0.0.1")
                .arg(format!("--port={}", port.number()))
        };
        let programs = [
            with_certificate(
                with_certificate(listening(program("virt-api"), virt_api), "tls"),
                "handler",
            ),
            with_certificate(listening(program("virt-controller"), virt_controller), "prom")
                .arg("--launcher-image=registry.test/virt-launcher:v1"),
            with_certificate(program("cdi-apiserver"), "tls")
                .arg(format!("--listen={}", cdi_apiserver.address())),
            program("cdi-controller"),
        ];
        let processes = programs.iter().map(Program::spawn).collect::<Result<Vec<_>>>()?;
        let running = KubevirtProcesses {
            processes,
            _ports: self.ports.clone(),
        };
        let deadline = Instant::now() + START_TIMEOUT;
        for port in &self.ports {
            running
                .until(deadline, "a port is open", async || {
                    TcpStream::connect(port.address()).await.is_ok()
                })
                .await?;
        }
        apply(infra, &self.webhooks).await?;
        configure(infra).await?;
        let client = infra.client();
        running
            .until(deadline, "virt-api is asked", async || is_refused(&client).await)
            .await?;
        running
            .until(deadline, "CDI's controllers work", async || {
                is_adopted(&client).await
            })
            .await?;
        Ok(running)
    }
}

impl KubevirtProcesses {
    /// The processes.
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }

    async fn until(&self, deadline: Instant, what: &str, mut done: impl AsyncFnMut() -> bool) -> Result<()> {
        while !done().await {
            for process in &self.processes {
                process.check_alive()?;
            }
            if Instant::now() > deadline {
                bail!("not within {START_TIMEOUT:?}: {what}");
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }
}

/// The objects that both operators reconcile, with statuses that the testbed writes.
async fn configure(infra: &ControlPlane) -> Result<()> {
    let client = infra.client();
    let kubevirt = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "KubeVirt",
        "metadata": {"name": "kubevirt", "namespace": "kubevirt"},
        "spec": {"configuration": {}},
        "status": {"phase": "Deployed", "defaultArchitecture": "amd64"},
    });
    let cdi = json!({
        "apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "CDI",
        "metadata": {"name": "cdi", "annotations": {"cdi.kubevirt.io/configAuthority": ""}},
        "spec": {"config": {"featureGates": ["HonorWaitForFirstConsumer"]}},
        "status": {"phase": "Deployed"},
    });
    let kubevirts = api(&client, "kubevirt.io", "v1", "KubeVirt", Some("kubevirt"));
    let params = PostParams::default();
    kubevirts
        .create(&params, &serde_json::from_value(kubevirt.clone())?)
        .await?;
    kubevirts
        .patch_status("kubevirt", &PatchParams::default(), &Patch::Merge(kubevirt))
        .await?;
    let cdis = api(&client, "cdi.kubevirt.io", "v1beta1", "CDI", None);
    cdis.create(&params, &serde_json::from_value(cdi)?).await?;
    Ok(())
}

fn api(
    client: &Client,
    group: &str,
    version: &str,
    kind: &str,
    namespace: Option<&str>,
) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

/// Whether a VM that KubeVirt refuses is refused.
async fn is_refused(client: &Client) -> bool {
    let vm = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "refused"},
        "spec": {"runStrategy": "Once", "template": {"spec": {
            "domain": {"devices": {"disks": [{"name": "without-a-volume"}]}},
        }}},
    });
    let Ok(vm) = serde_json::from_value(vm) else {
        return false;
    };
    let vms = api(
        client,
        "kubevirt.io",
        "v1",
        "VirtualMachine",
        Some(INFRA_NAMESPACE),
    );
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    matches!(vms.create(&params, &vm).await, Err(kube::Error::Api(status)) if status.message.contains("denied"))
}

/// Whether CDI has reconciled the StorageProfile of the seed.
async fn is_adopted(client: &Client) -> bool {
    let profiles = api(client, "cdi.kubevirt.io", "v1beta1", "StorageProfile", None);
    let Ok(profile) = profiles.get("standard").await else {
        return false;
    };
    profile.data.pointer("/status/conditions").is_some()
}

async fn apply(infra: &ControlPlane, objects: &[Value]) -> Result<()> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    infra
        .kubectl_ok(&["apply", "--server-side", "-f", "-"], &list.to_string())
        .await
        .context("what KubeVirt and CDI install")?;
    Ok(())
}
