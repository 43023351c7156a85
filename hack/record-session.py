#!/usr/bin/env python3
"""Records a terminal session against the testbed and renders it as docs/images/session.svg.

    make up                        # or: target/debug/testbed --dir DIR up
    hack/record-session.py         # or: hack/record-session.py --dir DIR
    make down

The commands of SESSION run one after the other, each with a real shell, in the namespace kube-system of the testbed's user
cluster. What they print goes into the picture as it is; lines are wrapped, and nothing is cut. Commands of SETUP run before, and
what they print is not shown. The picture plays once, in the recorded order; a viewer who prefers reduced motion, or has no CSS
animations, sees all of it at once.
"""

import argparse
import html
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import textwrap

ROOT = pathlib.Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs/images/session.svg"

MD = "md my-machines"
PATCH = """'{"spec":{"template":{"spec":{"versions":{"kubelet":"1.34.1"}}}}}'"""
SETUP = [
    f"kubectl delete {MD} --ignore-not-found",
    "kubectl delete machine --all",
]
# What is typed, and how the picture explains it.
SESSION = [
    ("A Machine that cannot work is refused, with every mistake named", "kubectl apply -f examples/bad-machine.yaml"),
    ("A pool of nodes", "kubectl apply -f examples/kubevirt-machinedeployment.yaml"),
    (None, f"kubectl scale {MD} --replicas=3"),
    (None, f"kubectl wait {MD} --for=jsonpath='{{.status.availableReplicas}}'=3 --timeout=180s"),
    (None, "kubectl get machines"),
    ("Another Kubernetes version: the Machines are replaced one by one", f"kubectl patch {MD} --type merge -p {PATCH}"),
    (None, f"kubectl wait {MD} --for=jsonpath='{{.status.updatedReplicas}}'=1 --timeout=180s"),
    (None, f"kubectl get {MD}"),
    (None, f"kubectl wait {MD} --for=jsonpath='{{.status.conditions[?(@.type==\"Progressing\")].reason}}'=NewMachineSetAvailable"),
    (None, "kubectl get nodes"),
    ("Clean teardown: no VM, disk or Node is left", f"kubectl delete {MD}"),
    (None, "kubectl wait machine --all --for=delete --timeout=180s"),
    (None, "kubectl get machines,nodes"),
    (None, "kubectl --kubeconfig infra.kubeconfig -n machinist-infra get vm,vmi,datavolume,pvc,secret"),
]

COLUMNS = 124
FONT = 13
ADVANCE = 7.83  # Of one character, in the fonts that are named below.
LEADING = 18
MARGIN = 16
BAR = 30


def run(command, environment):
    """The lines that a command prints, in the order of the terminal, and its exit code."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=environment["HOME"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    return done.stdout.rstrip("\n").split("\n"), done.returncode


def wrapped(line):
    """The line in pieces of at most COLUMNS characters; those after the first are indented."""
    if len(line) <= COLUMNS:
        return [line.rstrip()]
    return textwrap.wrap(line, COLUMNS, subsequent_indent="    ", break_on_hyphens=False, replace_whitespace=False)


def record(environment):
    """(class, text) of each line of the picture."""
    lines = []
    for why, command in SESSION:
        if why:
            if lines:
                lines.append(("out", ""))
            lines.append(("note", f"# {why}"))
        print(f"record-session: {command}", file=sys.stderr)
        printed, code = run(command, environment)
        if code != 0 and "bad-machine" not in command:
            sys.exit(f"record-session: exit code {code} of: {command}\n" + "\n".join(printed))
        for index, piece in enumerate(wrapped(f"$ {command}")):
            lines.append(("typed" if index == 0 else "more", piece))
        for line in printed:
            kind = "bad" if "bad-machine" in command else "out"
            lines.extend((kind, piece) for piece in wrapped(line))
    return lines


STYLE = """
  .frame { fill: #0d1117; stroke: #57606a; }
  .bar { fill: #161b22; }
  text { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace;
         font-size: %(font)dpx; white-space: pre; fill: #e6edf3; }
  .note { fill: #8b949e; }
  .typed, .more { fill: #7ee787; }
  .bad { fill: #ffa198; }
  .title { fill: #8b949e; text-anchor: middle; }
""" % {"font": FONT}


def render(lines):
    width = round(COLUMNS * ADVANCE + 2 * MARGIN)
    height = BAR + MARGIN + LEADING * len(lines) + MARGIN
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img"'
        ' aria-labelledby="title">',
        "<!-- Recorded by hack/record-session.py: do not edit. -->",
        '<title id="title">A terminal session: a Machine with mistakes is refused, a pool of nodes is created, rolled to another'
        " Kubernetes version and deleted</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="frame" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8"/>',
        f'<path class="bar" d="M1 {BAR}V9a8 8 0 0 1 8-8h{width - 18}a8 8 0 0 1 8 8V{BAR}z"/>',
        *(f'<circle cx="{20 + 18 * n}" cy="15" r="5.5" fill="{color}"/>' for n, color in enumerate(["#ff5f56", "#ffbd2e", "#27c93f"])),
        f'<text class="title" x="{width // 2}" y="20">machinist</text>',
    ]
    for index, (kind, text) in enumerate(lines):
        y = BAR + MARGIN + LEADING * index + FONT
        if text:
            out.append(f'<text class="{kind}" x="{MARGIN}" y="{y}">{html.escape(text, quote=False)}</text>')
    out.append("</svg>")
    return "\n".join(out) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=pathlib.Path, default=ROOT / ".testbed", help="folder of the testbed that is up")
    folder = parser.parse_args().dir.resolve()
    if not (folder / "kubeconfig").is_file():
        sys.exit(f"record-session: there is no testbed in {folder}: run `make up`")
    with tempfile.TemporaryDirectory() as home:
        kubeconfig = pathlib.Path(home) / "kubeconfig"
        shutil.copy(folder / "kubeconfig", kubeconfig)
        # Where the commands run, so that paths in the picture are short.
        (pathlib.Path(home) / "infra.kubeconfig").symlink_to(folder / "infra.kubeconfig")
        (pathlib.Path(home) / "examples").symlink_to(ROOT / "examples")
        environment = dict(os.environ, KUBECONFIG=str(kubeconfig), PATH=f"{folder / 'bin'}:{os.environ['PATH']}", HOME=home)
        for command in ["kubectl config set-context --current --namespace kube-system", *SETUP]:
            printed, code = run(command, environment)
            if code != 0:
                sys.exit(f"record-session: {command}\n" + "\n".join(printed))
        lines = record(environment)
    PICTURE.write_text(render(lines))
    print(f"record-session: {len(lines)} lines in {PICTURE.relative_to(ROOT)}", file=sys.stderr)


if __name__ == "__main__":
    main()
