#!/usr/bin/env bash
# Runs the parts of `make nightly`, each at most 10 minutes long, and prints a table. A part that has passed at this commit is not
# repeated, so an interrupted night continues where it stopped. Usage: hack/nightly.sh [PART...]
set -euo pipefail

cd "$(dirname "$0")/.."
parts=(fuzz-admission fuzz-values fuzz-csr fuzz-watched fuzz-answers guests guides real-kubevirt cert-manager fleet outage large-cluster noisy-neighbor drains rollout-laws random-edits kill-points preflight-latency)
for class in kills watches; do
  for operation in create scale rollout evacuation; do
    parts+=("sieve-$class-$operation")
  done
done
parts+=(sieve-restores-user sieve-restores-infra)
for round in $(seq -w 20); do
  parts+=("repeat-$round")
done
if [ "$#" -ne 0 ]; then
  parts=("$@")
fi
results="$PWD/target/nightly/$(git rev-parse --short HEAD)"
mkdir -p "$results"

run() {
  case "$1" in
    fuzz-*) hack/fuzz.sh "${FUZZ_SECONDS:-570}" "${1#fuzz-}" ;;
    guests) hack/test-guest.sh 2 ;;
    guides) cargo build --workspace --locked --bins && hack/test-guides.py ;;
    real-kubevirt) real_kubevirt ;;
    cert-manager) case_program cert_manager ;;
    fleet) FLEET_SIZES=25,100 case_program fleet ;;
    outage) OUTAGE_MACHINES=50 OUTAGE_SECONDS=60 case_program infra_outage ;;
    large-cluster) LARGE_CLUSTER_MACHINES=1000 case_program large_cluster ;;
    noisy-neighbor) NOISY_NEIGHBOR_SECONDS=200 case_program noisy_neighbor ;;
    drains) DRAIN_MACHINES=50 case_program mass_deletion ;;
    rollout-laws) MACHINIST_LAWS_MACHINES=50 case_program cases rollout_laws:: ;;
    random-edits) EDITS=1000 case_program cases random_edits:: ;;
    kill-points) MACHINIST_KILL_POINTS=all case_program cases crash:: ;;
    preflight-latency) case_program preflight_latency ;;
    # Trials that passed are not repeated if the time runs out.
    sieve-*) SIEVE="${1#sieve-}" SIEVE_HELD="$results/$1.held" SIEVE_SECONDS="${SIEVE_SECONDS:-480}" case_program sieve ;;
    repeat-*) hack/under-load.sh cargo test --workspace --locked --test cases ;;
    *)
      echo "nightly: there is no part $1; there are: ${parts[*]}" >&2
      return 2
      ;;
  esac
}

real_kubevirt() {
  cargo build --workspace --locked --bins --tests
  MACHINIST_BIN_DIR=target/debug hack/real-kubevirt.sh all
}

# case_program NAME [FILTER]: a program of tests/e2e that runs alone.
case_program() {
  cargo build --workspace --locked --bins --tests
  MACHINIST_BIN_DIR=target/debug cargo test --workspace --locked --test "$1" -- --nocapture "${@:2}"
}

failed=0
for part in "${parts[@]}"; do
  if [ -e "$results/$part.passed" ]; then
    continue
  fi
  echo "=== nightly: $part"
  began="$SECONDS"
  if run "$part" >"$results/$part.log" 2>&1; then
    echo "$((SECONDS - began))" >"$results/$part.passed"
  else
    failed=$((failed + 1))
    tail -n 40 "$results/$part.log"
    echo "*** nightly: $part failed after $((SECONDS - began)) s; its log: $results/$part.log ***"
  fi
done

echo "--- passed at $(git rev-parse --short HEAD), in seconds"
for passed in "$results"/*.passed; do
  [ ! -e "$passed" ] || printf '%6d  %s\n' "$(cat "$passed")" "$(basename "$passed" .passed)"
done
echo "nightly: $failed parts failed"
[ "$failed" -eq 0 ]
