//! Rendered manifests, applied to a real API server, and rendered arguments, parsed by Machinist's servers.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use e2e::helm::{self, Helm};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};
use testbed::{ControlPlane, binaries, control_plane, crds, paths};

use super::{CONTROLLER, EVERYTHING, HOST_NETWORK, NAMED, NAMESPACE, WEBHOOK, by_name};

#[tokio::test]
async fn the_servers_accept_every_rendered_flag() -> Result<()> {
    let servers = [(CONTROLLER, binaries::CONTROLLER), (WEBHOOK, binaries::WEBHOOK)];
    tokio::task::spawn_blocking(move || binaries::build(&servers.map(|(_, program)| program))).await??;
    let helm = Helm::alone().await?;
    for values in ["values.yaml", EVERYTHING, HOST_NETWORK, NAMED] {
        let objects = by_name(helm.render(NAMESPACE, &["--values", &helm::file(values)]).await?);
        for (deployment, program) in servers {
            // One more controller has a name of its own, and no webhook.
            let deployment = match (values, program) {
                (NAMED, binaries::CONTROLLER) => "Deployment/machinist-controller-green",
                (NAMED, _) => continue,
                _ => deployment,
            };
            let container = &objects[deployment]["spec"]["template"]["spec"]["containers"][0];
            assert_eq!(container["command"], json!([program]));
            let args: Vec<String> = serde_json::from_value(container["args"].clone())?;
            let answer = |more: &[&str]| {
                Command::new(binaries::find(program)?)
                    .args(args.iter().map(String::as_str).chain(more.iter().copied()))
                    .arg("--help")
                    .stdin(Stdio::null())
                    .output()
                    .context("starting the server")
            };
            let output = answer(&[])?;
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{values}: {program} {args:?}: {said}");
            // The flags before --help are parsed; otherwise this test would check nothing.
            assert!(!answer(&["--no-such-flag"])?.status.success());
            assert!(!answer(&["--log-format=loud"])?.status.success());
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_real_api_server_accepts_every_rendering_under_restricted_pod_security() -> Result<()> {
    let plane = ControlPlane::start(control_plane::Options::user()).await?;
    crds::install(&plane.client(), &monitoring()?).await?;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
    }});
    plane
        .kubectl_ok(&["apply", "-f", "-"], &namespace.to_string())
        .await?;
    plane.ensure_namespace("monitoring").await?;
    let helm = Helm::of(&plane);
    for values in ["values.yaml", EVERYTHING, HOST_NETWORK, NAMED] {
        let objects = helm.render(NAMESPACE, &["--values", &helm::file(values)]).await?;
        // Pods without an existing ServiceAccount are refused; the user may provide one.
        for pod in pods(&objects)? {
            let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {
                "namespace": NAMESPACE, "name": pod["spec"]["serviceAccountName"],
            }});
            plane
                .kubectl_ok(&["apply", "-f", "-"], &account.to_string())
                .await?;
        }
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
        let apply = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--validate=strict",
            "--dry-run=server",
            "-f",
            "-",
        ];
        let taken = plane.kubectl_ok(&apply, &list).await.context(values)?;
        ensure!(taken.lines().count() == objects.len(), "{values}: {taken}");

        for mut pod in pods(&objects)? {
            let create = ["create", "--dry-run=server", "-f", "-"];
            let in_the_nodes_network = pod["spec"]["hostNetwork"] == json!(true);
            let output = plane.kubectl(&create, &pod.to_string()).await?;
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.success(), !in_the_nodes_network, "{values}: {said}");
            if in_the_nodes_network {
                // There is no other warning.
                assert!(said.contains("host namespaces (hostNetwork=true)"), "{said}");
                pod["spec"]["hostNetwork"] = json!(false);
                plane.kubectl_ok(&create, &pod.to_string()).await?;
            }
            // Pod Security is active; otherwise this test would check nothing.
            pod["spec"]["securityContext"]["seccompProfile"] = Value::Null;
            let output = plane.kubectl(&create, &pod.to_string()).await?;
            assert!(String::from_utf8_lossy(&output.stderr).contains("seccompProfile"));
        }
    }
    Ok(())
}

/// A pod of each Deployment's template.
fn pods(objects: &[Value]) -> Result<Vec<Value>> {
    let pods: Vec<_> = objects
        .iter()
        .filter(|object| object["kind"] == "Deployment")
        .map(|deployment| {
            let mut pod = deployment["spec"]["template"].clone();
            pod["apiVersion"] = json!("v1");
            pod["kind"] = json!("Pod");
            pod["metadata"]["name"] = deployment["metadata"]["name"].clone();
            pod["metadata"]["namespace"] = json!(NAMESPACE);
            pod
        })
        .collect();
    ensure!(!pods.is_empty(), "no Deployments");
    Ok(pods)
}

/// The CRDs of prometheus-operator that the chart can make objects of, from its own module.
fn monitoring() -> Result<Vec<CustomResourceDefinition>> {
    const MODULE: &str = "github.com/prometheus-operator/prometheus-operator";
    let output = Command::new("go")
        .args(["mod", "download", "-json", MODULE])
        .current_dir(paths::tools_module().join("prometheus-operator"))
        .stdin(Stdio::null())
        .output()
        .context("starting go")?;
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    let dir = answer["Dir"].as_str().with_context(|| answer.to_string())?;
    ["podmonitors", "servicemonitors", "prometheusrules"]
        .into_iter()
        .map(|name| {
            let path = format!("{dir}/example/prometheus-operator-crd/monitoring.coreos.com_{name}.yaml");
            let text = std::fs::read_to_string(&path).context(path)?;
            Ok(serde_saphyr::from_str(&text)?)
        })
        .collect()
}
