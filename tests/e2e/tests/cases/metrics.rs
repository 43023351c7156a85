//! Metrics of one Machine's life.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use e2e::{Case, manifest};
use testbed::paths;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// What `promtool check metrics` may report: these have the names that machine-controller gave them.
const COMPATIBLE: [&str; 1] =
    ["machine_controller_machines_total non-counter metrics should not have \"_total\" suffix"];

/// Problems of names, types and help texts, a line each.
async fn lint(metrics: &str) -> Result<String> {
    let unpacked = paths::tools_cache().join("bin/promtool");
    let program = if unpacked.exists() {
        unpacked
    } else {
        "promtool".into()
    };
    let mut promtool = Command::new(program)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("promtool is missing; run hack/install-tools.sh")?;
    let mut input = promtool.stdin.take().context("no stdin")?;
    input.write_all(metrics.as_bytes()).await?;
    drop(input);
    let output = promtool.wait_with_output().await?;
    Ok(String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?)
}

#[tokio::test]
async fn each_stage_of_a_life_is_timed_once() -> Result<()> {
    let case = Case::start().await?;
    case.apply(&manifest::machine("worker-1")).await?;
    case.node_ready("worker-1").await?;
    let mut problems = String::new();
    for server in case.bed.servers() {
        let metrics = server.metrics().await?;
        for figure in ["machinist_build_info{version=", "process_resident_memory_bytes "] {
            ensure!(metrics.contains(figure), "no {figure} in:\n{metrics}");
        }
        problems += &lint(&metrics).await?;
    }
    ensure!(problems.lines().eq(COMPATIBLE), "promtool reports:\n{problems}");
    case.delete_machine("worker-1").await?;
    case.settled().await;
    let metrics = case.bed.controller().metrics().await?;
    for counted in [
        "machinist_vm_running_to_status_seconds_count 1",
        "machinist_machine_phase_seconds_count{phase=\"Provisioning\"} 1",
        "machinist_machine_phase_seconds_count{phase=\"Running\"} 1",
        "machinist_machine_phase_seconds_count{phase=\"Deleting\"} 1",
        "machine_controller_provisioning_time_seconds_count 1",
        "machine_controller_deprovisioning_time_seconds_count 1",
        // Nothing has happened that these count.
        "machinist_reconciles_total{controller=\"machinedeployment\",result=\"error\"} 0",
        "machinist_unreadable_objects_total{kind=\"Machine\"} 0",
        "machinist_evictions_total{result=\"failed\"} 0",
    ] {
        ensure!(
            metrics.lines().any(|line| line == counted),
            "no {counted} in:\n{metrics}"
        );
    }
    // Prometheus sets these labels itself, for the target that a metric comes from.
    for label in ["cluster", "namespace", "pod", "instance", "job"] {
        let has_it =
            |line: &&str| line.contains(&format!("{{{label}=")) || line.contains(&format!(",{label}="));
        let mut ours = metrics.lines().filter(|line| line.starts_with("machinist_"));
        ensure!(!ours.any(|line| has_it(&line)), "a label {label} in:\n{metrics}");
    }
    case.finish(&[]).await
}
