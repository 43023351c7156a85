#!/usr/bin/env bash
# Checks what guests are given, and our own scripts: the user data of the built-in bootstrap, for every operating system
# and setting, against cloud-init's schema; the shell scripts in it, hack/*.sh and .ci/run with bash -n and shellcheck.
# Needs cloud-init and shellcheck (hack/install-tools.sh). Says nothing but a last line when all is well.
set -euo pipefail

cd "$(dirname "$0")/.."
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
failures=0

# Runs a check, quietly unless it fails.
check() {
  local what="$1"
  shift
  if ! "$@" >"$work/output" 2>&1; then
    failures=$((failures + 1))
    echo "lint-user-data: $what: failed: $*" >&2
    cat "$work/output" >&2
  fi
}

check_script() {
  local what="$1" script="$2"
  check "$what" bash -n "$script"
  check "$what" shellcheck --severity=style "$script"
}

for tool in cloud-init shellcheck; do
  if ! command -v "$tool" >/dev/null; then
    echo "lint-user-data: $tool is missing; run hack/install-tools.sh" >&2
    exit 1
  fi
done

# Writes the files of a cloud-config with a shebang to a folder, and its commands as one script.
cat >"$work/extract.py" <<'PYTHON'
import base64, json, pathlib, shlex, sys

source, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
# The user data is JSON below its first line, which is YAML, too.
config = json.loads(source.read_text().split("\n", 1)[1])
folder.mkdir(parents=True)
commands = ["#!/bin/sh"]
commands += [c if isinstance(c, str) else shlex.join(c) for c in config.get("runcmd", [])]
(folder / "runcmd").write_text("\n".join(commands) + "\n")
for file in config["write_files"]:
    content = base64.b64decode(file["content"], validate=True)
    if content.startswith(b"#!"):
        (folder / file["path"].strip("/").replace("/", "_")).write_bytes(content)
PYTHON

cargo run --quiet --package machinist-controller --example render-user-data "$work/user-data"
rendered=0
scripts=0
for file in "$work"/user-data/*.yaml; do
  name="$(basename "$file")"
  rendered=$((rendered + 1))
  check "$name" cloud-init schema --config-file "$file"
  check "$name" python3 "$work/extract.py" "$file" "$work/scripts/$name"
  for script in "$work/scripts/$name"/*; do
    # The same script is in nearly all of them, and read once.
    digest="$(sha256sum "$script" | cut -d' ' -f1)"
    if [ ! -e "$work/seen-$digest" ]; then
      touch "$work/seen-$digest"
      scripts=$((scripts + 1))
      check_script "$name: $(basename "$script")" "$script"
    fi
  done
done
# Fewer would mean that nothing was rendered or extracted, not that all is well.
if [ "$rendered" -lt 3 ] || [ "$scripts" -lt 2 ]; then
  echo "lint-user-data: only $rendered user data and $scripts scripts in them were found" >&2
  exit 1
fi

own=0
for script in hack/*.sh .ci/run; do
  if [ -e "$script" ]; then
    own=$((own + 1))
    check_script "$script" "$script"
  fi
done

if [ "$failures" -ne 0 ]; then
  echo "lint-user-data: $failures checks failed" >&2
  exit 1
fi
echo "lint-user-data: $rendered user data, $scripts scripts in them and $own of our own are well"
