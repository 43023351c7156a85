#!/usr/bin/env bash
# Holds the guides (docs/guides, README.md, SECURITY.md) against the project: YAML parses, manifests have only fields that exist, the
# chart renders with the values that the guides give, rules of Prometheus are rules, shell blocks are shell; flags, values,
# annotations, metrics, alerts, reasons, make targets, files and links that they name exist; the book lists every page.
# Needs Python's YAML, Helm, and promtool where there is one (hack/install-tools.sh).
#
# What the test bed (`make up`) cannot run of the commands in the guides, and why. A command whose program is neither kubectl, helm,
# make, cargo, the shell's own nor named here is a complaint.
cannot_run() {
  cat <<'LIST'
kubectl --context infra    a context of the reader's; the bed has .testbed/infra.kubeconfig
kubectl machinist          the plugin is built by `cargo build --package kubectl-machinist`
kubectl top                the bed has no metrics-server
kubectl -n machinist-system rollout  the bed runs both servers outside of the cluster: there are no pods to wait for
kubectl -n machinist-system port-forward  likewise
kubectl -n argocd          the bed has no Argo CD
kubectl -n flux-system     the bed has no Flux
kubectl create deployment  pods are never scheduled: the bed has no scheduler
helm repo                  needs the internet
helm upgrade               the bed installs the chart itself; `helm template` runs here instead
helm -n machinist-system uninstall  ends the bed's Machinist
make image                 needs a container engine and a base image
make deploy                as helm upgrade
curl                       scrapes a pod; the bed has none
jq                         may be missing
virtctl                    simulated guests have no console
LIST
}
set -euo pipefail

cd "$(dirname "$0")/.."
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
PATH="$PATH:$PWD/target/tools/bin"

cannot_run >"$work/cannot-run"
# Writes values of the chart and rules of Prometheus into files of $work, which the programs below judge.
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
  # A chart that takes anything would tell nothing.
  echo "infra: {namespaces: x}" >"$work/broken.yaml"
  if helm template machinist charts/machinist --values "$work/broken.yaml" >/dev/null 2>&1; then
    complain "the chart takes a value that does not exist, so rendering proves nothing"
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

# Both pictures are one, but for the colors.
pictures=(docs/images/architecture-light.svg docs/images/architecture-dark.svg)
colorless() { sed -E 's/#[0-9a-f]{6}//g' "$1"; }
if ! cmp -s <(colorless "${pictures[0]}") <(colorless "${pictures[1]}"); then
  complain "${pictures[*]} differ in more than their colors"
fi

if [ "$failures" -ne 0 ]; then
  echo "check-guides: $failures complaints" >&2
  exit 1
fi
