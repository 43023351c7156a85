#!/usr/bin/env bash
# Checks the alerts and the dashboard of the chart with promtool. Each alert has a test that fires it and one that does not; promtool
# parses every query of the dashboard. Compares both with docs/: metrics, labels and values are those of metrics.md, and alerts.md has
# an action for each alert.
# Needs promtool and Python's YAML (hack/install-tools.sh).
set -euo pipefail

cd "$(dirname "$0")/.."
PATH="$PWD/target/tools/bin:$PATH"
files=charts/machinist/files
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

if ! command -v promtool >/dev/null; then
  echo "check-alerts: promtool is missing; run hack/install-tools.sh" >&2
  exit 1
fi

# quietly WHAT COMMAND...
quietly() {
  local what="$1"
  shift
  if ! "$@" >"$work/output" 2>&1; then
    echo "check-alerts: $what: failed: $*" >&2
    cat "$work/output" >&2
    exit 1
  fi
}

quietly "the alerts" promtool check rules "$files/alerts.yaml"
quietly "the tests of the alerts" promtool test rules charts/machinist/ci/alerts-test.yaml
python3 hack/read-alerts.py "$work/dashboard.json"
quietly "the queries of the dashboard" promtool check rules "$work/dashboard.json"
# A parser that accepts any query would prove nothing.
sed '0,/sum by (/s//sum by ((/' "$work/dashboard.json" >"$work/broken.json"
if promtool check rules "$work/broken.json" >/dev/null 2>&1; then
  echo "check-alerts: promtool accepts a query with a superfluous parenthesis, so it proves nothing" >&2
  exit 1
fi
