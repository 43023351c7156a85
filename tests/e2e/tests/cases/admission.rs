//! Admission as a person at kubectl meets it, and what other programs have stored: on a real API server with the real
//! webhook, without a controller.

use anyhow::{Context as _, Result, ensure};
use e2e::manifest::NAMESPACE;
use e2e::rules::{Api, As, collection, machine};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use testbed::{
    Testbed,
    bed::{Machinist, Options},
    paths,
};

const BYPASS: &str = "kubermatic.io/bypass-no-spec-mutation-requirement";

/// One bed for all: each part leaves nothing behind.
#[tokio::test]
async fn admission_is_as_promised() -> Result<()> {
    let bed = Testbed::start(Options {
        one_cluster: true,
        boot: None,
        machinist: Machinist::Webhook,
        // Of what needs no infra cluster; `asked.rs` has the rest.
        webhook_args: vec!["--infra-unreachable=off".to_owned()],
        ..Options::default()
    })
    .await?;
    let api = Api::open(&bed).await?;
    let t = T { bed, api };
    t.five_mistakes_are_told_at_once()
        .await
        .context("bad-machine.yaml")?;
    t.examples_are_admitted().await.context("examples")?;
    t.a_bare_manifest_is_completed()
        .await
        .context("a bare manifest")?;
    t.what_go_programs_store_stays_as_it_is()
        .await
        .context("stored objects")?;
    t.the_way_around_opens_one_change()
        .await
        .context("the way around")?;
    t.what_is_stored_is_no_reason_to_refuse()
        .await
        .context("a stored object")?;
    t.a_deleting_machine_can_be_let_go()
        .await
        .context("a deleting Machine")?;
    t.every_field_is_explained().await.context("kubectl explain")?;
    t.nothing_but_specs_waits_for_the_webhook()
        .await
        .context("without the webhook")?;
    t.bed.shut_down().await
}

struct T {
    bed: Testbed,
    api: Api,
}

/// What kubectl printed, and whether it was content.
struct Printed {
    success: bool,
    out: String,
    err: String,
}

impl T {
    async fn kubectl(&self, args: &[&str], stdin: &str) -> Result<Printed> {
        let output = self.bed.user().kubectl(args, stdin).await?;
        Ok(Printed {
            success: output.status.success(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// kubectl with a merge patch of the Machine `m`.
    async fn patch(&self, patch: &Value) -> Result<Printed> {
        let patch = patch.to_string();
        let args = [
            "patch",
            "machine",
            "m",
            "-n",
            NAMESPACE,
            "--type=merge",
            "-p",
            &patch,
        ];
        self.kubectl(&args, "").await
    }

    async fn get(&self, plural: &str, name: &str) -> Result<Value> {
        let path = format!("{}/{name}", collection(plural));
        self.api
            .send(Method::GET, &path, &json!({}), As::Admin)
            .await?
            .ok()
    }

    async fn five_mistakes_are_told_at_once(&self) -> Result<()> {
        let file = paths::examples().join("bad-machine.yaml");
        let printed = self
            .kubectl(&["apply", "-f", &file.to_string_lossy()], "")
            .await?;
        ensure!(
            !printed.success && printed.out.is_empty(),
            "it was taken: {}",
            printed.out
        );
        println!("{}", printed.err);
        let causes = printed.err.lines().filter(|line| line.starts_with("* ")).count();
        ensure!(causes == 5, "{causes} causes: {}", printed.err);
        for part in [
            "spec.versions.kubelet: must be set",
            "spec.providerSpec.value.sshPublicKey: unknown field \"sshPublicKey\"; did you mean \"sshPublicKeys\"?",
            "spec.providerSpec.value.operatingSystem: \"ubunut\" is not supported; allowed: \"ubuntu\", ",
            "spec.providerSpec.value.cloudProviderSpec.virtualMachine.evictionStrategy: \"LiveMigration\" is not supported",
            "did you mean \"LiveMigrate\"?",
            "spec.providerSpec.value.cloudProviderSpec.virtualMachine.template.primaryDisk.size: \"10Gb\" is not a quantity",
        ] {
            ensure!(printed.err.contains(part), "{part:?} is not in: {}", printed.err);
        }
        Ok(())
    }

    async fn examples_are_admitted(&self) -> Result<()> {
        for (file, plural, name) in [
            ("kubevirt-machine.yaml", "machines", "my-machine"),
            (
                "kubevirt-machinedeployment.yaml",
                "machinedeployments",
                "my-machines",
            ),
        ] {
            let path = paths::examples().join(file);
            let args = ["apply", "-f", &path.to_string_lossy()];
            let tried = self
                .kubectl(&[&args[..], &["--dry-run=server"]].concat(), "")
                .await?;
            ensure!(
                tried.success && tried.out.contains("(server dry run)"),
                "{file}: {}",
                tried.err
            );
            let first = self.kubectl(&args, "").await?;
            ensure!(first.success && first.err.is_empty(), "{file}: {}", first.err);
            ensure!(first.out.contains("created"), "{file}: {}", first.out);
            let stored = self.get(plural, name).await?;
            let again = self.kubectl(&args, "").await?;
            ensure!(again.success && again.err.is_empty(), "{file}: {}", again.err);
            ensure!(
                self.get(plural, name).await?["spec"] == stored["spec"],
                "{file}: applying it again changed the spec"
            );
        }
        self.api.clear().await
    }

    /// As little as kubectl sends: no `spec.metadata`, no labels.
    async fn a_bare_manifest_is_completed(&self) -> Result<()> {
        let printed = self
            .kubectl(&["create", "-f", "-"], &machine().to_string())
            .await?;
        ensure!(printed.success, "{}", printed.err);
        let stored = self.get("machines", "m").await?;
        ensure!(stored["spec"]["metadata"]["name"] == "m", "{stored}");
        let labels = stored["spec"]["metadata"]["labels"].as_object();
        ensure!(labels.is_some_and(|labels| labels.len() == 1), "{stored}");
        let sent = &machine()["spec"]["providerSpec"]["value"]["cloudProviderSpec"];
        ensure!(
            &stored["spec"]["providerSpec"]["value"]["cloudProviderSpec"] == sent,
            "what the person wrote is stored: {stored}"
        );
        self.api.clear().await
    }

    async fn what_go_programs_store_stays_as_it_is(&self) -> Result<()> {
        for (plural, object) in stored_objects() {
            self.round_trip(plural, &object)
                .await
                .with_context(|| format!("{plural}: {object}"))?;
        }
        self.api.clear().await
    }

    /// Stores an object with strict field validation, and writes it back as it was read.
    async fn round_trip(&self, plural: &str, object: &Value) -> Result<()> {
        let all = collection(plural);
        let post = format!("{all}?fieldValidation=Strict");
        let mut stored = self.api.send(Method::POST, &post, object, As::Past).await?.ok()?;
        let name = stored["metadata"]["name"].as_str().context("no name")?.to_owned();
        let one = format!("{all}/{name}");
        if plural != "machines" && object.get("status").is_some() {
            stored["status"] = object["status"].clone();
            let put = format!("{one}/status?fieldValidation=Strict");
            self.api.send(Method::PUT, &put, &stored, As::Past).await?.ok()?;
        }
        let read = self.get(plural, &name).await?;
        same(object, &read)?;

        let put = format!("{one}?fieldValidation=Strict");
        let written = self.api.send(Method::PUT, &put, &read, As::Past).await?.ok()?;
        ensure!(
            written["metadata"]["resourceVersion"] == read["metadata"]["resourceVersion"],
            "writing it back was a change: {written}"
        );
        // A person may label it, whatever it is.
        let label = json!({"metadata": {"labels": {"a": "b"}}});
        self.api
            .send(Method::PATCH, &put, &label, As::Admin)
            .await?
            .ok()?;
        same(object, &self.get(plural, &name).await?)?;
        let gone = self.api.send(Method::DELETE, &one, &json!({}), As::Admin).await?;
        gone.ok().map(drop)
    }

    async fn the_way_around_opens_one_change(&self) -> Result<()> {
        let made = self
            .kubectl(&["create", "-f", "-"], &machine().to_string())
            .await?;
        ensure!(made.success, "{}", made.err);
        let change = |version: &str| json!({"spec": {"versions": {"kubelet": version}}});

        let refused = self.patch(&change("1.34.0")).await?;
        ensure!(
            !refused.success
                && refused
                    .err
                    .contains("spec.versions.kubelet: a Machine's spec is immutable"),
            "{}",
            refused.err
        );
        let mut open = change("1.34.0");
        open["metadata"] = json!({"annotations": {BYPASS: "true"}});
        let opened = self.patch(&open).await?;
        ensure!(opened.success, "{}", opened.err);
        let stored = self.get("machines", "m").await?;
        ensure!(stored["spec"]["versions"]["kubelet"] == "1.34.0", "{stored}");
        ensure!(
            stored["metadata"]["annotations"].get(BYPASS).is_none(),
            "{stored}"
        );

        for version in ["1.33.4", "1.35.0"] {
            let again = self.patch(&change(version)).await?;
            ensure!(!again.success, "the way around stayed open for {version}");
        }
        self.api.clear().await
    }

    /// Whatever is wrong with an object that is there: labels, finalizers, status, a providerID and fields that nobody
    /// knows can be written, and nothing of its spec.
    async fn what_is_stored_is_no_reason_to_refuse(&self) -> Result<()> {
        let mut broken = machine();
        broken["spec"] = json!({
            "providerSpec": {"value": {"cloudProvider": "aws", "foo": 1, "sshPublicKeys": ["x"]}},
            "configSource": {},
            "metadata": {"name": "other", "labels": {"a b": "c"}},
        });
        let post = collection("machines");
        self.api
            .send(Method::POST, &post, &broken, As::Past)
            .await?
            .ok()?;
        for patch in [
            json!({"metadata": {"labels": {"a": "b"}, "finalizers": ["a/b"]}}),
            json!({"metadata": {"finalizers": []}}),
            json!({"status": {"phase": "Failed"}}),
            json!({"spec": {"unknown": {"x": 1}}}),
            json!({"spec": {"providerID": "kubevirt://m"}}),
        ] {
            let printed = self.patch(&patch).await?;
            ensure!(printed.success, "{patch}: {}", printed.err);
        }
        for (patch, field) in [
            (
                json!({"spec": {"versions": {"kubelet": "1.33.4"}}}),
                "spec.versions.kubelet: ",
            ),
            (
                json!({"spec": {"providerID": "kubevirt://n"}}),
                "spec.providerID: ",
            ),
        ] {
            let printed = self.patch(&patch).await?;
            ensure!(
                !printed.success && printed.err.contains(field),
                "{patch}: {}",
                printed.err
            );
            let others = printed.err.matches("spec.").count();
            ensure!(others == 1, "only the change is told: {}", printed.err);
        }
        self.api.clear().await
    }

    async fn a_deleting_machine_can_be_let_go(&self) -> Result<()> {
        let mut held = machine();
        held["metadata"]["finalizers"] = json!(["a/b"]);
        // One that could not be made today.
        held["spec"]["versions"] = json!({});
        let post = collection("machines");
        self.api.send(Method::POST, &post, &held, As::Past).await?.ok()?;
        let args = ["delete", "machine", "m", "-n", NAMESPACE, "--wait=false"];
        ensure!(self.kubectl(&args, "").await?.success);

        let refused = self
            .patch(&json!({"spec": {"versions": {"kubelet": "1.34.0"}}}))
            .await?;
        ensure!(
            !refused.success
                && refused
                    .err
                    .contains("spec.versions.kubelet: a Machine's spec is immutable"),
            "{}",
            refused.err
        );
        for patch in [
            json!({"status": {"phase": "Deleting"}}),
            json!({"metadata": {"annotations": {"a": "b"}}}),
            json!({"metadata": {"finalizers": []}}),
        ] {
            let printed = self.patch(&patch).await?;
            ensure!(printed.success, "{patch}: {}", printed.err);
        }
        let path = format!("{post}/m");
        let gone = self.api.send(Method::GET, &path, &json!({}), As::Admin).await?;
        ensure!(
            gone.code == StatusCode::NOT_FOUND,
            "it is still there: {}",
            gone.body
        );
        Ok(())
    }

    async fn every_field_is_explained(&self) -> Result<()> {
        for (path, about) in [
            ("machine", "spec"),
            ("machine.spec", "providerSpec"),
            ("machine.spec.providerSpec", "value"),
            ("machine.spec.taints", "effect"),
            ("machine.status", "conditions"),
            ("machineset.spec", "deletePolicy"),
            ("machinedeployment.spec", "strategy"),
            ("machinedeployment.spec.template.spec.providerSpec", "value"),
        ] {
            let printed = self.kubectl(&["explain", path], "").await?;
            ensure!(printed.success, "{path}: {}", printed.err);
            ensure!(
                printed.out.contains(&format!("  {about}\t<")),
                "{path}: {}",
                printed.out
            );
            // What kubectl prints where a description of a field or of the whole is missing.
            for missing in ["<no description>", "<empty>"] {
                ensure!(!printed.out.contains(missing), "{path}: {}", printed.out);
            }
        }
        Ok(())
    }

    async fn nothing_but_specs_waits_for_the_webhook(&self) -> Result<()> {
        let made = self
            .kubectl(&["create", "-f", "-"], &machine().to_string())
            .await?;
        ensure!(made.success, "{}", made.err);
        self.bed.webhook().kill();
        for patch in [
            json!({"status": {"phase": "Running"}}),
            json!({"metadata": {"finalizers": ["a/b"], "labels": {"a": "b"}}}),
            json!({"spec": {"providerID": "x"}, "status": {"phase": "Provisioning"}}),
        ] {
            let printed = self.patch(&patch).await?;
            ensure!(printed.success, "{patch}: {}", printed.err);
        }
        let others = [
            json!({"spec": {"providerID": "y"}}),
            json!({"spec": {"providerID": null}}),
            json!({"spec": {"versions": {"kubelet": "1.34.1"}}}),
            json!({"metadata": {"annotations": {"kubermatic.io/bypass-no-spec-mutation-requirement": "true"}}}),
        ];
        for patch in &others {
            let printed = self.patch(patch).await?;
            ensure!(
                !printed.success && printed.err.contains("failed calling webhook"),
                "{patch}: {}",
                printed.err
            );
        }
        self.bed.webhook().start().await?;
        self.bed.webhook().ready().await?;
        let spec = self.patch(&others[0]).await?;
        ensure!(
            !spec.success && spec.err.contains("is immutable once set"),
            "{}",
            spec.err
        );
        self.api.clear().await
    }
}

/// Everything but the metadata is as it was.
fn same(want: &Value, got: &Value) -> Result<()> {
    let fields = want.as_object().into_iter().flatten();
    for (key, want) in fields.filter(|(key, _)| *key != "metadata") {
        let got = got.get(key).unwrap_or(&Value::Null);
        ensure!(got == want, "{key} became {got}");
    }
    Ok(())
}

/// Objects as machine-controller and others have stored them, with all that today's types do not know.
fn stored_objects() -> Vec<(&'static str, Value)> {
    let machines = [
        json!({"spec": machine_controllers_spec(), "status": {
            "nodeRef": {"kind": "Node", "apiVersion": "v1", "name": "m", "uid": "u", "resourceVersion": "1"},
            "versions": {"kubelet": "v1.33.4"},
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
            "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": null, "lastTransitionTime": null}],
            "errorReason": "CreateError", "errorMessage": "text",
            "lastUpdated": "2020-01-01T00:00:00Z", "phase": "Running",
            "providerStatus": {"any": [1, null]},
            "lastOperation": {"description": "d", "lastUpdated": null, "state": "s", "type": "t"},
        }}),
        json!({"spec": machine_controllers_spec(), "status": {}}),
        json!({"spec": null, "status": null}),
        json!({}),
        json!({"spec": {"metadata": {}, "providerSpec": {}, "versions": {"kubelet": ""}}, "status": {}}),
        json!({
            "spec": {
                "metadata": null, "taints": null, "providerSpec": null, "versions": null, "configSource": null,
                "providerID": null,
            },
            "status": {"nodeRef": null, "addresses": null, "conditions": null, "phase": null, "providerStatus": null},
        }),
        json!({
            "spec": {
                "metadata": {"creationTimestamp": null, "labels": null, "annotations": {"a": null}, "finalizers": []},
                "taints": [null, {}, {"key": null, "timeAdded": null, "x": 1}],
                "providerSpec": {"value": null, "valueFrom": {"machineClass": {"provider": null, "x": 1}}, "x": 1},
                "versions": {"kubelet": null, "x": 1},
                "configSource": {"configMap": {"name": "x"}, "x": null},
                "unknown": {"x": [1, null, {"y": 1.5}]},
                "Taints": "x",
            },
            "status": {"addresses": [null], "conditions": [null, {"x": 1}], "unknown": null, "versions": {"x": 1}},
            "unknown": [{}],
        }),
        json!({"spec": {"providerSpec": {"value": {"a": [1, {"b": null}]}}}, "status": {"providerStatus": "text"}}),
        json!({"spec": {"providerSpec": {"value": {}}}, "status": {"providerStatus": [1]}}),
    ];
    let template = json!({
        "metadata": {"creationTimestamp": null, "labels": {"a": "b"}, "x": 1},
        "spec": machine_controllers_spec(),
    });
    let sets = [
        json!({
            "spec": {
                "replicas": 2, "minReadySeconds": 0, "deletePolicy": "", "x": 1,
                "selector": {"matchLabels": {"a": "b"}}, "template": template,
            },
            "status": {"replicas": 0, "observedGeneration": 1, "x": 1},
        }),
        json!({"spec": {"selector": {}, "template": {"metadata": {}, "spec": {"metadata": {}, "providerSpec": {}, "versions": {"kubelet": ""}}}}}),
        // Replicas have a scale subresource, for which the API server refuses null; Go leaves them out.
        json!({"spec": {"minReadySeconds": null, "selector": null, "template": null, "deletePolicy": null}}),
    ];
    let deployments = [
        json!({
            "spec": {
                "replicas": 2, "selector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "a", "operator": "Exists", "values": null}]},
                "template": template, "paused": true, "minReadySeconds": 0, "revisionHistoryLimit": 1, "progressDeadlineSeconds": 600,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0, "x": 1}},
            },
            "status": {"observedGeneration": 1, "replicas": 2, "unavailableReplicas": 1},
        }),
        json!({"spec": {"minReadySeconds": null, "strategy": {"type": null, "rollingUpdate": null}, "template": {"metadata": null, "spec": null}}}),
        json!({"spec": {"strategy": null, "selector": null, "paused": null}}),
    ];
    let of = |plural, kind: &str, objects: &[Value]| {
        let objects = objects.iter().cloned().map(|mut object| {
            object["apiVersion"] = json!("cluster.k8s.io/v1alpha1");
            object["kind"] = json!(kind);
            object["metadata"] = json!({"name": "m", "namespace": NAMESPACE});
            (plural, object)
        });
        objects.collect::<Vec<_>>()
    };
    [
        of("machines", "Machine", &machines),
        of("machinesets", "MachineSet", &sets),
        of("machinedeployments", "MachineDeployment", &deployments),
    ]
    .concat()
}

fn machine_controllers_spec() -> Value {
    json!({
        "metadata": {"creationTimestamp": null, "name": "m", "labels": {"a": "b"}},
        "taints": [{"key": "k", "effect": "NoSchedule"}],
        "providerSpec": {"value": {
            "sshPublicKeys": null, "caPublicKey": "", "cloudProvider": "kubevirt",
            "cloudProviderSpec": {"auth": {"kubeconfig": {"value": "x", "secretKeyRef": {"key": ""}}}, "clusterName": "c"},
            "operatingSystem": "ubuntu", "operatingSystemSpec": {"distUpgradeOnBoot": false},
            "network": {"cidr": "", "gateway": "", "dns": {"servers": null}},
        }},
        "versions": {"kubelet": "1.33.4"},
        "providerID": "kubevirt://m",
    })
}
