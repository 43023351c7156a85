#!/usr/bin/env bash
# Installs missing tools from Debian's packages: cloud-init, shellcheck, jq and promtool for the checks, or, with the argument `guest`,
# the tools that build and run real guests. Prints nothing if nothing is missing.
set -euo pipefail

cd "$(dirname "$0")/.."
# Unpacked and not installed: the package would start a Prometheus.
promtool=target/tools/bin/promtool

# A program of each package.
declare -A programs
case "${1:-checks}" in
  checks) programs=([cloud-init]=cloud-init [shellcheck]=shellcheck [jq]=jq) ;;
  guest) programs=([mmdebstrap]=mmdebstrap [genisoimage]=genisoimage [iproute2]=ip [dnsmasq-base]=dnsmasq [e2fsprogs]=mke2fs) ;;
  *)
    echo "usage: install-tools.sh [guest]" >&2
    exit 2
    ;;
esac
missing=()
for package in "${!programs[@]}"; do
  # The directories of administrators are not in every path.
  PATH="$PATH:/usr/sbin:/sbin" command -v "${programs[$package]}" >/dev/null || missing+=("$package")
done
unpack=()
if [ "${1:-checks}" = checks ] && ! command -v promtool >/dev/null && [ ! -x "$promtool" ]; then
  unpack=(prometheus)
fi
if [ "${#missing[@]}" -eq 0 ] && [ "${#unpack[@]}" -eq 0 ]; then
  exit 0
fi

if ! command -v apt-get >/dev/null; then
  echo "install-tools: these programs are missing, and there is no apt-get to install them with: ${missing[*]} ${unpack[*]+promtool}" >&2
  exit 1
fi
if [ "${#missing[@]}" -ne 0 ] && [ "$(id -u)" -ne 0 ]; then
  echo "install-tools: these programs are missing: ${missing[*]}; as root, run" >&2
  echo "  apt-get update && apt-get install --no-install-recommends ${missing[*]}" >&2
  exit 1
fi

log="$(mktemp)"
trap 'rm -f "$log"' EXIT
run() {
  local try
  for try in 1 2 3; do
    "$@" </dev/null >"$log" 2>&1 && return 0
    sleep "$((try * 2))"
  done
  cat "$log" >&2
  echo "install-tools: failed three times: $*" >&2
  return 1
}

if [ "${#unpack[@]}" -ne 0 ]; then
  echo "install-tools: unpacking promtool from ${unpack[*]}"
  work="$(mktemp -d)"
  trap 'rm -rf "$log" "$work"' EXIT
  if [ "$(id -u)" -eq 0 ]; then
    # A concurrent run holds apt's lock for a while.
    run apt-get -o DPkg::Lock::Timeout=300 update
  fi
  (cd "$work" && run apt-get download "${unpack[@]}")
  dpkg-deb --extract "$work"/prometheus_*.deb "$work/root"
  mkdir -p "$(dirname "$promtool")"
  # Renamed at the end, so that a concurrent run finds all of it or nothing.
  mv "$work/root/usr/bin/promtool" "$promtool.$$"
  mv "$promtool.$$" "$promtool"
fi
if [ "${#missing[@]}" -eq 0 ]; then
  exit 0
fi

echo "install-tools: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
# The package enables cloud-init's services: without this file they would set up this machine again at its next boot.
if [[ " ${missing[*]} " == *" cloud-init "* ]]; then
  install -D -m 0644 /dev/null /etc/cloud/cloud-init.disabled
fi
# A concurrent run holds apt's lock for a while.
run apt-get -o DPkg::Lock::Timeout=300 update
run apt-get -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends "${missing[@]}"
