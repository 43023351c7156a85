//! Machinist uses every right that the chart and the example for infra clusters grant, and none of its requests is forbidden:
//! compares the audit logs of all runs with the Roles. `make test` runs this last.

use std::{collections::BTreeSet, env, fs, io::BufRead as _, path::Path};

use anyhow::{Context as _, Result, ensure};
use e2e::{
    helm::Helm,
    rbac_audit::{Exception, Log, granted, replay},
};
use serde_json::Value;
use testbed::{
    audit::{FOLDER, REFUSED},
    bed::SYSTEM_NAMESPACE,
    paths,
};

/// Rights that the API server checks inside another request, or that are used too rarely to be seen.
const UNSEEN: &[Exception] = &[
    (
        "machinist-controller",
        "approve",
        "signers.certificates.k8s.io",
        "checked when a client writes certificatesigningrequests/approval",
    ),
    (
        "machinist-approver",
        "approve",
        "signers.certificates.k8s.io",
        "checked when a client writes certificatesigningrequests/approval",
    ),
    (
        "machinist-approver",
        "patch",
        "events.events.k8s.io",
        "a repeated Event, which is only seen of the controller",
    ),
    (
        "machinist-controller",
        "update",
        "machinesets.cluster.k8s.io/finalizers",
        "checked when a client writes an owner reference, with OwnerReferencesPermissionEnforcement",
    ),
    (
        "machinist-controller",
        "update",
        "machinedeployments.cluster.k8s.io/finalizers",
        "checked when a client writes an owner reference, with OwnerReferencesPermissionEnforcement",
    ),
];

/// Requests that may be forbidden, and that Machinist can do without.
const TRIED: &[Exception] = &[(
    "machinist",
    "list",
    "nodes",
    "whether any infra node is large enough, a hint at admission of a MachineDeployment",
)];

/// Values under which the chart grants something; the first are the defaults.
const VALUES: &[&[&str]] = &[
    &[],
    &["--set=webhook.certificate.mode=certManager"],
    &["--set=approver.separate=true"],
    &["--set=webhook.url=https://10.0.0.1:9876,webhook.certificate.mode=selfManaged"],
];

#[tokio::test]
async fn every_right_is_used_and_nothing_was_forbidden() -> Result<()> {
    let folder = env::var_os(FOLDER).with_context(|| format!("{FOLDER} is not set"))?;
    let logs = logs(Path::new(&folder))?;
    let helm = Helm::alone().await?;
    let mut rights = BTreeSet::new();
    for values in VALUES {
        rights.extend(granted(&helm.render(SYSTEM_NAMESPACE, values).await?)?);
    }
    let example = fs::read_to_string(paths::examples().join("infra-rbac.yaml"))?;
    rights.extend(granted(&serde_saphyr::from_multiple::<Value>(&example)?)?);

    let replay = replay(&rights, &logs, UNSEEN, TRIED);
    println!(
        "RBAC replay of {} audit logs: rules used / rules granted = {} / {} = {} %, forbidden = {}",
        logs.len(),
        replay.used,
        replay.granted,
        replay.used * 100 / replay.granted.max(1),
        replay.forbidden
    );
    ensure!(replay.wrong.is_empty(), "{:#?}", replay.wrong);
    Ok(())
}

fn logs(folder: &Path) -> Result<Vec<Log>> {
    let mut logs = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let on_purpose = fs::read_to_string(path.with_extension(REFUSED)).unwrap_or_default();
        let mut log = Log {
            name,
            on_purpose: on_purpose.lines().map(str::to_owned).collect(),
            ..Log::default()
        };
        for line in std::io::BufReader::new(fs::File::open(&path)?).lines() {
            log.read(&line?);
        }
        logs.push(log);
    }
    ensure!(!logs.is_empty(), "no audit logs in {}", folder.display());
    Ok(logs)
}
