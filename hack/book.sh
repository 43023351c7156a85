#!/usr/bin/env bash
# Builds the book of docs/ into target/book, with mdBook of the version below, which the first run builds into target/tools.
set -euo pipefail

cd "$(dirname "$0")/.."
version=0.5.4
mdbook="target/tools/mdbook-$version/bin/mdbook"

if [ ! -x "$mdbook" ]; then
  echo "book: building mdBook $version"
  # One job at low priority, hardly optimized: the book is small, and other builds go first.
  CARGO_BUILD_JOBS="${CARGO_BUILD_JOBS:-1}" CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off \
    nice -n 19 cargo install mdbook --version "$version" --locked --no-default-features --features search \
    --root "target/tools/mdbook-$version" --target-dir target/tools/mdbook-build
  rm -rf target/tools/mdbook-build
fi

"$mdbook" build
