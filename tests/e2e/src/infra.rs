//! Credentials of the infra cluster, and the conditions of a Machine about that cluster.

use std::time::Duration;

use anyhow::{Result, bail};
use k8s_openapi::{ByteString, api::core::v1::Secret, api::rbac::v1::Role, jiff::Timestamp};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
    core::ObjectMeta,
};
use machinist_shared::api::{Machine, names::condition};
use serde_json::{Value, json};
use testbed::{
    kubeconfig,
    seed::{INFRA_ACCOUNT, INFRA_CLUSTER_ROLE, INFRA_NAMESPACE},
};

use crate::{Case, case::WAIT_TIMEOUT, manifest, manifest::NAMESPACE, objects, wait};

/// A new ServiceAccount with all the rights of the example, and its kubeconfig through the proxy's port of `client`.
pub async fn account(case: &Case, name: &str, client: &str) -> Result<String> {
    service_account(case, name).await?;
    let infra = case.bed.infra();
    let subject = json!([{"kind": "ServiceAccount", "name": name, "namespace": INFRA_NAMESPACE}]);
    for (kind, binding, role) in [
        (
            "RoleBinding",
            INFRA_ACCOUNT,
            json!({"kind": "Role", "name": INFRA_ACCOUNT}),
        ),
        (
            "ClusterRoleBinding",
            INFRA_NAMESPACE,
            json!({"kind": "ClusterRole", "name": INFRA_CLUSTER_ROLE}),
        ),
    ] {
        let mut role = role;
        role["apiGroup"] = json!("rbac.authorization.k8s.io");
        let object = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "subjects": subject, "roleRef": role,
            "metadata": {"name": format!("{binding}-{name}"), "namespace": INFRA_NAMESPACE},
        });
        infra
            .kubectl_ok(&["create", "-f", "-"], &object.to_string())
            .await?;
    }
    kubeconfig_of(case, name, client).await
}

/// A new ServiceAccount without any rights.
pub async fn service_account(case: &Case, name: &str) -> Result<()> {
    let create = ["create", "serviceaccount", name, "--namespace", INFRA_NAMESPACE];
    case.bed.infra().kubectl_ok(&create, "").await?;
    Ok(())
}

/// A kubeconfig of a ServiceAccount, through the proxy's port of `client`.
pub async fn kubeconfig_of(case: &Case, account: &str, client: &str) -> Result<String> {
    let infra = case.bed.infra();
    let server = infra.proxy().listen_as(client)?;
    infra
        .service_account_kubeconfig(INFRA_NAMESPACE, account, &server)
        .await
}

/// Deletes a ServiceAccount and returns when its kubeconfig is no longer accepted.
pub async fn revoke(case: &Case, account: &str, text: &str) -> Result<()> {
    let delete = [
        "delete",
        "serviceaccount",
        account,
        "--namespace",
        INFRA_NAMESPACE,
    ];
    case.bed.infra().kubectl_ok(&delete, "").await?;
    let vms = objects::infra(kubeconfig::client(text).await?, &objects::virtual_machine());
    // The API server caches authentications for ten seconds, and reports nowhere when an entry expires.
    for _ in 0..300 {
        match vms.list(&ListParams::default().limit(1)).await {
            Err(kube::Error::Api(status)) if status.code == 401 => return Ok(()),
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    bail!("the token of {account} is still accepted")
}

/// Stores a kubeconfig in a Secret of the user cluster.
pub async fn store(user: Client, secret: &str, kubeconfig: &str) -> Result<()> {
    let object = Secret {
        metadata: ObjectMeta {
            name: Some(secret.into()),
            ..ObjectMeta::default()
        },
        data: Some([("kubeconfig".to_owned(), ByteString(kubeconfig.into()))].into()),
        ..Secret::default()
    };
    let api: Api<Secret> = Api::namespaced(user, NAMESPACE);
    let params = PatchParams::apply("testbed").force();
    api.patch(secret, &params, &Patch::Apply(object)).await?;
    Ok(())
}

/// A Machine whose kubeconfig is in that Secret.
pub fn machine(name: &str, secret: &str) -> Value {
    let mut machine = manifest::machine(name);
    kubeconfig_in(&mut machine)["secretKeyRef"]["name"] = json!(secret);
    machine
}

/// `auth.kubeconfig` of a Machine, to change before it is applied.
pub fn kubeconfig_in(machine: &mut Value) -> &mut Value {
    &mut machine["spec"]["providerSpec"]["value"]["cloudProviderSpec"]["auth"]["kubeconfig"]
}

/// The watched resources: as rules name them, and with their groups.
const WATCHED: [(&str, &str); 4] = [
    ("virtualmachines", "virtualmachines.kubevirt.io"),
    ("virtualmachineinstances", "virtualmachineinstances.kubevirt.io"),
    ("datavolumes", "datavolumes.cdi.kubevirt.io"),
    ("persistentvolumeclaims", "persistentvolumeclaims"),
];

/// Gives the example's Role these verbs on the watched resources. Other rules stay as they are.
pub async fn allow(case: &Case, verbs: impl Fn(&str) -> Vec<&'static str>) -> Result<()> {
    let roles: Api<Role> = Api::namespaced(case.bed.infra().client(), INFRA_NAMESPACE);
    let mut role = roles.get(INFRA_ACCOUNT).await?;
    let looks = ["get", "list", "watch"];
    case.bed.infra().refuses(&WATCHED.map(|(_, full)| full))?;
    for rule in role.rules.iter_mut().flatten() {
        let resource = rule
            .resources
            .iter()
            .flatten()
            .next()
            .cloned()
            .unwrap_or_default();
        if WATCHED.iter().any(|(watched, _)| *watched == resource) {
            rule.verbs.retain(|verb| !looks.contains(&verb.as_str()));
            rule.verbs.extend(verbs(&resource).into_iter().map(str::to_owned));
            // A rule needs a verb; this one grants nothing that Machinist uses.
            rule.verbs.push("deletecollection".to_owned());
        }
    }
    let patch = json!({"rules": role.rules});
    roles
        .patch(INFRA_ACCOUNT, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    Ok(())
}

/// Status, reason, message and time of transition of a condition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConditionState {
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// CamelCase.
    pub reason: String,
    /// The message for the user.
    pub message: String,
    /// When the status last changed.
    pub since: Option<Timestamp>,
}

/// A condition of the Machine.
pub fn condition_of(machine: &Machine, kind: &str) -> ConditionState {
    let conditions = machine
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let found = conditions.into_iter().flatten().find(|c| c.type_ == kind);
    found.map_or_else(ConditionState::default, |c| ConditionState {
        status: c.status.clone(),
        reason: c.reason.clone().unwrap_or_default(),
        message: c.message.clone().unwrap_or_default(),
        since: c.last_transition_time.as_ref().map(|time| time.0),
    })
}

/// Waits until `InfrastructureReachable` has this reason.
pub async fn reachable(case: &Case, name: &str, reason: &str) -> Result<ConditionState> {
    about(case, name, condition::INFRASTRUCTURE_REACHABLE, reason).await
}

/// Waits until `InfrastructureReady` has this reason.
pub async fn ready(case: &Case, name: &str, reason: &str) -> Result<ConditionState> {
    about(case, name, condition::INFRASTRUCTURE_READY, reason).await
}

async fn about(case: &Case, name: &str, kind: &str, reason: &str) -> Result<ConditionState> {
    let what = format!("{kind} {reason}");
    let fits = |machine: &Machine| condition_of(machine, kind).reason == reason;
    let machine = wait::for_state(&case.machines(), name, &what, WAIT_TIMEOUT, fits).await?;
    Ok(condition_of(&machine, kind))
}

/// Creates a ResourceQuota of one resource in the namespace of the VMs and sets its used amount, because the quota
/// controller does not run there. The API server enforces it from then on.
pub async fn quota(case: &Case, name: &str, resource: &str, hard: &str, used: &str) -> Result<()> {
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name, "namespace": INFRA_NAMESPACE},
        "spec": {"hard": {resource: hard}},
    });
    let infra = case.bed.infra();
    infra
        .kubectl_ok(&["create", "-f", "-"], &quota.to_string())
        .await?;
    let status = json!({"status": {"hard": {resource: hard}, "used": {resource: used}}}).to_string();
    let patch = ["patch", "resourcequota", name, "--namespace", INFRA_NAMESPACE];
    let how = ["--subresource=status", "--type=merge", "--patch", &status];
    infra.kubectl_ok(&[&patch[..], &how[..]].concat(), "").await?;
    Ok(())
}

/// Allows the infra account to read Secrets there, which the example's Role does not.
pub async fn allow_reading_secrets(case: &Case) -> Result<()> {
    let infra = case.bed.infra();
    let namespace = ["--namespace", INFRA_NAMESPACE];
    let role = [
        "create",
        "role",
        "reader",
        "--verb=get,list",
        "--resource=secrets",
    ];
    infra.kubectl_ok(&[&role[..], &namespace].concat(), "").await?;
    let account = format!("--serviceaccount={INFRA_NAMESPACE}:{INFRA_ACCOUNT}");
    let bind = ["create", "rolebinding", "reader", "--role=reader", &account];
    infra.kubectl_ok(&[&bind[..], &namespace].concat(), "").await?;
    Ok(())
}
