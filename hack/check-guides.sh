#!/usr/bin/env bash
# Compares the guides (docs/guides, README.md, SECURITY.md) with the project: YAML parses, manifests have only existing fields, the chart
# renders with the guides' values, Prometheus accepts the rules, shell blocks are shell; flags, values, annotations, metrics, alerts,
# reasons, make targets, files and links exist; the book lists every page. hack/test-guides.py runs the commands.
# Needs Python's YAML, Helm, and promtool where there is one (hack/install-tools.sh).
set -euo pipefail

cd "$(dirname "$0")/.."
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
PATH="$PATH:$PWD/target/tools/bin"

# Writes values of the chart and rules of Prometheus into files of $work, which the programs below check.
python3 hack/read-guides.py "$work"

failures=0
complain() {
  failures=$((failures + 1))
  echo "check-guides: $*" >&2
}

# helm FILE...: the chart renders with these values.
renders() {
  helm template machinist charts/machinist --namespace machinist-system --kube-version 1.36.0 "$@" >/dev/null 2>"$work/output" ||
    complain "the chart does not render with $*: $(cat "$work/output")"
}
if command -v helm >/dev/null; then
  for values in "$work"/values-*.yaml; do
    renders --values "$values"
  done
  # A chart that accepts any value would prove nothing.
  echo "infra: {namespaces: x}" >"$work/broken.yaml"
  if helm template machinist charts/machinist --values "$work/broken.yaml" >/dev/null 2>&1; then
    complain "the chart accepts a value that does not exist, so rendering proves nothing"
  fi
else
  echo "check-guides: no helm here, so values are not rendered" >&2
fi
if command -v promtool >/dev/null; then
  for rules in "$work"/rules-*.yaml; do
    promtool check rules "$rules" >"$work/output" 2>&1 || complain "$(cat "$work/output")"
  done
else
  echo "check-guides: no promtool here, so rules are not parsed" >&2
fi
for block in "$work"/shell-*.sh; do
  bash -n "$block" 2>"$work/output" || complain "$(head -n 1 "$block") is not shell: $(cat "$work/output")"
done

# Both pictures are the same except for the colors.
pictures=(docs/images/architecture-light.svg docs/images/architecture-dark.svg)
colorless() { sed -E 's/#[0-9a-f]{6}//g' "$1"; }
if ! cmp -s <(colorless "${pictures[0]}") <(colorless "${pictures[1]}"); then
  complain "${pictures[*]} differ in more than colors"
fi

if [ "$failures" -ne 0 ]; then
  echo "check-guides: $failures complaints" >&2
  exit 1
fi
