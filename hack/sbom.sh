#!/usr/bin/env bash
# Writes the bill of materials of each program, CycloneDX 1.5 in JSON, into target/sbom: every crate that is linked in or builds it, with
# version, license and checksum. The same commit gives the same text. Needs no network once the tool is built.
set -euo pipefail

cd "$(dirname "$0")/.."
version=0.5.9
if [[ ! -x target/tools/bin/cargo-cyclonedx ]]; then
  cargo install --locked --root target/tools "cargo-cyclonedx@$version"
fi
PATH="$PWD/target/tools/bin:$PATH"
out="$PWD/target/sbom"
SOURCE_DATE_EPOCH="$(git log -1 --format=%ct)"
export SOURCE_DATE_EPOCH

# The tool writes next to each manifest, so it runs in a copy of git's files.
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
git ls-files -z | tar --create --null --files-from=- | tar --extract --directory "$work"
mkdir -p "$out"
(cd "$work" && cargo cyclonedx --quiet --format json --spec-version 1.5 --describe binaries)
files=()
for program in controller/machinist-controller webhook/machinist-webhook cli/kubectl-machinist; do
  # The path of the build is removed.
  file="$out/${program##*/}.cdx.json"
  sed "s|$work|/src|g" "$work/${program}_bin.cdx.json" >"$file"
  files+=("$file")
done

python3 - "${files[@]}" <<'END'
import json
import sys

for path in sys.argv[1:]:
    crates = json.load(open(path))["components"]
    names = {crate["name"] for crate in crates}
    # Fewer would mean that nothing was read; these two would mean that the list does not cover the shipped programs.
    if len(crates) < 100 or "rustls" not in names or "rstest" in names:
        sys.exit(f"sbom: {path} has {len(crates)} crates, which cannot be right")
    unlicensed = [crate["name"] for crate in crates if not crate.get("licenses")]
    if unlicensed:
        sys.exit(f"sbom: {path} has no license of {unlicensed}")
    print(f"sbom: {path}: {len(crates)} crates")
END
