#!/usr/bin/env bash
# Runs a command beside one busy process for each processor. Usage: hack/under-load.sh COMMAND...
set -euo pipefail

busy=()
trap 'kill "${busy[@]}" 2>/dev/null || true' EXIT
for _ in $(seq "$(nproc)"); do
  sha256sum /dev/zero >/dev/null 2>&1 &
  busy+=("$!")
done
"$@"
