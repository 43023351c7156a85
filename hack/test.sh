#!/usr/bin/env bash
# Runs the stages of `make test`, and reports where the time went: seconds of each stage, the slowest cases, the idle share of the
# processors, and the number of beds. The last stage reads the audit logs of the others.
set -euo pipefail

cd "$(dirname "$0")/.."
timings="$PWD/target/timings"
rm -rf target/audit "$timings"
mkdir -p "$timings"
export MACHINIST_AUDIT_DIR="$PWD/target/audit"
export MACHINIST_BIN_DIR=target/debug
# Cases wait half of their time.
export RUST_TEST_THREADS="${RUST_TEST_THREADS:-$(($(nproc) * 2))}"
status=0

# stage NAME COMMAND...: the next stages run even if it fails, and the script fails in the end.
stage() {
  local name="$1" began="$SECONDS"
  shift
  echo "=== $name"
  "$@" || {
    status=1
    echo "*** $name failed ***"
  }
  printf '%d\t%s\n' "$((SECONDS - began))" "$name" >>"$timings/stages.tsv"
}

# Idle ticks of the processors since boot, and all ticks.
ticks() {
  awk '/^cpu / { print $5 + $6, $2 + $3 + $4 + $5 + $6 + $7 + $8 + $9 }' /proc/stat
}

read -r idle_before all_before < <(ticks)
# One build for all, because each package alone would build dependencies with other features.
stage "building Machinist and its tests" cargo build --workspace --locked --bins --tests --examples
stage "building the control plane, KubeVirt and CDI" "$MACHINIST_BIN_DIR/testbed" tools
stage "user data of guests" hack/lint-user-data.sh
stage "programs as the image runs them" hack/check-image.sh "$MACHINIST_BIN_DIR"
stage "unit tests, corpora and end-to-end cases" cargo test --workspace --locked --no-fail-fast
stage "end-to-end cases on KubeVirt's own controllers" hack/real-kubevirt.sh
stage "a real guest" hack/test-guest.sh 1
read -r idle_after all_after < <(ticks)

hack/timings.sh "$((100 * (idle_after - idle_before) / (all_after - all_before)))"
stage "rights used and granted" cargo test --workspace --locked --test audit -- --nocapture
exit "$status"
