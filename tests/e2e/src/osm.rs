//! operating-system-manager, as far as Machinist sees it: MachineDeployments with a profile, and the Secrets that it creates
//! for them and replaces. Their user data is the final one of its guests, which do not fetch a second part.

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, ResourceExt as _, api::DeleteParams, config::Kubeconfig};
use machinist_shared::api::names::{annotation, osm};
use serde_json::{Value, json};

use crate::{Case, manifest};

/// Name of all MachineDeployments here.
pub const DEPLOYMENT: &str = "pool";
/// Name of its bootstrap Secret.
pub const SECRET: &str = "pool-kube-system-bootstrap-config";
/// The token by which all guests of its user data join, and its Secret in kube-system.
const TOKEN: (&str, &str) = ("osmosm", "0123456789abcdef");
const GROUP: &str = "system:bootstrappers:machine-controller:default-node-token";

/// The namespace of its Secrets, and its token with the rights that such tokens have.
pub async fn install(case: &Case) -> Result<()> {
    let user = case.bed.user();
    user.kubectl_ok(&["create", "namespace", osm::NAMESPACE], "")
        .await?;
    let token = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": token_secret(), "namespace": "kube-system"},
        "stringData": {
            "token-id": TOKEN.0, "token-secret": TOKEN.1, "usage-bootstrap-authentication": "true",
            "auth-extra-groups": GROUP,
        },
    });
    user.kubectl_ok(&["create", "-f", "-"], &token.to_string())
        .await?;
    bind(case, "osm-may-ask", "system:node-bootstrapper").await?;
    bind_approved(case).await
}

/// Name of the binding by which kube-controller-manager approves the requests of its nodes.
pub const APPROVED: &str = "osm-is-approved";

/// Binds that.
pub async fn bind_approved(case: &Case) -> Result<()> {
    let role = "system:certificates.k8s.io:certificatesigningrequests:nodeclient";
    bind(case, APPROVED, role).await
}

async fn bind(case: &Case, name: &str, role: &str) -> Result<()> {
    let (role, group) = (format!("--clusterrole={role}"), format!("--group={GROUP}"));
    let bind = ["create", "clusterrolebinding", name, &role, &group];
    case.bed.user().kubectl_ok(&bind, "").await?;
    Ok(())
}

fn token_secret() -> String {
    format!("bootstrap-token-{}", TOKEN.0)
}

/// Deletes the token, which the leak checker would find.
pub async fn uninstall(case: &Case) -> Result<()> {
    let tokens: Api<Secret> = Api::namespaced(case.bed.user().client(), "kube-system");
    tokens.delete(&token_secret(), &DeleteParams::default()).await?;
    Ok(())
}

/// A MachineDeployment with this annotation of a profile, which no controller reconciles.
pub async fn deployment(case: &Case, profile: Option<&str>) -> Result<Value> {
    let mut deployment = of_template("MachineDeployment", DEPLOYMENT);
    if let Some(profile) = profile {
        deployment["metadata"]["annotations"][annotation::OPERATING_SYSTEM_PROFILE] = json!(profile);
    }
    created(case, &deployment).await
}

/// A MachineSet of that revision, below the MachineDeployment if there is one.
pub async fn set(case: &Case, name: &str, revision: &str, above: Option<&Value>) -> Result<Value> {
    let mut set = of_template("MachineSet", name);
    set["metadata"]["annotations"][annotation::REVISION] = json!(revision);
    if let Some(above) = above {
        set["metadata"]["ownerReferences"] = json!([owner(above)]);
    }
    created(case, &set).await
}

/// A Machine of that MachineSet.
pub fn machine(name: &str, set: &Value) -> Value {
    let mut machine = manifest::machine(name);
    machine["metadata"]["ownerReferences"] = json!([owner(set)]);
    machine
}

/// Replaces the Secret by one of that revision, as operating-system-manager does; its nodes have the label `made` with
/// that text.
pub async fn rotate(case: &Case, revision: &str, made: &str) -> Result<()> {
    let secrets = secrets(case);
    match secrets.delete(SECRET, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        deleted => drop(deleted?),
    }
    let secret = json!({
        "metadata": {"name": SECRET, "annotations": {annotation::BOOTSTRAP_REVISION: revision}},
        "type": "Opaque", "immutable": true,
        "stringData": {osm::KEY: user_data(case, made).await?},
    });
    secrets
        .create(
            &kube::api::PostParams::default(),
            &serde_json::from_value(secret)?,
        )
        .await?;
    Ok(())
}

fn secrets(case: &Case) -> Api<Secret> {
    Api::namespaced(case.bed.user().client(), osm::NAMESPACE)
}

/// The user data of its guests; `<MACHINE_NAME>` stands for their name.
pub async fn user_data(case: &Case, made: &str) -> Result<String> {
    let maps: Api<ConfigMap> = Api::namespaced(case.bed.user().client(), "kube-public");
    let info = maps.get("cluster-info").await?.data.unwrap_or_default();
    let info = info.get("kubeconfig").context("cluster-info has no kubeconfig")?;
    let clusters = serde_json::to_value(Kubeconfig::from_yaml(info)?.clusters)?;
    let cluster = &clusters[0]["cluster"];
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "c", "user": {"token": format!("{}.{}", TOKEN.0, TOKEN.1)}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    });
    let unit = format!(
        "[Service]\nExecStart=/opt/bin/kubelet --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf \
         --kubeconfig=/var/lib/kubelet/kubeconfig --hostname-override=<MACHINE_NAME> --node-labels=made={made}\n"
    );
    let config = json!({
        "hostname": "<MACHINE_NAME>",
        "write_files": [
            {"path": "/etc/kubernetes/bootstrap-kubelet.conf", "permissions": "0600", "content": kubeconfig.to_string()},
            {"path": "/etc/systemd/system/kubelet.service", "permissions": "0644", "content": unit},
        ],
    });
    Ok(format!("#cloud-config\n   \t\n{config:#}\n"))
}

/// The user data of a VM, from the newest of its Secrets.
pub async fn given(case: &Case, name: &str) -> Result<String> {
    let vm = case.vms().get(name).await?;
    let volumes = vm
        .data
        .pointer("/spec/template/spec/volumes")
        .and_then(Value::as_array);
    let secret = volumes
        .into_iter()
        .flatten()
        .find_map(|volume| volume.pointer("/cloudInitNoCloud/secretRef/name")?.as_str())
        .context("the VM has no user data")?;
    let secret = case.infra_secrets().get(secret).await?;
    let data = secret.data.as_ref().and_then(|data| data.get("userdata"));
    let bytes = data.with_context(|| format!("{} is empty", secret.name_any()))?;
    Ok(String::from_utf8(bytes.0.clone())?)
}

/// A MachineSet or MachineDeployment without Machines of its own.
fn of_template(kind: &str, name: &str) -> Value {
    let labels = json!({"set": name});
    json!({
        "apiVersion": "cluster.k8s.io/v1alpha1", "kind": kind,
        "metadata": {"name": name, "namespace": manifest::NAMESPACE, "annotations": {"cluster.x-k8s.io/paused": "true"}},
        "spec": {
            "replicas": 0, "paused": true, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": manifest::machine(name)["spec"]},
        },
    })
}

/// Creates an object, and returns it as stored.
async fn created(case: &Case, object: &Value) -> Result<Value> {
    let create = ["create", "-o", "json", "-f", "-"];
    let stored = case.bed.user().kubectl_ok(&create, &object.to_string()).await?;
    Ok(serde_json::from_str(&stored)?)
}

fn owner(object: &Value) -> Value {
    json!({
        "apiVersion": object["apiVersion"], "kind": object["kind"], "controller": true,
        "name": object["metadata"]["name"], "uid": object["metadata"]["uid"],
    })
}
