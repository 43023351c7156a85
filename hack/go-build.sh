#!/usr/bin/env bash
# Builds a program from a Go module, unless the versions are those that it was built with.
# Usage: hack/go-build.sh MODULE PACKAGE PROGRAM
#
# The compiler's flags are those of tests/testbed/src/go_build.rs, so that no package is compiled twice.
set -euo pipefail

module="$1" package="$2" program="$3"
stamp="$(cat "$module/go.mod" "$module/go.sum" | sha256sum)"
if [ -x "$program" ] && [ "$(cat "$program.stamp" 2>/dev/null)" = "$stamp" ]; then
  exit 0
fi
echo "building $(basename "$program") (minutes the first time, seconds when Go's build cache is warm)"
mkdir -p "$(dirname "$program")"
# The module proxy cannot give this to the linker: a kubelet decides about its feature gates by its version.
version="$(sed -n 's/^\tk8s.io\/kubernetes \(v[0-9.]*\).*/\1/p' "$module/go.mod")"
CGO_ENABLED=0 GOGC="${GOGC:-400}" GOMEMLIMIT="${GOMEMLIMIT:-320MiB}" go -C "$module" build -o "$(realpath -m "$program")" -gcflags=all=-dwarf=false \
  -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=${version:-v0.0.0}" "$package"
echo "$stamp" >"$program.stamp"
