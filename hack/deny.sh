#!/usr/bin/env bash
# Checks the licenses, versions and sources of all linked crates, by deny.toml. Needs no network once the tool is built;
# `hack/deny.sh advisories` also asks the advisory database, if reachable.
set -euo pipefail

cd "$(dirname "$0")/.."
version=0.20.2
if [[ ! -x target/tools/bin/cargo-deny ]]; then
    # It runs for seconds; optimizing it takes minutes.
    cargo install --debug --locked --root target/tools "cargo-deny@$version"
fi
# Duplicate versions are warnings, and not shown here.
target/tools/bin/cargo-deny --log-level error --locked check bans licenses sources "$@"
