//! An admission policy changes the objects that MachineSets and MachineDeployments create, so that selectors do not match:
//! they stop creating, report it, and delete what was created.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use e2e::{Case, case::WAIT_TIMEOUT, manifest, rollout::deployment, wait};
use futures::StreamExt as _;
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource, ResourceExt as _};
use machinist_shared::api::MachineSet;
use machinist_shared::api::names::annotation;
use serde_json::{Value, json};

#[tokio::test]
async fn a_set_whose_machines_are_relabeled_at_admission_creates_one_and_deletes_it() -> Result<()> {
    let case = Case::start().await?;
    let probe = manifest::machine_set("probe", 0)["spec"]["template"].clone();
    let mut probe = probe;
    probe["apiVersion"] = json!("cluster.k8s.io/v1alpha1");
    probe["kind"] = json!("Machine");
    probe["metadata"]["name"] = json!("probe");
    probe["metadata"]["namespace"] = json!(manifest::NAMESPACE);
    let policy = RelabelPolicy {
        resource: "machines",
        label: "set",
        probe,
    };
    policy.begin(&case).await?;
    let made = CreatedUids::record(case.machines());
    case.apply(&manifest::machine_set("workers", 2)).await?;
    let halted = |set: &MachineSet| error_reason(set) == Some("MachineChangedAtAdmission");
    let set = wait::for_state(&case.machine_sets(), "workers", "halted", WAIT_TIMEOUT, halted).await?;
    let said = set
        .status
        .and_then(|status| status.error_message)
        .unwrap_or_default();
    ensure!(said.contains("set=overridden instead of set=workers"), "{said}");
    none_left(&case.machines()).await?;
    let events = case
        .kubectl(&["get", "events", "--field-selector=reason=ReconcileError"])
        .await?;
    ensure!(events.contains("set=overridden"), "{events}");
    case.settled().await;
    ensure!(made.count() == 1, "{} were made", made.count());

    // Once the policy is deleted, resuming the set makes it try again.
    policy.end(&case).await?;
    let pause = |text: Value| json!({"metadata": {"annotations": {annotation::PAUSED: text}}});
    patch_set(&case, "workers", pause("".into())).await?;
    let quiet = |set: &MachineSet| error_reason(set).is_none();
    wait::for_state(&case.machine_sets(), "workers", "paused", WAIT_TIMEOUT, quiet).await?;
    ensure!(made.count() == 1, "{} were made", made.count());
    patch_set(&case, "workers", pause(Value::Null)).await?;
    let ready = |set: &MachineSet| {
        set.status
            .as_ref()
            .is_some_and(|status| status.ready_replicas == Some(2))
    };
    let set = wait::for_state(&case.machine_sets(), "workers", "ready", WAIT_TIMEOUT, ready).await?;
    ensure!(error_reason(&set).is_none(), "{set:?}");
    ensure!(made.count() == 3, "{} were made", made.count());
    case.kubectl(&["delete", "machineset", "workers"]).await?;
    none_left(&case.machines()).await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_deployment_whose_sets_are_relabeled_at_admission_creates_one_and_deletes_it() -> Result<()> {
    let case = Case::start().await?;
    let mut probe = manifest::machine_set("probe", 0);
    probe["metadata"]["labels"] = json!({"pool": "probe"});
    let policy = RelabelPolicy {
        resource: "machinesets",
        label: "pool",
        probe,
    };
    policy.begin(&case).await?;
    let (sets, machines) = (
        CreatedUids::record(case.machine_sets()),
        CreatedUids::record(case.machines()),
    );
    case.apply(&deployment("pool", 1)).await?;
    let said = case.rollout("pool", "MachineSetChangedAtAdmission").await?;
    ensure!(said.contains("spec.selector does not select"), "{said}");
    none_left(&case.machine_sets()).await?;
    none_left(&case.machines()).await?;
    case.settled().await;
    ensure!(sets.count() == 1, "{} were made", sets.count());
    ensure!(machines.count() <= 1, "{} were made", machines.count());

    policy.end(&case).await?;
    let before = machines.count();
    case.kubectl(&[
        "patch",
        "md",
        "pool",
        "--type=merge",
        r#"--patch={"spec":{"paused":true}}"#,
    ])
    .await?;
    case.rollout("pool", "DeploymentPaused").await?;
    case.kubectl(&[
        "patch",
        "md",
        "pool",
        "--type=merge",
        r#"--patch={"spec":{"paused":false}}"#,
    ])
    .await?;
    case.rollout("pool", "NewMachineSetAvailable").await?;
    ensure!(sets.count() == 2, "{} were made", sets.count());
    ensure!(machines.count() == before + 1, "{} were made", machines.count());
    case.delete_deployment("pool").await?;
    case.finish(&[]).await
}

/// A policy that gives new objects another value of a label.
struct RelabelPolicy {
    resource: &'static str,
    label: &'static str,
    /// An object that the policy changes.
    probe: Value,
}

impl RelabelPolicy {
    /// Returns when it has taken effect.
    async fn begin(&self, case: &Case) -> Result<()> {
        let expression = format!(
            r#"[JSONPatch{{op: "add", path: "/metadata/labels/{}", value: "overridden"}}]"#,
            self.label
        );
        let rules = json!([{"apiGroups": ["cluster.k8s.io"], "apiVersions": ["v1alpha1"], "operations": ["CREATE"],
            "resources": [self.resource]}]);
        case.apply(&json!({"apiVersion": "v1", "kind": "List", "items": [
            {
                "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy",
                "metadata": {"name": "relabels"},
                "spec": {
                    "matchConstraints": {"resourceRules": rules},
                    "failurePolicy": "Fail", "reinvocationPolicy": "Never",
                    "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}],
                },
            },
            {
                "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding",
                "metadata": {"name": "relabels"}, "spec": {"policyName": "relabels"},
            },
        ]}))
        .await?;
        self.is_in_effect(case, true).await
    }

    /// Returns when it has no effect any more.
    async fn end(&self, case: &Case) -> Result<()> {
        case.kubectl(&[
            "delete",
            "mutatingadmissionpolicies/relabels",
            "mutatingadmissionpolicybindings/relabels",
        ])
        .await?;
        self.is_in_effect(case, false).await
    }

    /// The API server loads policies after a while, and reports that nowhere.
    async fn is_in_effect(&self, case: &Case, wanted: bool) -> Result<()> {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        let args = ["create", "--dry-run=server", "--output=json", "-f", "-"];
        while Instant::now() < deadline {
            let answer = case.bed.user().kubectl_ok(&args, &self.probe.to_string()).await?;
            let answer: Value = serde_json::from_str(&answer)?;
            if (answer["metadata"]["labels"][self.label] == "overridden") == wanted {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("the policy is not as wanted ({wanted}) after {WAIT_TIMEOUT:?}")
    }
}

/// UIDs of all objects that ever existed.
struct CreatedUids(Arc<Mutex<BTreeSet<String>>>);

impl CreatedUids {
    fn record<K>(api: Api<K>) -> Self
    where
        K: Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
    {
        let made: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let record = made.clone();
        // The task ends with the test's runtime.
        tokio::spawn(async move {
            let events = watcher(api, watcher::Config::default()).default_backoff();
            let mut objects = events.touched_objects().boxed();
            while let Some(object) = objects.next().await {
                let uid = object.ok().and_then(|object| object.uid());
                record.lock().unwrap_or_else(PoisonError::into_inner).extend(uid);
            }
        });
        Self(made)
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// Waits until there is none.
async fn none_left<K>(api: &Api<K>) -> Result<()>
where
    K: Resource + Clone + serde::de::DeserializeOwned + serde::Serialize + std::fmt::Debug + Send + 'static,
{
    for object in api.list(&ListParams::default()).await? {
        wait::for_absence(api, &object.name_any(), WAIT_TIMEOUT).await?;
    }
    Ok(())
}

fn error_reason(set: &MachineSet) -> Option<&str> {
    set.status.as_ref()?.error_reason.as_deref()
}

async fn patch_set(case: &Case, name: &str, patch: Value) -> Result<()> {
    case.machine_sets()
        .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await?;
    Ok(())
}
