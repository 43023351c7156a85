//! Audit logs: the requests of Machinist to the API servers of all runs, and whether RBAC allowed them.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{bed::SYSTEM_NAMESPACE, control_plane::Options, seed::INFRA_NAMESPACE};

/// Variable with the absolute path of a folder, where every API server logs the requests of Machinist's ServiceAccounts.
pub const FOLDER: &str = "MACHINIST_AUDIT_DIR";

/// Extension of a file beside a log: resources, one a line, that its cluster refuses on purpose; `*`: any.
pub const REFUSED: &str = "refused";

const EVERYTHING: &str =
    "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n";

/// The audit policy of an API server, and its log.
pub(crate) struct Audit {
    pub(crate) policy: String,
    pub(crate) log: PathBuf,
}

/// `None` without auditing. `dir` is the directory of the control plane.
pub(crate) fn audit(options: &Options, dir: &Path) -> Option<Audit> {
    if options.audit {
        return Some(Audit {
            policy: EVERYTHING.to_owned(),
            log: dir.join("audit.log"),
        });
    }
    let log = shared_log(dir)?;
    let policy = format!(
        "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  userGroups: [\"system:serviceaccounts:{SYSTEM_NAMESPACE}\", \"system:serviceaccounts:{INFRA_NAMESPACE}\"]
- level: None
"
    );
    Some(Audit { policy, log })
}

/// Records that the control plane of that folder refuses these resources on purpose.
pub(crate) fn note_refused(dir: &Path, resources: &[&str]) -> Result<()> {
    let Some(log) = shared_log(dir) else {
        return Ok(());
    };
    let note = log.with_extension(REFUSED);
    fs::write(&note, resources.join("\n")).with_context(|| format!("writing {}", note.display()))
}

/// A log in the folder of all runs, named after the run and the cluster.
fn shared_log(dir: &Path) -> Option<PathBuf> {
    let folder = env::var_os(FOLDER)?;
    let name: Vec<_> = dir
        .iter()
        .rev()
        .take(2)
        .map(|part| part.to_string_lossy())
        .collect();
    let name = name.into_iter().rev().collect::<Vec<_>>().join("-");
    Some(Path::new(&folder).join(format!("{name}.log")))
}
