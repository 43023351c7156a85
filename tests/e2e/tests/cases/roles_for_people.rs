//! The chart's ClusterRoles for people: what Kubernetes' own view and edit include with them, and what only operators may.

use std::time::Instant;

use anyhow::{Result, ensure};
use e2e::{
    Case,
    case::WAIT_TIMEOUT,
    helm::{self, Helm},
    manifest::NAMESPACE,
    wait,
};
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::Api;

/// Verb and resource.
type Right = (&'static str, &'static str);

const VIEW: &[Right] = &[
    ("get", "machines.cluster.k8s.io"),
    ("list", "machinesets.cluster.k8s.io"),
    ("watch", "machinedeployments.cluster.k8s.io"),
    ("get", "machinedeployments.cluster.k8s.io/scale"),
    ("list", "events"),
];
const EDIT: &[Right] = &[
    ("create", "machines.cluster.k8s.io"),
    ("patch", "machinesets.cluster.k8s.io"),
    ("update", "machinedeployments.cluster.k8s.io"),
    ("delete", "machines.cluster.k8s.io"),
    ("patch", "machinedeployments.cluster.k8s.io/scale"),
];
const OPERATE: &[Right] = &[("adopt", "machines.cluster.k8s.io")];
/// Only controllers.
const NEVER: &[Right] = &[
    ("patch", "machinedeployments.cluster.k8s.io/status"),
    ("patch", "machinesets.cluster.k8s.io/status"),
    ("delete", "nodes"),
];

#[tokio::test]
async fn view_reads_edit_changes_and_an_operator_adopts() -> Result<()> {
    let case = Case::start().await?;
    let user = case.bed.user();
    let helm = Helm::of(user);
    let aggregated = ["--set=rbac.aggregateClusterRoles=true"];
    let objects = helm.render("machinist-system", &aggregated).await?;
    let mut names = Vec::new();
    for role in objects.iter().filter(|object| helm::is_role_for_people(object)) {
        let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        user.kubectl_ok(&apply, &role.to_string()).await?;
        names.push(role["metadata"]["name"].as_str().unwrap_or_default().to_owned());
    }
    ensure!(
        names == ["machinist-view", "machinist-edit", "machinist-operator"],
        "{names:?}"
    );
    let roles: Api<ClusterRole> = Api::all(user.client());
    for role in ["view", "edit"] {
        wait::until(&roles, role, "the roles are aggregated", WAIT_TIMEOUT, |role| {
            let all = role.and_then(|role| role.rules.as_ref()).into_iter().flatten();
            let mut groups = all.filter_map(|rule| rule.api_groups.as_ref()).flatten();
            groups.any(|group| group == "cluster.k8s.io")
        })
        .await?;
    }
    for role in ["view", "edit", "machinist-operator"] {
        let binding = format!("bind-{role}");
        let clusterrole = format!("--clusterrole={role}");
        let subject = format!("--user={role}");
        let create = [
            "create",
            "rolebinding",
            &binding,
            "--namespace",
            NAMESPACE,
            &clusterrole,
            &subject,
        ];
        user.kubectl_ok(&create, "").await?;
    }
    for (role, may, may_not) in [
        ("view", VIEW.to_vec(), [EDIT, OPERATE, NEVER].concat()),
        ("edit", [VIEW, EDIT].concat(), [OPERATE, NEVER].concat()),
        (
            "machinist-operator",
            [VIEW, EDIT, OPERATE].concat(),
            NEVER.to_vec(),
        ),
    ] {
        for (rights, expected) in [(may, true), (may_not, false)] {
            for (verb, resource) in rights {
                let who = format!("--as={role}");
                let (kind, subresource) = resource.split_once('/').unwrap_or((resource, ""));
                let subresource = format!("--subresource={subresource}");
                let ask = [
                    "auth",
                    "can-i",
                    verb,
                    kind,
                    &subresource,
                    &who,
                    "--namespace",
                    NAMESPACE,
                ];
                let since = Instant::now();
                // What the authorizer knows of roles comes by a watch of its own, and no event reports that it has it.
                let allowed = loop {
                    let allowed = user.kubectl(&ask, "").await?.status.success();
                    if allowed || !expected || since.elapsed() > WAIT_TIMEOUT {
                        break allowed;
                    }
                };
                ensure!(allowed == expected, "{role} {verb} {resource}: {allowed}");
            }
        }
    }
    for role in ["view", "edit", "machinist-operator"] {
        let binding = format!("bind-{role}");
        user.kubectl_ok(&["delete", "rolebinding", &binding, "--namespace", NAMESPACE], "")
            .await?;
    }
    for role in helm
        .render("machinist-system", &[])
        .await?
        .iter()
        .filter(|object| helm::is_role_for_people(object))
    {
        user.kubectl_ok(&["replace", "-f", "-"], &role.to_string())
            .await?;
    }
    case.finish(&[]).await
}
