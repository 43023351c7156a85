//! What tools that wait for an object compute of ours, with the library that Flux and Helm use.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use e2e::{Case, rollout::deployment};
use serde::Deserialize;
use serde_json::{Value, json};
use testbed::{bed::Options, tools};

const POOL: &str = "my-machines";

#[derive(Debug, Deserialize)]
struct Verdict {
    status: String,
    message: String,
}

#[tokio::test]
async fn pools_are_current_in_progress_or_failed_as_a_person_would_say() -> Result<()> {
    let case = Case::start_with(Options {
        controller_args: vec!["--join-cluster-timeout=20s".to_owned()],
        ..Options::default()
    })
    .await?;
    let mut pool = deployment(POOL, 2);
    case.apply(&pool).await?;
    case.rollout(POOL, "NewMachineSetAvailable").await?;
    shows(&case, "md", &[("Current", "")]).await?;
    shows(&case, "ms", &[("Current", "")]).await?;
    shows(&case, "machine", &[("Current", ""), ("Current", "")]).await?;

    case.kubectl(&[
        "patch",
        "md",
        POOL,
        "--type=merge",
        "--patch",
        r#"{"spec":{"paused":true}}"#,
    ])
    .await?;
    case.rollout(POOL, "DeploymentPaused").await?;
    // A person wants it so, and all Machines are available.
    shows(&case, "md", &[("Current", "")]).await?;
    case.kubectl(&[
        "patch",
        "md",
        POOL,
        "--type=merge",
        "--patch",
        r#"{"spec":{"paused":false}}"#,
    ])
    .await?;

    pool["spec"]["template"]["metadata"]["annotations"] = json!({"sim.kubevirt.io/never-joins": "true"});
    case.apply(&pool).await?;
    case.rollout(POOL, "MachineSetUpdated").await?;
    shows(
        &case,
        "md",
        &[("InProgress", "1 of 2 Machines are of the current template")],
    )
    .await?;
    case.rollout(POOL, "RolloutHalted").await?;
    shows(&case, "md", &[("Failed", "no Node within 20 s")]).await?;

    case.bed.controller().terminate().await?;
    case.kubectl(&["scale", "md", POOL, "--replicas=3"]).await?;
    // The controller has not seen the change: what the conditions say is of the spec before.
    shows(&case, "md", &[("InProgress", "")]).await?;
    case.bed.controller().start().await?;
    case.delete_deployment(POOL).await?;
    case.finish(&[]).await
}

/// Asserts the status and a part of the message of all objects of that kind.
async fn shows(case: &Case, kind: &str, expected: &[(&str, &str)]) -> Result<()> {
    let list: Value = serde_json::from_str(&case.kubectl(&["get", kind, "--output=json"]).await?)?;
    let objects = list["items"].to_string();
    let verdicts = tokio::task::spawn_blocking(move || compute(&objects)).await??;
    let fits = verdicts.len() == expected.len()
        && verdicts.iter().zip(expected).all(|(verdict, (status, message))| {
            verdict.status == *status && verdict.message.contains(message)
        });
    ensure!(
        fits,
        "{kind}: {verdicts:?} instead of {expected:?}: {:#}",
        list["items"]
    );
    println!("{kind}: {verdicts:?}");
    Ok(())
}

fn compute(objects: &str) -> Result<Vec<Verdict>> {
    let mut program = Command::new(tools::kstatus()?)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    program
        .stdin
        .take()
        .context("a pipe")?
        .write_all(objects.as_bytes())?;
    let output = program.wait_with_output()?;
    ensure!(output.status.success(), "kstatus failed");
    Ok(serde_json::from_slice(&output.stdout)?)
}
