//! KubeVirt's and CDI's own code, built from their Go modules: admission of VirtualMachines and the generated CRDs, without a
//! cluster, and the processes of [`crate::kubevirt_processes`].

use std::{
    fmt::Write as _,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::{go_build::GoBuild, paths};

/// The built program.
#[derive(Debug)]
pub struct Kubevirt {
    program: PathBuf,
}

/// KubeVirt's verdict on one VirtualMachine.
#[derive(Debug, Clone, Deserialize)]
pub struct Verdict {
    /// Whether it is accepted.
    pub allowed: bool,
    /// The message of the refusal.
    #[serde(default)]
    pub message: String,
    /// All causes of the refusal. None if it is not of the kind that has causes.
    #[serde(default)]
    pub causes: Vec<Cause>,
    /// Warnings.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The VirtualMachine with KubeVirt's defaults, if it is accepted.
    #[serde(default)]
    pub object: Value,
}

/// One cause of a refusal.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cause {
    /// metav1.CauseType
    pub reason: String,
    /// The message for the user.
    pub message: String,
    /// JSON path in the VirtualMachine.
    pub field: String,
}

impl Kubevirt {
    /// Builds the program, unless it exists.
    pub fn build() -> Result<Self> {
        let build = GoBuild {
            module: paths::tools_module().join("kubevirt"),
            name: "kubevirt",
            packages: vec![(".", "kubevirt")],
            linked: &[],
            takes: "about 3 minutes the first time, seconds when Go's build cache is warm",
        };
        Ok(Self {
            program: build.make()?.join("kubevirt"),
        })
    }

    /// Returns the CRDs that the testbed installs, as a JSON `List`: the contents of the file of [`crate::crds::kubevirt`].
    pub fn crds(&self) -> Result<String> {
        let printed = Command::new(&self.program)
            .arg("crds")
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("starting {}", self.program.display()))?;
        if !printed.status.success() {
            let said = String::from_utf8_lossy(&printed.stderr);
            bail!("kubevirt crds ended with {}: {said}", printed.status);
        }
        Ok(String::from_utf8(printed.stdout)?)
    }

    /// The program: see `tests/tools/kubevirt`.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// Objects that KubeVirt's and CDI's processes need besides [`Self::crds`]: CRDs, rights, and webhooks at these addresses.
    pub(crate) fn manifests(&self, virt_api: &str, cdi_apiserver: &str, ca: &Path) -> Result<Vec<Value>> {
        #[derive(Deserialize)]
        struct List {
            items: Vec<Value>,
        }
        let printed = Command::new(&self.program)
            .arg("manifests")
            .arg(format!("--virt-api=https://{virt_api}"))
            .arg(format!("--cdi-apiserver=https://{cdi_apiserver}"))
            .arg(format!("--ca-file={}", ca.display()))
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("starting {}", self.program.display()))?;
        if !printed.status.success() {
            let said = String::from_utf8_lossy(&printed.stderr);
            bail!("kubevirt manifests ended with {}: {said}", printed.status);
        }
        let list: List = serde_json::from_slice(&printed.stdout)?;
        Ok(list.items)
    }

    /// KubeVirt's verdict on the creation of each VM in a cluster with these instancetypes and preferences, with these feature
    /// gates enabled.
    pub fn judge(&self, gates: &[&str], cluster: &[Value], vms: &[Value]) -> Result<Vec<Verdict>> {
        let mut lines = String::new();
        for object in cluster.iter().chain(vms) {
            writeln!(lines, "{object}")?;
        }
        let mut child = Command::new(&self.program)
            .arg("admission")
            .arg(format!("--feature-gates={}", gates.join(",")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        // It writes output and logs while it reads: neither side may block the other.
        let feeder = std::thread::spawn(move || stdin.write_all(lines.as_bytes()));
        let mut stderr = child.stderr.take().context("no standard error")?;
        let log = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).map(|_| text)
        });
        let output = child.wait_with_output()?;
        let fed = feeder.join();
        let log = log.join().ok().and_then(Result::ok).unwrap_or_default();
        if !output.status.success() || !matches!(fed, Ok(Ok(()))) {
            let last: Vec<_> = log.lines().rev().take(20).collect();
            bail!("kubevirt admission ended with {}: {last:#?}", output.status);
        }
        let verdicts = String::from_utf8(output.stdout)?
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<Vec<Verdict>, _>>()?;
        if verdicts.len() != vms.len() {
            bail!("{} verdicts on {} VirtualMachines", verdicts.len(), vms.len());
        }
        Ok(verdicts)
    }
}
