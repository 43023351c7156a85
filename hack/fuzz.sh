#!/usr/bin/env bash
# Fuzzes one target (admission, values, csr, watched, answers) for some seconds; fails on a crash. Usage: hack/fuzz.sh [SECONDS] [TARGET]
#
# Needs the nightly toolchain, and installs it if there is none. Finds are kept in tests/fuzz/artifacts, the corpus in
# tests/fuzz/corpus; hack/keep-corpus.sh copies the smallest part of it that reaches the same code into tests/fuzz/corpora.
set -euo pipefail

cd "$(dirname "$0")/.."
seconds=${1:-60}
target=${2:-admission}
fuzz=tests/fuzz
corpus=$fuzz/corpus/$target

if ! cargo +nightly --version > /dev/null 2>&1; then
    rustup toolchain install nightly --profile minimal
fi
if [[ ! -x target/tools/bin/cargo-fuzz ]]; then
    cargo install --locked --root target/tools cargo-fuzz@0.13.2
fi
export PATH=$PWD/target/tools/bin:$PATH

mkdir -p "$corpus"
# The corpus that earlier runs kept, which `cargo test` replays.
cp -n "$fuzz/corpora/$target"/* "$corpus" 2> /dev/null || true
if [[ $target == admission ]]; then
    cargo build --quiet --locked --workspace --example seeds
    target/debug/examples/seeds "$corpus"
fi
options=()
if [[ $target == csr || $target == watched || $target == answers ]]; then
    options=(--features "$target")
fi
dictionary=()
if [[ -f $fuzz/$target.dict ]]; then
    dictionary=(-dict="$fuzz/$target.dict")
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
# No sanitizer: our crates have no unsafe code, and without one several times as many inputs are tried.
cargo +nightly fuzz run --sanitizer none --fuzz-dir "$fuzz" --target-dir target/fuzz "${options[@]}" "$target" -- \
    "${dictionary[@]}" -max_total_time="$seconds" -max_len=16384 -timeout=10 -rss_limit_mb=2048 \
    -print_final_stats=1 -verbosity=1 > "$log" 2>&1 || status=$?
if [[ $status -ne 0 ]]; then
    tail --lines=100 "$log" >&2
    echo "fuzz: $target failed after $(grep -c . "$log") lines of log; the input is in $fuzz/artifacts/$target" >&2
    exit "$status"
fi
grep -E '^stat::number_of_executed_units|^stat::average_exec_per_sec|^stat::peak_rss_mb' "$log"
echo "fuzz: $target ran ${seconds} s without a crash"
