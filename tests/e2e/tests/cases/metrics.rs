//! Metrics of one Machine's life.

use anyhow::{Result, ensure};
use e2e::{Case, manifest};

#[tokio::test]
async fn each_stage_of_a_life_is_timed_once() -> Result<()> {
    let case = Case::start().await?;
    case.apply(&manifest::machine("worker-1")).await?;
    case.node_ready("worker-1").await?;
    case.delete_machine("worker-1").await?;
    case.settled().await;
    let metrics = case.bed.controller().metrics().await?;
    for timed in [
        "machinist_vm_running_to_status_seconds_count 1",
        "machinist_machine_phase_seconds_count{phase=\"Provisioning\"} 1",
        "machinist_machine_phase_seconds_count{phase=\"Running\"} 1",
        "machinist_machine_phase_seconds_count{phase=\"Deleting\"} 1",
        "machine_controller_provisioning_time_seconds_count 1",
        "machine_controller_deprovisioning_time_seconds_count 1",
    ] {
        ensure!(
            metrics.lines().any(|line| line == timed),
            "no {timed} in:\n{metrics}"
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
