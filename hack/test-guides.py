#!/usr/bin/env python3
"""Runs the commands of the guides, and the examples, on a test bed of its own.

    hack/test-guides.py [GUIDE ...]

Each guide is one shell that runs its commands in their order and stops at the first failure. YAML blocks whose first line is a file name
become files. If the guide shows the output of a block, each line without a number must appear in what the commands print, and the first line
of a table must be its header. hack/guides-cannot-run.txt names the commands that the bed cannot run; this program lists them.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import yaml

from guides import ROOT, blocks, cannot_run, simple_commands, whole_commands

# In this order: the first makes the pool that the others use, and the last removes everything.
ORDER = """first-pool choosing-an-image upgrading-kubernetes gpu-pool autoscaler monitoring sizing moving-from-machine-controller gitops
    backup-and-restore uninstalling""".split()
# What a guide supposes: that no rollout is under way and no Machine is being deleted; a VirtualMachine whose Machine is unknown.
BEFORE = {
    "moving-from-machine-controller": """kubectl -n kube-system wait md --all --timeout 3m \\
  --for=jsonpath='{.status.conditions[?(@.type=="Progressing")].reason}'=NewMachineSetAvailable
old="$(kubectl -n kube-system get machines -o 'jsonpath={.items[?(@.metadata.deletionTimestamp)].metadata.name}')"
[ -z "$old" ] || kubectl -n kube-system wait machine $old --for=delete --timeout 3m""",
    "backup-and-restore": """uid="$(kubectl get namespace kube-system -o 'jsonpath={.metadata.uid}')"
kubectl --context infra apply -f - <<YAML
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata:
  name: lost
  namespace: machinist-infra
  labels: {machinist.dev/cluster-uid: $uid, machinist.dev/machine-uid: 11111111-1111-1111-1111-111111111111}
spec: {runStrategy: Halted, template: {spec: {domain: {devices: {}}}}}
YAML""",
}
# What removes that again.
AFTER = {
    "backup-and-restore": "kubectl machinist orphans --delete --yes --infra-kubeconfig infra-admin.kubeconfig",
}
# Seconds for a command with --watch, which does not end.
WATCHED = 5
BINARIES = ROOT / os.environ.get("MACHINIST_BIN_DIR", "target/debug")
CANNOT_RUN = cannot_run()


class Bed:
    """Two control planes with Machinist, as a reader of the guides has them: contexts, programs, and a folder to work in."""

    def __init__(self, folder):
        self.folder, self.home, self.bin = folder, folder / "home", folder / "bin"
        self.run(BINARIES / "testbed", "--dir", folder / "bed", "up")
        self.home.mkdir()
        self.bin.mkdir()
        for name in ("kubectl", "helm"):
            (self.bin / name).symlink_to((folder / "bed/bin" / name).resolve())
        (self.bin / "kubectl-machinist").symlink_to(BINARIES / "kubectl-machinist")
        for name in ("examples", "charts"):
            (self.home / name).symlink_to(ROOT / name)
        shutil.copy(folder / "bed/infra.kubeconfig", self.home / "infra-admin.kubeconfig")
        (self.home / "kubeconfig").write_text(yaml.safe_dump(self.kubeconfig()))
        self.environment = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "KUBECONFIG": str(self.home / "kubeconfig"),
        }

    def kubeconfig(self):
        """Both clusters in one: the user cluster is the current context, the other is `infra`."""
        merged = {"apiVersion": "v1", "kind": "Config", "clusters": [], "users": [], "contexts": [], "current-context": "user"}
        for name, file in (("user", "kubeconfig"), ("infra", "infra.kubeconfig")):
            config = yaml.safe_load((self.folder / "bed" / file).read_text())
            merged["clusters"].append({"name": name, "cluster": config["clusters"][0]["cluster"]})
            merged["users"].append({"name": name, "user": config["users"][0]["user"]})
            merged["contexts"].append({"name": name, "context": {"cluster": name, "user": name}})
        return merged

    def run(self, *command):
        subprocess.run([str(word) for word in command], cwd=ROOT, check=True)

    def shell(self, script):
        """What a script prints, and its exit code."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.home,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=540,
            check=False,
        )
        return done.stdout, done.returncode

    def must(self, script):
        output, code = self.shell(script)
        if code:
            sys.exit(f"test-guides: {script}\n{output}")

    def down(self):
        self.run(BINARIES / "testbed", "--dir", self.folder / "bed", "down")


def reason_not_to_run(command):
    """Why the bed cannot run it, if it cannot."""
    for simple in simple_commands(command):
        for prefix, reason in CANNOT_RUN.items():
            if simple.startswith(prefix):
                return reason
    return None


def typed(command):
    """The command, with an end if it has none of its own."""
    if "--watch" in command:
        return f"timeout {WATCHED} {command} || [ $? = 124 ]"
    return command


def missing(expected, output):
    """Lines of an expected output that are not in what was printed: those without a number, and the headers of tables."""
    printed = {" ".join(line.split()) for line in output.splitlines()}
    for line in expected.splitlines():
        words = " ".join(line.split())
        is_fixed = not re.search(r"[\d…<>]", words.replace("k8s", "")) or words.isupper()
        if words and is_fixed and words not in printed:
            yield line


def run_guide(bed, name):
    """Runs one guide, and says what it ran; its complaints are returned."""
    path = ROOT / "docs/guides" / f"{name}.md"
    found = list(blocks(path.read_text()))
    # Each command ends with a line that tells where its output ends.
    script, marks, skipped, expected = [], [], [], {}
    for language, line, text in found:
        if language == "yaml" and (file := re.match(r"# ([\w-]+\.yaml)\n", text)):
            (bed.home / file[1]).write_text(text)
    block = None
    for language, line, text in found:
        if language == "text" and block is not None:
            expected[block] = text
        block = None
        if language in ("sh", "console"):
            is_whole = True
            for command in whole_commands(text):
                if reason := reason_not_to_run(command):
                    skipped.append((line, command, reason))
                    is_whole = False
                    continue
                marks.append((line, command))
                script.append(f"{typed(command)}\nprintf '\\n@@ %d\\n' {len(marks)}")
            block = line if is_whole else None
    output, code = bed.shell("\n".join(script))
    pieces = re.split(r"\n@@ \d+\n", output)
    complaints = []
    if code:
        line, command = marks[len(pieces) - 1]
        complaints.append(f"{path.relative_to(ROOT)}:{line}: exit code {code}: {command}\n{pieces[-1]}")
    else:
        for block, text in expected.items():
            printed = "\n".join(piece for piece, (line, _) in zip(pieces, marks) if line == block)
            for line in missing(text, printed):
                complaints.append(f"{path.relative_to(ROOT)}:{block}: did not print: {line}\n{printed}")
    print(f"test-guides: {name}: {len(marks)} commands ran, {len(skipped)} cannot", flush=True)
    for line, command, reason in skipped:
        print(f"    {path.name}:{line}: {command.splitlines()[0]}: {reason}")
    return complaints, len(marks)


def examples(bed):
    """The examples run as they are, and by the overlay on a cluster that has what it names."""
    bed.must("kubectl apply -f examples/kubevirt-machine.yaml -f examples/kubevirt-machinedeployment.yaml")
    bed.must("kubectl -n kube-system wait machine/my-machine --for=condition=Ready --timeout 3m")
    bed.must("kubectl -n kube-system wait md/my-machines --for=condition=Available --timeout 3m")
    bed.must('! kubectl apply -f examples/bad-machine.yaml 2>refusal.txt && [ "$(grep -c "^\\* " refusal.txt)" = 5 ]')
    bed.must("""kubectl --context infra apply -f - <<'YAML'
{apiVersion: v1, kind: List, items: [
  {apiVersion: instancetype.kubevirt.io/v1beta1, kind: VirtualMachineClusterInstancetype, metadata: {name: u1.medium},
   spec: {cpu: {guest: 1}, memory: {guest: 4Gi}}},
  {apiVersion: instancetype.kubevirt.io/v1beta1, kind: VirtualMachineClusterPreference, metadata: {name: ubuntu}, spec: {}}]}
YAML""")
    bed.must("kubectl apply -k examples/")
    bed.must("kubectl -n kube-system wait md/my-machines --for=jsonpath='{.status.updatedReplicas}'=1 --timeout 3m")
    bed.must("kubectl -n kube-system wait md/my-machines --for=condition=Available --timeout 3m")
    bed.must("kubectl -n kube-system delete md/my-machines machine/my-machine --timeout 3m")
    print("test-guides: the examples ran, as they are and by the overlay", flush=True)


def main():
    names = sys.argv[1:] or ORDER
    unordered = {path.stem for path in (ROOT / "docs/guides").glob("*.md") if "```sh" in path.read_text()} - set(ORDER)
    if unordered:
        sys.exit(f"test-guides: no place in the order for {', '.join(sorted(unordered))}")
    complaints, commands = [], 0
    with tempfile.TemporaryDirectory(prefix="machinist-guides-") as folder:
        bed = Bed(pathlib.Path(folder))
        try:
            examples(bed)
            # A reader begins without the Secret, and with a DNS service.
            bed.must("kubectl -n kube-system delete secret machinist-infra-kubeconfig")
            bed.must("kubectl -n kube-system create service clusterip kube-dns --tcp=53 --clusterip=10.96.0.10")
            for name in names:
                bed.must(BEFORE.get(name, ""))
                found, ran = run_guide(bed, name)
                bed.must(AFTER.get(name, ""))
                complaints += found
                commands += ran
        finally:
            bed.down()
    for complaint in complaints:
        print(f"test-guides: {complaint}", file=sys.stderr)
    if complaints:
        sys.exit(f"test-guides: {len(complaints)} complaints")
    if not sys.argv[1:] and commands < 40:
        sys.exit(f"test-guides: only {commands} commands ran: teach hack/guides.py how the guides are written")
    print(f"test-guides: {commands} commands of {len(names)} guides ran as the guides show")


if __name__ == "__main__":
    main()
