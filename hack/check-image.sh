#!/usr/bin/env bash
# Runs the programs of the image under its conditions, without a container engine: every program that Containerfile copies, under its
# user, without any privilege, in a read-only root with only the programs and the libraries of distroless' cc image. The webhook also
# serves. check-image.sh [FOLDER OF THE PROGRAMS, default target/release]
# Needs root, for a separate root directory, curl and openssl.
set -euo pipefail

cd "$(dirname "$0")/.."
programs="${1:-target/release}"
# Those of glibc and libgcc.
allowed='^(libc|libm|libdl|libpthread|librt|libgcc_s|ld-linux-x86-64|ld-linux-aarch64)\.so\.[0-9]+$'
# The image may have 40 MB, and the base has about 10 of them.
most_bytes=$((30 * 1000 * 1000))

if ! unshare --mount true 2>/dev/null || [ "$(id -u)" -ne 0 ]; then
  echo "check-image: a process cannot get a root directory of its own here: nothing was checked"
  exit 0
fi

fail() {
  echo "check-image: $*" >&2
  exit 1
}

user="$(sed -n 's/^USER \([0-9]*:[0-9]*\)$/\1/p' Containerfile)"
mapfile -t names < <(sed -n 's|^COPY \(.*\) /usr/local/bin/$|\1|p' Containerfile | tr ' ' '\n' | sed 's|^target/release/||')
if [ "${#names[@]}" -lt 2 ] || [ "${user%%:*}" -lt 1 ]; then
  fail "Containerfile copies ${names[*]:-nothing} and has the user '$user'"
fi

root="$(mktemp -d)"
server=
trap '[ -z "$server" ] || kill -KILL "$server" 2>/dev/null || true; rm -rf "$root"' EXIT
chmod 0755 "$root"
mkdir -p "$root/usr/local/bin" "$root/tls"
for name in "${names[@]}"; do
  install -m 0755 "$programs/$name" "$root/usr/local/bin/$name"
  while read -r library; do
    [[ "$(basename "$library")" =~ $allowed ]] || fail "$name needs $library, which the base does not have"
    install -D -m 0755 "$library" "$root$library"
  done < <(ldd "$programs/$name" | grep -oE '/[^ ]+')
done
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=machinist-webhook \
  -addext subjectAltName=DNS:machinist-webhook -keyout "$root/tls/tls.key" -out "$root/tls/tls.crt" 2>/dev/null
# As Kubernetes mounts it.
chmod 0644 "$root/tls/tls.key"

# inside PROGRAM ARGUMENTS...: found by its name, as the chart's pods find it.
inside() {
  # shellcheck disable=SC2016 # For the inner shell.
  exec unshare --mount sh -c '
    root="$1" user="$2" setpriv="$(command -v setpriv)" chroot="$(command -v chroot)"
    shift 2
    mount --bind "$root" "$root"
    mount -o remount,bind,ro,nosuid,nodev "$root"
    exec env -i PATH=/usr/local/bin \
      "$setpriv" --no-new-privs "$chroot" --userspec="$user" --groups= "$root" "$@"
  ' sh "$root" "$user" "$@"
}

for name in "${names[@]}"; do
  for flag in --version --help; do
    output="$(inside "$name" "$flag" 2>&1)" || fail "$name $flag: $output"
    [[ "$output" == *"$name"* ]] || fail "$name $flag says: $output"
  done
done

exec {log}< <(inside machinist-webhook --listen-address=127.0.0.1:0 --ops-address=127.0.0.1:0 \
  --tls-cert-path=/tls/tls.crt --tls-key-path=/tls/tls.key 2>&1)
server=$!
said=
until [[ "$said" == *'"message":"serving"'* ]]; do
  read -r -t 60 said <&"$log" || fail "the webhook does not serve; it said last: $said"
done
# Check the process, not the script's assumption.
status="$(cat "/proc/$server/status")"
for line in "Uid:.${user%%:*}" "Gid:.${user##*:}" "CapEff:.0000000000000000" "NoNewPrivs:.1"; do
  grep -q "^$line" <<<"$status" || fail "the webhook does not run with $line: $status"
done
awk '$5 == "/" && $6 ~ /^ro,/ { found = 1 } END { exit !found }' "/proc/$server/mountinfo" ||
  fail "the webhook's root is not read-only: $(cat "/proc/$server/mountinfo")"
port="$(sed -E 's/.*"address":"127\.0\.0\.1:([0-9]+)".*/\1/' <<<"$said")"
review='{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "1", "operation": "CREATE",
  "kind": {"group": "cluster.k8s.io", "version": "v1alpha1", "kind": "Machine"},
  "resource": {"group": "cluster.k8s.io", "version": "v1alpha1", "resource": "machines"},
  "userInfo": {"username": "author"}, "namespace": "kube-system", "name": "empty",
  "object": {"apiVersion": "cluster.k8s.io/v1alpha1", "kind": "Machine",
    "metadata": {"name": "empty", "namespace": "kube-system"}, "spec": {}}}}'
answer="$(curl --silent --show-error --max-time 30 --cacert "$root/tls/tls.crt" --header 'Content-Type: application/json' \
  --connect-to "machinist-webhook:443:127.0.0.1:$port" --data "$review" https://machinist-webhook/validate)"
[[ "$answer" == *'"allowed":false'*spec.versions.kubelet* ]] || fail "the webhook does not judge: $answer"

if [ "$programs" = target/release ]; then
  bytes="$(tar --create --directory "$root/usr/local/bin" "${names[@]}" | gzip | wc -c)"
  [ "$bytes" -le "$most_bytes" ] || fail "the programs are $bytes bytes, compressed, and may be $most_bytes"
fi
echo "check-image: ${names[*]} run as $user in a read-only root with only their libraries"
