//! The command for people: up once, up again without a change, down without a trace; and nothing survives a SIGKILL.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use testbed::process::{is_running, signal_pid};

fn testbed(dir: &Path, args: &[&str]) -> Result<Output> {
    let output = Command::new(env!("CARGO_BIN_EXE_testbed"))
        .arg("--dir")
        .arg(dir)
        .args(args)
        .output()?;
    assert!(
        output.status.success(),
        "testbed {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Pids of all processes of the run, by program and folder.
fn pids(dir: &Path) -> Result<BTreeMap<String, u32>> {
    let mut found = BTreeMap::new();
    for plane in ["user", "infra"] {
        for entry in fs::read_dir(dir.join("run").join(plane))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "pid") {
                let pid = fs::read_to_string(&path)?.trim().parse()?;
                found.insert(path.display().to_string(), pid);
            }
        }
    }
    Ok(found)
}

fn supervisor(dir: &Path) -> Result<u32> {
    Ok(fs::read_to_string(dir.join("testbed.pid"))?.trim().parse()?)
}

#[test]
fn up_is_idempotent_and_down_ends_everything() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    assert!(text(&testbed(dir, &["status"])?).contains("not up"));
    testbed(dir, &["up", "--bare"])?;
    let first = pids(dir)?;
    assert_eq!(first.len(), 6, "three processes a control plane: {first:?}");

    let again = testbed(dir, &["up", "--bare"])?;
    assert!(text(&again).contains("up already"), "{}", text(&again));
    assert_eq!(pids(dir)?, first, "nothing was started again");
    assert!(text(&testbed(dir, &["status"])?).contains("kube-apiserver"));

    // What the documentation promises to lie there, works.
    for (kubeconfig, resource) in [("kubeconfig", "nodes"), ("infra.kubeconfig", "virtualmachines")] {
        let output = Command::new(dir.join("bin/kubectl"))
            .args(["get", resource, "--kubeconfig"])
            .arg(dir.join(kubeconfig))
            .output()?;
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    assert!(dir.join("bin/helm").is_file());

    testbed(dir, &["down"])?;
    assert!(!first.values().any(|pid| is_running(*pid)), "down left a process");
    assert!(text(&testbed(dir, &["down"])?).contains("not up"));
    Ok(())
}

#[test]
fn nothing_survives_a_supervisor_that_was_killed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    testbed(dir, &["up", "--bare"])?;
    let children = pids(dir)?;
    signal_pid(supervisor(dir)?, Signal::SIGKILL)?;

    let deadline = Instant::now() + Duration::from_secs(10);
    while let Some((name, _)) = children.iter().find(|(_, pid)| is_running(**pid)) {
        assert!(Instant::now() < deadline, "{name} outlived the supervisor");
        std::thread::sleep(Duration::from_millis(20));
    }
    // And the next start is not confused by what lies there.
    testbed(dir, &["up", "--bare"])?;
    let next = pids(dir)?;
    assert!(next.values().all(|pid| is_running(*pid)));
    testbed(dir, &["down"])?;
    next.values()
        .find(|pid| is_running(**pid))
        .map_or(Some(()), |_| None)
        .context("down left a process")
}
