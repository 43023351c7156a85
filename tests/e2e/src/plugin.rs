//! `kubectl machinist`, run as the admin of the user cluster.

use std::process::Stdio;

use anyhow::Result;
use testbed::binaries;

use crate::Case;

/// Runs it. Returns the exit code, and the output with what it wrote to standard error.
pub async fn run(case: &Case, args: &[&str]) -> Result<(Option<i32>, String)> {
    let output = tokio::process::Command::new(binaries::find(binaries::PLUGIN)?)
        .args(args)
        .env("KUBECONFIG", case.bed.user().admin_kubeconfig_path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.code(), text(&output.stdout) + &text(&output.stderr)))
}
