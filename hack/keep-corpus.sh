#!/usr/bin/env bash
# Merges the corpus of one fuzz target into tests/fuzz/corpora/TARGET: of all inputs, the fewest and smallest that reach the same code. Tests replay them. Run hack/fuzz.sh first. Usage: hack/keep-corpus.sh TARGET
set -euo pipefail

cd "$(dirname "$0")/.."
target=${1:?usage: keep-corpus.sh TARGET}
fuzz=tests/fuzz
kept=$fuzz/corpora/$target
merged=$(mktemp -d)
trap 'rm -rf "$merged"' EXIT
mkdir -p "$kept"
# The program that hack/fuzz.sh built. Large inputs rarely reach more than small ones, and the repository stores all of them.
target/fuzz/x86_64-unknown-linux-gnu/release/"$target" -merge=1 -max_len=4096 "$merged" "$fuzz/corpus/$target" "$kept" > /dev/null 2>&1
rm -rf "$kept"
mkdir -p "$kept"
cp "$merged"/* "$kept"
echo "keep-corpus: $target: $(find "$kept" -type f | wc -l) inputs, $(du -sk "$kept" | cut -f1) KiB"
