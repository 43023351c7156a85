#!/usr/bin/env bash
# Runs the end-to-end case of real guests, and builds their image first if need be. If the kernel forbids network
# namespaces, this reports it and succeeds. Usage: hack/test-guest.sh [HOW MANY AT A TIME, 1]
set -euo pipefail

cd "$(dirname "$0")/.."
if ! problem="$(unshare --net true 2>&1)"; then
  echo "*** test-guest: SKIPPED, no real guest was tested: this machine forbids network namespaces: $problem ***" >&2
  exit 0
fi
hack/install-tools.sh guest
hack/guest-image.sh
export MACHINIST_GUESTS="${1:-1}"
# The whole workspace, as in `make test`: with other features, dependencies would be compiled again.
cargo test --workspace --locked --test real_guest -- --nocapture
