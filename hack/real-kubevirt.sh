#!/usr/bin/env bash
# Runs end-to-end cases on KubeVirt's and CDI's own controllers, with simulated hosts: the very cases that also run on the
# simulator. Without an argument, one of each kind; with `all`, all that run on both. Usage: hack/real-kubevirt.sh [all]
set -euo pipefail

cd "$(dirname "$0")/.."
one_of_each_kind=(
  root_causes::a_disk_beyond_the_quota_and_its_recovery
  root_causes::a_failing_import
  root_causes::a_guest_that_shut_itself_down_fails_its_machine
  root_causes::a_vm_deleted_behind_the_machines_back
  root_causes::an_unschedulable_vm
  disks::
  host_drain::a_live_migration_changes_nothing_on_the_machine
  host_drain::a_machine_that_stands_alone_stays
  machine::a_machine_becomes_a_node_within_its_budget_and_leaves_nothing
)
all=(api_server_faults:: deletion_during_creation:: disks:: host_drain:: machine:: machine_set:: foreign_objects:: orphans:: preflight::kubevirt_dry_run:: root_causes::)
case "${1:-}" in
  "") cases=("${one_of_each_kind[@]}") ;;
  all) cases=("${all[@]}") ;;
  *)
    echo "usage: real-kubevirt.sh [all]" >&2
    exit 2
    ;;
esac
export MACHINIST_KUBEVIRT=real
# A bed of these is two control planes and four more processes.
RUST_TEST_THREADS=2 cargo test --workspace --locked --test cases -- "${cases[@]}"
