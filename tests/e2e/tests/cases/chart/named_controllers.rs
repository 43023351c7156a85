//! Several named controllers in one cluster: one release has all components, the others have a controller each.

use std::collections::BTreeSet;

use anyhow::Result;
use e2e::helm::{self, Helm};
use serde_json::{Value, json};

use super::{CONTROLLER, NAMED, NAMESPACE, WEBHOOK, by_name};

const GREEN: &str = "Deployment/machinist-controller-green";

/// Kind, namespace and name.
fn identities(objects: &[Value]) -> BTreeSet<[String; 3]> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    objects
        .iter()
        .map(|object| {
            let metadata = &object["metadata"];
            [&object["kind"], &metadata["namespace"], &metadata["name"]].map(text)
        })
        .collect()
}

#[tokio::test]
async fn releases_in_one_cluster_share_no_object() -> Result<()> {
    let helm = Helm::alone().await?;
    // Every optional component is enabled.
    let all = [
        "--set",
        "metrics.serviceMonitor.enabled=true,metrics.prometheusRule.enabled=true,metrics.dashboard.enabled=true,\
         networkPolicy.enabled=true",
    ];
    let named = helm::file(NAMED);
    let first = helm.render(NAMESPACE, &all).await?;
    let green = helm
        .render(NAMESPACE, &[&all[..], &["--values", &named]].concat())
        .await?;
    let blue = helm
        .render(
            NAMESPACE,
            &[&all[..], &["--values", &named, "--set", "controller.name=blue"]].concat(),
        )
        .await?;
    let [first, green, blue] = [first, green, blue].map(|objects| identities(&objects));
    for (one, other) in [(&first, &green), (&first, &blue), (&green, &blue)] {
        let both: Vec<_> = one.intersection(other).collect();
        assert!(both.is_empty(), "{both:?}");
    }
    let kinds: BTreeSet<_> = green.iter().map(|[kind, ..]| kind.as_str()).collect();
    for kind in [
        "CustomResourceDefinition",
        "MutatingWebhookConfiguration",
        "ValidatingWebhookConfiguration",
        "PrometheusRule",
        "ConfigMap",
    ] {
        assert!(!kinds.contains(kind), "{kind}");
        assert!(first.iter().any(|[there, ..]| there == kind), "{kind}");
    }
    Ok(())
}

#[tokio::test]
async fn each_has_its_own_name_lease_and_rights() -> Result<()> {
    let helm = Helm::alone().await?;
    let first = by_name(helm.render(NAMESPACE, &[]).await?);
    let green = by_name(helm.render(NAMESPACE, &["--values", &helm::file(NAMED)]).await?);
    for (objects, deployment, want) in [
        (
            &first,
            CONTROLLER,
            [
                "--name=",
                "--leader-election-lease=machine-controller",
                "--machine-sets=true",
            ],
        ),
        (
            &green,
            GREEN,
            [
                "--name=green",
                "--leader-election-lease=machine-controller-green",
                "--machine-sets=false",
            ],
        ),
    ] {
        let args = &args(&objects[deployment]);
        for arg in want {
            assert!(args.contains(&json!(arg)), "{arg} is not in {args:?}");
        }
    }
    assert_eq!(
        green["Role/machinist-controller-green-lease"]["rules"][1]["resourceNames"],
        json!(["machine-controller-green"])
    );
    for binding in [
        "ClusterRoleBinding/machinist-controller-green",
        "RoleBinding/machinist-controller-green-tokens",
        "RoleBinding/machinist-controller-green-lease",
        "RoleBinding/machinist-controller-green-apiserver",
        "RoleBinding/machinist-controller-green-api-server",
    ] {
        let subject = &green[binding]["subjects"][0];
        assert_eq!(subject["name"], "machinist-controller-green", "{binding}");
        let role = &green[binding]["roleRef"];
        let role = format!(
            "{}/{}",
            role["kind"].as_str().unwrap_or_default(),
            role["name"].as_str().unwrap_or_default()
        );
        assert!(green.contains_key(&role), "{role}");
    }
    // The name alone does not change the Lease: machine-controller with that name would use the same.
    let alone = by_name(
        helm.render(NAMESPACE, &["--set", "controller.name=green"])
            .await?,
    );
    assert!(args(&alone[CONTROLLER]).contains(&json!("--leader-election-lease=machine-controller")));
    Ok(())
}

#[tokio::test]
async fn the_main_release_is_configured_with_the_others() -> Result<()> {
    const USER: &str = "system:serviceaccount:green:machinist-controller-green";
    let set = format!("otherControllers={{{USER}}}");
    let objects = by_name(Helm::alone().await?.render(NAMESPACE, &["--set", &set]).await?);
    let users: Vec<_> = args(&objects[WEBHOOK])
        .into_iter()
        .filter_map(|arg| {
            arg.as_str()?
                .strip_prefix("--controller-user=")
                .map(str::to_owned)
        })
        .collect();
    assert_eq!(
        users,
        [
            "system:serviceaccount:machinist-system:machinist-controller",
            USER
        ]
    );
    let policy = &objects["ValidatingAdmissionPolicy/machinist-machine-status"]["spec"];
    let who = policy["matchConditions"][0]["expression"]
        .as_str()
        .unwrap_or_default();
    assert!(who.contains(USER), "{who}");
    Ok(())
}

fn args(deployment: &Value) -> Vec<Value> {
    let args = &deployment["spec"]["template"]["spec"]["containers"][0]["args"];
    args.as_array().cloned().unwrap_or_default()
}
