//! `demo`: a Machine becomes a Node, simulated or real, and an invalid Machine is refused, with the commands that a user would
//! type.

use std::{
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use testbed::{bed::consoles, paths, seed::INFRA_NAMESPACE};

use super::{Guest, console::Console, state::StateDir};

const GOOD: &str = "examples/kubevirt-machine.yaml";
const BAD: &str = "examples/bad-machine.yaml";
/// How many mistakes it has.
const MISTAKES: usize = 5;
/// The same on a real guest.
const REAL: &str = "tests/guest/machine.yaml";
const POD: &str = "tests/guest/pod.yaml";

/// Runs the demo. Fails if the Node does not become Ready, or if the invalid Machine is not refused for every mistake.
pub(crate) fn run(state: &StateDir, guest: Guest) -> Result<()> {
    let kubectl = Kubectl { state };
    let (manifest, what) = match guest {
        Guest::Simulated => (GOOD, "the VM's kubelet joins as a Node"),
        Guest::Real => (REAL, "a Linux boots in it, whose kubelet joins as a Node"),
    };
    say(&format!(
        "A Machine is applied; Machinist makes a VM of it, and {what}."
    ));
    becomes_a_node(&kubectl, manifest, guest)?;
    if guest == Guest::Real {
        runs_a_pod(&kubectl)?;
    }
    say("What it is made of, on the infra cluster:");
    // kubectl runs in the root of the checkout.
    let infra = state.infra_kubeconfig();
    let infra = infra
        .strip_prefix(paths::workspace())
        .unwrap_or(&infra)
        .display()
        .to_string();
    kubectl.shown(&[
        "--kubeconfig",
        &infra,
        "get",
        "vm,vmi,dv",
        "--namespace",
        INFRA_NAMESPACE,
    ])?;

    say("A Machine with five mistakes is refused before anything is stored, each mistake named:");
    let refusal = kubectl.output(&["apply", "-f", BAD])?;
    if refusal.status.success() {
        bail!("{BAD} was taken");
    }
    let refusal = String::from_utf8_lossy(&refusal.stderr);
    println!("{}", refusal.trim_end());
    let named = refusal.lines().filter(|line| line.starts_with("* ")).count();
    if named != MISTAKES {
        bail!("{BAD} has {MISTAKES} mistakes, and was refused for {named}");
    }

    say("It stays up. To go on:");
    println!("{}", state.hints().trim_end());
    println!(
        "  .testbed/bin/kubectl delete -f {manifest}     # takes the VM, its disk and the Node down again"
    );
    Ok(())
}

fn becomes_a_node(kubectl: &Kubectl<'_>, manifest: &str, guest: Guest) -> Result<()> {
    // From the VM's creation to the Node's first Ready. An emulated guest takes a minute, or several on a busy machine.
    let timeout = match guest {
        Guest::Simulated => "--timeout=180s",
        Guest::Real => "--timeout=600s",
    };
    kubectl.shown(&["apply", "-f", manifest])?;
    let read = |template: &str| kubectl.read(&["get", "-f", manifest, "-o", &format!("jsonpath={template}")]);
    // The Node has the Machine's name.
    let (name, namespace) = (read("{.metadata.name}")?, read("{.metadata.namespace}")?);
    {
        let _progress = kubectl.watching(&["get", "machine", &name, "--namespace", &namespace, "--watch"])?;
        let _console = (guest == Guest::Real)
            .then(|| Console::follow(consoles(&kubectl.state.run_dir()).join(format!("{name}.log"))));
        kubectl.quiet(&["wait", "--for=create", &format!("node/{name}"), timeout])?;
        kubectl.quiet(&["wait", "--for=condition=Ready", &format!("node/{name}"), timeout])?;
        // One more line of the watch: the Machine with its nodeRef.
        let node = "--for=jsonpath={.status.nodeRef.name}";
        kubectl.quiet(&[
            "wait",
            node,
            &format!("machine/{name}"),
            "--namespace",
            &namespace,
            timeout,
        ])?;
        std::thread::sleep(Duration::from_millis(300));
    }
    let wide = (guest == Guest::Real).then_some(["-o", "wide"]);
    let get = ["get", "nodes"].into_iter().chain(wide.into_iter().flatten());
    kubectl.shown(&get.collect::<Vec<_>>())
}

fn runs_a_pod(kubectl: &Kubectl<'_>) -> Result<()> {
    say("A pod runs on it:");
    kubectl.shown(&["apply", "-f", POD])?;
    kubectl.quiet(&["wait", "--for=condition=Ready", "-f", POD, "--timeout=300s"])?;
    kubectl.shown(&["get", "-f", POD, "-o", "wide"])?;
    // The kubelet serves with a self-signed certificate.
    kubectl.shown(&["logs", "--insecure-skip-tls-verify-backend=true", "hello"])
}

fn say(text: &str) {
    println!("\n# {text}");
}

/// kubectl as the user cluster's admin, run in the root of the checkout so that paths are short.
struct Kubectl<'a> {
    state: &'a StateDir,
}

impl Kubectl<'_> {
    /// Prints the command and its output; fails if it fails.
    fn shown(&self, args: &[&str]) -> Result<()> {
        println!("$ kubectl {}", args.join(" "));
        let status = self.command(args).status().context("starting kubectl")?;
        if !status.success() {
            bail!("kubectl {} ended with {status}", args.join(" "));
        }
        println!();
        Ok(())
    }

    /// Prints the command and runs it, whatever its exit code.
    fn output(&self, args: &[&str]) -> Result<Output> {
        println!("$ kubectl {}", args.join(" "));
        self.command(args).output().context("starting kubectl")
    }

    /// The output of a command; fails if it fails.
    fn read(&self, args: &[&str]) -> Result<String> {
        let output = self.command(args).output().context("starting kubectl")?;
        if !output.status.success() {
            bail!(
                "kubectl {}: {}",
                args.join(" "),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn quiet(&self, args: &[&str]) -> Result<()> {
        self.read(args).map(drop)
    }

    /// Prints the command and runs it until the returned value is dropped.
    fn watching(&self, args: &[&str]) -> Result<impl Drop + use<>> {
        println!("$ kubectl {}", args.join(" "));
        Ok(Running(self.command(args).spawn().context("starting kubectl")?))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.state.bin().join("kubectl"));
        command
            .current_dir(paths::workspace())
            .env("KUBECONFIG", self.state.kubeconfig())
            .args(args);
        command.stdin(Stdio::null());
        command
    }
}

struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        println!();
    }
}
