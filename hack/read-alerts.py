#!/usr/bin/env python3
"""Compares the chart's alerts and dashboard with docs/metrics.md and docs/alerts.md; each metric needs a panel. Writes the queries of the
dashboard into a file of recording rules, which promtool can parse: read-alerts.py RULES."""

import itertools
import json
import re
import sys

import yaml

CHART = "charts/machinist/"
# Given by Prometheus and prometheus-operator, not by us.
GIVEN = {"cluster", "namespace", "exported_namespace", "job", "pod", "le"}
# Metrics that the servers export: ours, machine-controller's and those of the process.
EXPORTED = r"\b(?:machinist|machine_deployment|process)_\w+"
# What Grafana puts in place of its variables.
VARIABLES = {"$__rate_interval": "5m", "$cluster": ".*", "$namespace": ".*"}

complaints = []


def documented():
    """The text of the columns `type` and `labels` of each metric of docs/metrics.md."""
    rows = {}
    for line in open("docs/metrics.md"):
        if row := re.match(r"\| (`[^|]*`) \| (\w+) \|([^|]*)\|", line):
            rows |= {name: (row[2], row[3]) for name in re.findall(EXPORTED, row[1])}
    return rows


def panels(items):
    for item in items:
        yield item
        yield from panels(item.get("panels", []))


def check(where, query, metrics):
    selectors = re.findall(rf"({EXPORTED})(\{{[^}}]*\}})?", query)
    if not selectors:
        complaints.append(f"{where}: no metric of ours in {query}")
    labels = set(GIVEN)
    for name, matchers in selectors:
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        kind, columns = metrics.get(name) or metrics.get(base) or (None, "")
        if kind is None or (name not in metrics and kind != "histogram"):
            complaints.append(f"{where}: {name} is not in docs/metrics.md")
            continue
        known = set(re.findall(r"`(\w+)`", columns))
        labels |= known
        for label, value in re.findall(r'(\w+)=~?"([^"]*)"', matchers):
            if label not in known | GIVEN:
                complaints.append(f"{where}: {name} has no label {label} in docs/metrics.md")
            elif label in known - GIVEN:
                for unknown in set(value.split("|")) - known:
                    complaints.append(f"{where}: {name} has no {label}={unknown} in docs/metrics.md")
    for group in re.findall(r"\bby \(([^)]*)\)", query):
        for label in re.split(r", *", group):
            if label not in labels:
                complaints.append(f"{where}: by ({label}), which is not a label of {selectors}")


metrics = documented()
for name, (_, columns) in metrics.items():
    # Prometheus would call ours exported_….
    for label in sorted(GIVEN & set(re.findall(r"`(\w+)`:", columns))):
        complaints.append(f"{name} has a label {label}, which is Prometheus' own")
groups = yaml.safe_load(open(CHART + "files/alerts.yaml"))["groups"]
alerts = {rule["alert"]: rule for group in groups for rule in group["rules"]}
for name, rule in alerts.items():
    check(name, rule["expr"], metrics)

tests = [
    case
    for test in yaml.safe_load(open(CHART + "ci/alerts-test.yaml"))["tests"]
    for case in test["alert_rule_test"]
]
headings = re.findall(r"^### (\w+)$", open("docs/alerts.md").read(), re.MULTILINE)
for name in alerts:
    fired = {bool(case.get("exp_alerts")) for case in tests if case["alertname"] == name}
    if fired != {True, False}:
        complaints.append(f"{name} needs a test that fires it, and one that does not")
    if name not in headings:
        complaints.append(f"{name} has no heading in docs/alerts.md")
for name in {case["alertname"] for case in tests} | set(headings):
    if name not in alerts:
        complaints.append(f"a test or docs/alerts.md names the alert {name}, which does not exist")

dashboard = json.load(open(CHART + "files/dashboard.json"))
rules, shown = [], set()
for panel in panels(dashboard["panels"]):
    for target in panel.get("targets", []):
        query = target["expr"]
        check(panel["title"], query, metrics)
        for variable, value in VARIABLES.items():
            query = query.replace(variable, value)
        if "$" in query:
            complaints.append(f"{panel['title']}: an unknown variable in {query}")
        shown |= {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"machinist_\w+", query)}
        rules.append({"record": f"dashboard:panel{panel['id']}:{target['refId']}", "expr": query})
cells, ids = {}, set()
for panel in panels(dashboard["panels"]):
    at = panel["gridPos"]
    if panel["id"] in ids:
        complaints.append(f"{panel['title']}: another panel has the id {panel['id']}, too")
    ids.add(panel["id"])
    for cell in itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])):
        if cells.setdefault(cell, panel) is not panel:
            complaints.append(f"{panel['title']} overlaps {cells[cell]['title']}")
            break
for name in sorted(metrics.keys() - shown):
    if name.startswith("machinist_"):
        complaints.append(f"no panel of the dashboard shows {name}")
json.dump({"groups": [{"name": "dashboard", "rules": rules}]}, open(sys.argv[1], "w"))

for complaint in complaints:
    print(f"check-alerts: {complaint}", file=sys.stderr)
if complaints:
    sys.exit(f"check-alerts: {len(complaints)} complaints")
print(f"check-alerts: {len(alerts)} alerts, {len(tests)} cases of them and {len(rules)} queries of the dashboard pass")
