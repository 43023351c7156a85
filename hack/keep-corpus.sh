#!/usr/bin/env bash
# Merges what fuzzing one target found into tests/fuzz/corpora/TARGET: of all inputs, the fewest and smallest that reach
# the same code. `cargo test --package machinist-fuzz-targets` replays them. Usage: hack/keep-corpus.sh TARGET
set -euo pipefail

cd "$(dirname "$0")/.."
target=${1:?usage: keep-corpus.sh TARGET}
fuzz=tests/fuzz
kept=$fuzz/corpora/$target
export PATH=$PWD/target/tools/bin:$PATH

merged=$(mktemp -d)
trap 'rm -rf "$merged"' EXIT
mkdir -p "$kept"
# Large inputs seldom reach what a small one does not, and the repository keeps all of them.
cargo +nightly fuzz run --sanitizer none --fuzz-dir "$fuzz" --target-dir target/fuzz "$target" "$merged" -- \
    -merge=1 -max_len=4096 "$fuzz/corpus/$target" "$kept" > /dev/null 2>&1
rm -rf "$kept"
mkdir -p "$kept"
cp "$merged"/* "$kept"
echo "keep-corpus: $target: $(find "$kept" -type f | wc -l) inputs, $(du -sk "$kept" | cut -f1) KiB"
