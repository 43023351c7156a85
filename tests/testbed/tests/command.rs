//! The command: `up` once, `up` again without a change, `down` without leftovers; and no process survives a SIGKILL.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use testbed::{
    paths,
    process::{is_running, signal_pid},
};

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

/// The error output of a command that fails.
fn refused(dir: &Path, args: &[&str]) -> Result<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_testbed"))
        .arg("--dir")
        .arg(dir)
        .args(args)
        .output()?;
    assert!(!output.status.success(), "testbed {args:?}: {}", text(&output));
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
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

    // The documented files exist and work.
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
fn ctrl_c_in_the_middle_of_a_start_ends_what_it_started() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let mut up = Command::new(env!("CARGO_BIN_EXE_testbed"))
        .arg("--dir")
        .arg(dir)
        .args(["up", "--bare"])
        .spawn()?;
    let middle = interrupt_in_the_middle(dir, up.id());
    let code = up.wait()?.code();
    let (supervisor, started) = middle?;
    assert_eq!(code, Some(130), "what shells report of Ctrl-C");
    assert!(!is_running(supervisor), "the supervisor goes on");
    let left = started.into_iter().chain(pids(dir)?);
    assert_eq!(left.filter(|(_, pid)| is_running(*pid)).collect::<Vec<_>>(), []);
    Ok(())
}

/// Sends Ctrl-C to `up` when a process runs, and not yet everything. The supervisor, and what ran.
fn interrupt_in_the_middle(dir: &Path, up: u32) -> Result<(u32, BTreeMap<String, u32>)> {
    let deadline = Instant::now() + Duration::from_mins(1);
    while pids(dir).unwrap_or_default().is_empty() {
        if Instant::now() > deadline {
            signal_pid(up, Signal::SIGKILL)?;
            bail!("nothing was started");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let early = !dir.join("ready").exists();
    let middle = (supervisor(dir)?, pids(dir)?);
    signal_pid(up, Signal::SIGINT)?;
    ensure!(early, "all was up already");
    Ok(middle)
}

#[test]
fn demo_shows_a_node_and_a_refusal_and_continues_on_a_running_testbed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let demo = text(&testbed(dir, &["demo", "--boot-seconds=1"])?);
    let machine = "my-machine";
    let node = demo
        .lines()
        .find(|line| line.starts_with(machine) && line.contains(" Ready "));
    assert!(node.is_some(), "no Node is Ready: {demo}");
    let causes = demo.lines().filter(|line| line.starts_with("* "));
    assert_eq!(causes.count(), 5, "{demo}");
    assert!(demo.contains("make down"), "how to go on: {demo}");

    // Once more on the running testbed, with an existing Machine.
    let again = text(&testbed(dir, &["demo", "--boot-seconds=1"])?);
    assert!(again.contains("up already"), "{again}");
    assert!(
        again.contains(&format!("machine.cluster.k8s.io/{machine} unchanged")),
        "{again}"
    );

    let other = refused(dir, &["up", "--one-cluster"])?;
    assert!(
        other.contains("--one-cluster") && other.contains("make down"),
        "{other}"
    );

    // The next commands that it prints.
    let gone = Command::new(dir.join("bin/kubectl"))
        .args([
            "delete",
            "--filename",
            "examples/kubevirt-machine.yaml",
            "--timeout=60s",
            "--kubeconfig",
        ])
        .arg(dir.join("kubeconfig"))
        .current_dir(paths::workspace())
        .status()?;
    assert!(gone.success());
    for (kubeconfig, resource) in [("kubeconfig", "nodes"), ("infra.kubeconfig", "vm,vmi,dv")] {
        let left = Command::new(dir.join("bin/kubectl"))
            .args([
                "get",
                resource,
                "--all-namespaces",
                "--output=name",
                "--kubeconfig",
            ])
            .arg(dir.join(kubeconfig))
            .output()?;
        assert_eq!(text(&left), "", "{resource}");
    }

    // A testbed with a stopped part is not reported as running.
    let status = text(&testbed(dir, &["status"])?);
    let simulator = status.lines().find(|line| line.contains("kubevirt-sim"));
    let simulator = simulator.and_then(|line| line.split_whitespace().nth(1));
    let simulator = simulator.context("no simulator")?.parse()?;
    signal_pid(simulator, Signal::SIGKILL)?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while is_running(simulator) {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(10));
    }
    let broken = refused(dir, &["up", "--boot-seconds=1"])?;
    assert!(
        broken.contains("kubevirt-sim") && broken.contains("make down"),
        "{broken}"
    );
    testbed(dir, &["down"])?;
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
    // The next start is not disturbed by the leftovers.
    testbed(dir, &["up", "--bare"])?;
    let next = pids(dir)?;
    assert!(next.values().all(|pid| is_running(*pid)));
    testbed(dir, &["down"])?;
    next.values()
        .find(|pid| is_running(**pid))
        .map_or(Some(()), |_| None)
        .context("down left a process")
}
