#!/usr/bin/env python3
"""Reads the guides and compares them with the project: read-guides.py FOLDER, called by hack/check-guides.sh.

It writes values of the chart, rules of Prometheus and shell blocks into FOLDER, for other programs to check.
"""

import pathlib
import re
import sys

import yaml

from guides import blocks, cannot_run, simple_commands

WORK = pathlib.Path(sys.argv[1])
TEXTS = [
    *sorted(pathlib.Path("docs/guides").glob("*.md")),
    *(pathlib.Path(name) for name in ("README.md", "SECURITY.md", "CODE_OF_CONDUCT.md")),
    *sorted(pathlib.Path(".github").rglob("*.md")),
]
REFERENCE = "".join(path.read_text() for path in sorted(pathlib.Path("docs").glob("*.md")))
MANIFEST = pathlib.Path("docs/manifest.md").read_text()
# Words of Kubernetes, KubeVirt, CDI and other programs that look like a reason of ours.
OTHERS_WORDS = set(
    """ConfigMap GenericCloud HelmRelease InPlaceUpdate KubeVirt NotReady PodDisruptionBudget ServiceAccount StorageClass
    StorageProfile VirtualMachine""".split()
)
# Flags in running text that are other programs'.
OTHERS_FLAGS = set("--context --dry-run --force-conflicts --server-side --set --take-ownership --values --version".split())
# Programs that readers of the guides have.
EVERYWHERE = set("cargo date diff echo export grep helm jq kubectl make".split())

complaints = []


def complain(where, what):
    complaints.append(f"{where}: {what}")


# === What there is


def flags():
    rows = pathlib.Path("docs/flags.md").read_text() + pathlib.Path("docs/cli.md").read_text()
    return set(re.findall(r"`(--[a-z-]+)", rows))


def values(node, prefix=""):
    """The path of each value; `.*` below one whose default is an empty object, which takes any key."""
    for key, value in node.items():
        yield prefix + key
        if value == {}:
            yield f"{prefix}{key}.*"
        elif isinstance(value, dict):
            yield from values(value, f"{prefix}{key}.")


def crds():
    """Schema and columns by kind."""
    found = {}
    for path in pathlib.Path("charts/machinist/files/crds").glob("*.yaml"):
        crd = yaml.safe_load(path.read_text())["spec"]
        version = crd["versions"][0]
        columns = [column["name"].upper() for column in version["additionalPrinterColumns"] if not column.get("priority")]
        found[crd["names"]["kind"]] = (version["schema"]["openAPIV3Schema"], ["NAME", *columns])
    return found


FLAGS = flags()
VALUES = set(values(yaml.safe_load(pathlib.Path("charts/machinist/values.yaml").read_text())))
CRDS = crds()
TARGETS = set(re.findall(r"^([a-z-]+):", pathlib.Path("Makefile").read_text(), re.M))
ALERTS = set(re.findall(r"alert: (\w+)", pathlib.Path("charts/machinist/files/alerts.yaml").read_text()))
# Every field that manifest.md explains, in whatever path.
FIELDS = {part for span in re.findall(r"`([^`\n]+)`", MANIFEST) for part in re.findall(r"\w+", span)}
CANNOT_RUN = cannot_run()


# === Blocks


def schema_check(where, node, schema, path):
    """Each key is one of the CRD's; below providerSpec.value, one that manifest.md explains."""
    if isinstance(node, list):
        for item in node:
            schema_check(where, item, schema.get("items", {}), path)
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        if path == "metadata" or path.endswith(("labels", "annotations", "matchLabels", ".metadata")):
            continue
        known = schema.get("properties", {})
        if "providerSpec.value" in path:
            if key not in FIELDS:
                complain(where, f"{path}.{key} is not explained in docs/manifest.md")
            schema_check(where, value, {}, f"{path}.{key}")
        elif key in known or key in ("apiVersion", "kind", "metadata"):
            schema_check(where, value, known.get(key, {}), f"{path}.{key}".lstrip("."))
        else:
            complain(where, f"{path}.{key} is not a field of the CRD")


def yaml_block(where, text, count):
    head = text.split("\n", 1)[0]
    try:
        documents = [document for document in yaml.safe_load_all(text) if document]
    except yaml.YAMLError as error:
        complain(where, f"not YAML: {error}")
        return
    if head.startswith("# my-values"):
        (WORK / f"values-{count}.yaml").write_text(text)
    elif not head.startswith(("# fragment", "# cluster-autoscaler-values")):
        for document in documents:
            if "apiVersion" not in document or "kind" not in document:
                complain(where, "neither a manifest, nor values (# my-values.yaml), nor a fragment (# fragment: of what)")
            elif document["kind"] in CRDS and document["apiVersion"] == "cluster.k8s.io/v1alpha1":
                schema_check(where, document, CRDS[document["kind"]][0], "")
            elif document["kind"] == "PrometheusRule":
                (WORK / f"rules-{count}.yaml").write_text(yaml.safe_dump(document["spec"]))


def shell_block(where, text, count):
    (WORK / f"shell-{count}.sh").write_text(f"# {where}\n{text}")
    for command in simple_commands(text):
        words = command.split()
        program = words[0].rsplit("/", 1)[-1]
        if program not in EVERYWHERE and not any(command.startswith(able) for able in CANNOT_RUN):
            complain(where, f"{program} is neither what every reader has nor in hack/guides-cannot-run.txt: {command}")
        if program == "make" and len(words) > 1 and words[1] not in TARGETS:
            complain(where, f"there is no make target {words[1]}")
        if program.startswith("machinist-") or command.startswith("kubectl machinist"):
            for flag in re.findall(r"(--[a-z-]+)", command):
                if flag not in FLAGS:
                    complain(where, f"there is no flag {flag}")
        if "charts/machinist" in command or "HELM_ARGS" in command:
            for name in re.findall(r"--set[ =]'?([\w.]+)=", command):
                if name not in VALUES:
                    complain(where, f"there is no value {name}")


def text_block(where, text):
    """Tables of our kinds have the columns of the CRDs."""
    header = text.split("\n", 1)[0].split()
    for column, kind in (("PHASE", "Machine"), ("ROLLOUT", "MachineDeployment")):
        if column in header and [name for name in header if name != "NAMESPACE"] != CRDS[kind][1]:
            complain(where, f"the columns of a {kind} are {' '.join(CRDS[kind][1])}, not {' '.join(header)}")


# === Running text


def prose(where, text):
    for span in re.findall(r"`([^`\n]+)`", text):
        for flag in re.findall(r"^(--[a-z-]+)", span):
            if flag not in FLAGS | OTHERS_FLAGS:
                complain(where, f"there is no flag {flag}")
        name = re.match(
            r"((?:controller|webhook|infra|metrics|policies|approver|leaderElection|networkPolicy|nodes|image|log|tracing)\.[\w.]+)", span
        )
        if name and name[1] not in VALUES and f"{name[1].rsplit('.', 1)[0]}.*" not in VALUES:
            complain(where, f"there is no value {name[1]}")
        if re.fullmatch(r"([A-Z][a-z]+){2,}", span) and span not in OTHERS_WORDS | ALERTS | set(CRDS) and f"`{span}`" not in REFERENCE:
            complain(where, f"no reference page explains `{span}`")
        if re.fullmatch(r"(Machinist[A-Z]\w+)", span) and span not in ALERTS:
            complain(where, f"there is no alert {span}")
        if target := re.match(r"make ([a-z-]+)", span):
            if target[1] not in TARGETS:
                complain(where, f"there is no make target {target[1]}")
        if re.match(r"(examples|charts|hack|tests)/[\w./-]+$", span) and not pathlib.Path(span).exists():
            complain(where, f"there is no {span}")


def names(where, text):
    for name in set(re.findall(r"\bmachinist\.dev/[a-z-]+", text)):
        if f"`{name}`" not in MANIFEST and f"{name}:" not in MANIFEST and f"`{name}" not in MANIFEST:
            complain(where, f"docs/manifest.md does not explain {name}")
    for name in set(re.findall(r"\b(?:machinist|machine_controller|machine_deployment)_[a-z_]+\b", text)):
        if f"`{re.sub(r'_(bucket|sum|count)$', '', name)}`" not in REFERENCE:
            complain(where, f"docs/metrics.md does not explain {name}")


def anchors(path):
    outside = re.sub(r"^ *```.*?^ *```$", "", path.read_text(), flags=re.S | re.M)
    for heading in re.findall(r"^#+ (.*)$", outside, re.M):
        yield re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def links(path, text):
    found = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
    for link in found:
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        if not target.exists():
            complain(path, f"links to {link}, which does not exist")
        elif anchor and anchor not in anchors(target):
            complain(path, f"links to {link}, and there is no such heading")


# === The book


def book():
    summary = pathlib.Path("docs/SUMMARY.md")
    listed = {(summary.parent / link).resolve() for link in re.findall(r"\]\(([^)]+)\)", summary.read_text())}
    for page in sorted(pathlib.Path("docs").rglob("*.md")):
        if page != summary and page.resolve() not in listed:
            complain(summary, f"does not list {page}")
    for page in listed:
        if not page.exists():
            complain(summary, f"lists {page}, which does not exist")


for form in sorted(pathlib.Path(".github").rglob("*.yml")):
    try:
        yaml.safe_load(form.read_text())
    except yaml.YAMLError as error:
        complain(form, f"not YAML: {error}")
count = 0
for path in TEXTS:
    text = path.read_text()
    running = text
    for language, line, block in blocks(text):
        count += 1
        where = f"{path}:{line}"
        if language == "yaml":
            yaml_block(where, block, count)
        elif language in ("sh", "console"):
            shell_block(where, block, count)
        elif language == "text":
            text_block(where, block)
        else:
            complain(where, f"a block of {language}: use yaml, sh or text")
    running = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.S | re.M)
    prose(path, running)
    names(path, text)
    links(path, running)
book()

for complaint in complaints:
    print(f"check-guides: {complaint}", file=sys.stderr)
if count < 40:
    sys.exit(f"check-guides: only {count} blocks were found in the guides: teach hack/read-guides.py how they are written")
if complaints:
    sys.exit(f"check-guides: {len(complaints)} complaints")
print(f"check-guides: {count} blocks of {len(TEXTS)} pages fit the project")
