#!/usr/bin/env bash
# Checks the user data of guests, and our own scripts. The user data of the built-in bootstrap, for every operating system in
# every setting: cloud-configs against cloud-init's schema, Ignition by its own validator, the scripts in them with bash -n
# and shellcheck (Python with its compiler), the kubelet's configuration and flags by the real kubelet. hack/*.sh and
# .ci/run with bash -n and shellcheck.
# Needs cloud-init and shellcheck (hack/install-tools.sh), Go for the validator and the kubelet (built once into
# target/tools), and openssl. Prints only a last line if all checks pass.
set -euo pipefail

cd "$(dirname "$0")/.."
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
failures=0

complain() {
  failures=$((failures + 1))
  echo "lint-user-data: $*" >&2
}

# Runs a check, quietly unless it fails.
check() {
  local what="$1"
  shift
  if ! "$@" >"$work/output" 2>&1; then
    complain "$what: failed: $*"
    cat "$work/output" >&2
  fi
}

check_script() {
  local what="$1" script="$2"
  if head -n 1 "$script" | grep -q python; then
    check "$what" python3 -c 'import sys; compile(open(sys.argv[1]).read(), sys.argv[1], "exec")' "$script"
  else
    check "$what" bash -n "$script"
    check "$what" shellcheck --severity=style "$script"
  fi
}

for tool in cloud-init shellcheck go openssl python3; do
  if ! command -v "$tool" >/dev/null; then
    echo "lint-user-data: $tool is missing; run hack/install-tools.sh" >&2
    exit 1
  fi
done

hack/go-build.sh tests/tools/ignition github.com/coreos/ignition/v2/validate target/tools/ignition-validate
hack/go-build.sh tests/tools k8s.io/kubernetes/cmd/kubelet target/tools/kubelet

# The real kubelet with a command line, one word a line. There is no container runtime and no cluster here: when the kubelet
# reports the missing kubeconfig, it has accepted its flags and its configuration.
kubelet_starts() {
  local root="$1" command_line="$2" words
  mapfile -t words <"$command_line"
  rm -f "$root/etc/kubernetes/bootstrap-kubelet.conf"
  timeout 60 target/tools/kubelet "${words[@]}" --root-dir="$root/root" >"$work/kubelet-log" 2>&1 || true
  grep -q 'unable to load bootstrap kubeconfig' "$work/kubelet-log" && ! grep -q 'unknown field' "$work/kubelet-log"
}
check_kubelet() {
  local what="$1"
  shift
  if ! kubelet_starts "$@"; then
    complain "$what: the kubelet does not start:"
    grep -v '^I' "$work/kubelet-log" | tail -n 5 >&2
  fi
}
openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=ca -keyout /dev/null -out "$work/ca.crt" 2>/dev/null

# With the features of the tests, or dependencies would be compiled again.
cargo build --quiet --locked --workspace --example render-user-data
target/debug/examples/render-user-data "$work/user-data"
rendered=0
scripts=0
kubelets=0
for file in "$work"/user-data/*; do
  name="$(basename "$file")"
  rendered=$((rendered + 1))
  case "$name" in
    # Flatcar's coreos-cloudinit has keys of its own.
    flatcar-*.yaml) ;;
    *.yaml) check "$name" cloud-init schema --config-file "$file" ;;
    *.ign) check "$name" target/tools/ignition-validate "$file" ;;
  esac
  root="$work/root/$name"
  check "$name" python3 hack/read-user-data.py "$file" "$work/parts/$name" "$root"
  for script in "$work/parts/$name/scripts"/*; do
    # Nearly all contain the same script, which is checked once.
    digest="$(sha256sum "$script" | cut -d' ' -f1)"
    if [ ! -e "$work/seen-$digest" ]; then
      touch "$work/seen-$digest"
      scripts=$((scripts + 1))
      check_script "$name: $(basename "$script")" "$script"
    fi
  done
  # The same is true for the kubelet's configuration and flags.
  digest="$(cat "$root/etc/kubernetes/kubelet-config.yaml" "$work/parts/$name/kubelet" | sed "s|$root||g" | sha256sum | cut -d' ' -f1)"
  if [ ! -e "$work/seen-$digest" ]; then
    touch "$work/seen-$digest"
    kubelets=$((kubelets + 1))
    mkdir -p "$root/etc/kubernetes/pki"
    cp "$work/ca.crt" "$root/etc/kubernetes/pki/ca.crt"
    check_kubelet "$name" "$root" "$work/parts/$name/kubelet"
  fi
done
# Fewer would mean that nothing was rendered or extracted, not that all checks pass.
if [ "$rendered" -lt 40 ] || [ "$scripts" -lt 6 ] || [ "$kubelets" -lt 6 ]; then
  complain "only $rendered user data, $scripts scripts and $kubelets kubelets in them were found"
fi
# A kubelet that accepts any configuration would prove nothing.
root="$work/root/ubuntu-plain.yaml"
sed -i 's/"failSwapOn"/"failSwapOnn"/' "$root/etc/kubernetes/kubelet-config.yaml"
if kubelet_starts "$root" "$work/parts/ubuntu-plain.yaml/kubelet"; then
  complain "the kubelet starts with an unknown field in its configuration, so it proves nothing"
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
echo "lint-user-data: $rendered user data, $scripts scripts and $kubelets kubelets in them and $own scripts of our own pass"
