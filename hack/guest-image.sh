#!/usr/bin/env bash
# Builds the image of real guests into target/guest: a private QEMU, and a Debian image with containerd and the kubelet. Everything
# comes from Debian's packages and Go modules. Parts whose inputs have not changed are kept. If all are current, this returns at once. Needs root and hack/install-tools.sh guest.
#
# MIRROR is the Debian mirror.
set -euo pipefail

cd "$(dirname "$0")/.."
mirror="${MIRROR:-http://deb.debian.org/debian}"
# 10 or later: under emulation, the 7.2 of Debian 12 corrupts the guest's flags.
suite=trixie
out="$PWD/target/guest"
sources="$PWD/tests/guest"
kubernetes="$(sed -n 's/^\tk8s.io\/kubernetes v\([0-9.]*\).*/\1/p' tests/tools/go.mod)"

qemu_packages=qemu-system-x86,qemu-utils
guest_packages=(systemd-sysv dbus udev kmod linux-image-cloud-amd64 initramfs-tools lz4 cloud-init cloud-guest-utils
  e2fsprogs containerd runc containernetworking-plugins iptables iproute2 ca-certificates netbase)

say() { echo "guest-image: $*"; }

# Runs a command whose output is shown only if it fails, three times at most: mirrors fail temporarily.
quietly() {
  local try
  for try in 1 2 3; do
    "$@" </dev/null >"$out/build.log" 2>&1 && return 0
    sleep "$((try * 2))"
  done
  tail -n 40 "$out/build.log" >&2
  say "failed three times: $*" >&2
  return 1
}

# The digest of a part's inputs.
digest() { cat "$@" | sha256sum | cut -d' ' -f1; }
current() { [ "$(cat "$out/$1.stamp" 2>/dev/null)" = "$2" ]; }

mkdir -p "$out"
exec 9>"$out/lock"
flock 9

mapfile -t image_sources < <(find "$sources" -type f | LC_ALL=C sort)
qemu_digest="$(digest <<<"$suite $qemu_packages")"
kubelet_digest="$(digest tests/tools/go.mod tests/tools/go.sum)"
# This file defines the image.
image_digest="$(digest hack/guest-image.sh tests/tools/go.mod tests/tools/go.sum "${image_sources[@]}")"

if current qemu "$qemu_digest" && current kubelet "$kubelet_digest" && current image "$image_digest"; then
  say "target/guest is current: QEMU, and Debian $suite with kubelet $kubernetes"
  exit 0
fi
if [ "$(uname -m)" != x86_64 ]; then
  say "the guest is an amd64 machine, and so must this one be, not $(uname -m)" >&2
  exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
  say "run it as root: it installs Debian into a folder" >&2
  exit 1
fi
begin=$SECONDS

build_qemu() {
  say "QEMU from Debian $suite, about half a minute ..."
  rm -rf "$out/qemu.partial" "$out/qemu"
  quietly mmdebstrap --variant=minbase --include="$qemu_packages" "$suite" "$out/qemu.partial" "$mirror"
  # A tree that is never booted needs no devices and caches.
  rm -rf "$out"/qemu.partial/{dev,var,proc,sys,run,boot,usr/share/{doc,man,locale,i18n,zoneinfo}}
  mv "$out/qemu.partial" "$out/qemu"
}

build_kubelet() {
  say "kubelet $kubernetes with Go, half a minute when Go's build cache is warm, else about four ..."
  hack/go-build.sh tests/tools k8s.io/kubernetes/cmd/kubelet target/tools/kubelet
  cp target/tools/kubelet "$out/kubelet"
}

# Writes a docker-archive with one image of one static program, under several names.
pack_image() {
  local program="$1" archive="$2"
  shift 2
  local folder layer config tags
  folder="$(mktemp -d)"
  tar --create --file "$folder/layer.tar" --directory "$(dirname "$program")" --owner=0 --group=0 --mtime=@0 \
    "$(basename "$program")"
  layer="$(sha256sum "$folder/layer.tar" | cut -d' ' -f1)"
  mv "$folder/layer.tar" "$folder/$layer.tar"
  printf '{"architecture":"amd64","os":"linux","config":{"Entrypoint":["/%s"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$(basename "$program")" "$layer" >"$folder/config.json"
  config="$(sha256sum "$folder/config.json" | cut -d' ' -f1)"
  mv "$folder/config.json" "$folder/$config.json"
  tags="$(printf ',"%s"' "$@")"
  printf '[{"Config":"%s.json","RepoTags":[%s],"Layers":["%s.tar"]}]' "$config" "${tags:1}" "$layer" \
    >"$folder/manifest.json"
  tar --create --file "$archive" --directory "$folder" manifest.json "$config.json" "$layer.tar"
  rm -rf "$folder"
}

build_image() {
  local root="$out/rootfs.partial" sandbox
  say "Debian $suite with containerd, about a minute ..."
  rm -rf "$root" "$out/image.partial"
  mkdir -p "$out/image.partial"
  # The initrd has only what this one machine needs: an emulated CPU unpacks it.
  local initramfs="MODULES=list\\nCOMPRESS=lz4\\nRESUME=none\\nFSTYPE=ext4\\n"
  # shellcheck disable=SC2016 # "$1" is mmdebstrap's.
  quietly mmdebstrap --variant=minbase --include="$(IFS=, && echo "${guest_packages[*]}")" \
    --aptopt='APT::Install-Recommends "false"' \
    --essential-hook='mkdir -p "$1/etc/initramfs-tools/conf.d"' \
    --essential-hook="printf '$initramfs' >\"\$1/etc/initramfs-tools/conf.d/guest\"" \
    "$suite" "$root" "$mirror"

  # What mmdebstrap copies from this machine.
  rm -f "$root/etc/hostname" "$root/etc/resolv.conf" "$root/var/lib/dbus/machine-id"
  cp -a --no-preserve=ownership "$sources/rootfs/." "$root/"
  printf 'virtio_pci\nvirtio_blk\next4\n' >>"$root/etc/initramfs-tools/modules"
  quietly chroot "$root" update-initramfs -u
  quietly chroot "$root" systemctl enable systemd-networkd.service systemd-networkd-wait-online.service
  # The user data starts it, once its configuration is written.
  quietly chroot "$root" systemctl disable containerd.service
  # Timers that would run while the guest boots.
  quietly chroot "$root" systemctl mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    fstrim.timer e2scrub_reap.service
  : >"$root/etc/machine-id"
  echo '/dev/vda / ext4 defaults 0 1' >"$root/etc/fstab"

  install -m 0755 "$out/kubelet" "$root/usr/bin/kubelet"
  # The directory of CNI's plugins everywhere except in Debian.
  mkdir -p "$root/opt/cni"
  ln -s /usr/lib/cni "$root/opt/cni/bin"
  sandbox="$(chroot "$root" containerd config default | sed -n 's/^ *sandbox_image = "\(.*\)"/\1/p')"
  (cd "$sources/pause" && CGO_ENABLED=0 go build -trimpath -ldflags="-s -w" -o "$out/pause" .)
  mkdir -p "$root/usr/share/guest"
  pack_image "$out/pause" "$root/usr/share/guest/images.tar" "$sandbox" guest.test/pause:1

  cp -L "$root/vmlinuz" "$out/image.partial/vmlinuz"
  cp -L "$root/initrd.img" "$out/image.partial/initrd.img"
  rm -rf "${root:?}"/boot/* "${root:?}"/{vmlinuz,initrd.img}* "$root"/var/cache/apt/* "$root"/usr/share/{doc,man,locale}
  say "the disk ..."
  quietly mke2fs -q -t ext4 -L root -d "$root" -E lazy_itable_init=1,lazy_journal_init=1 "$out/image.partial/root.raw" 4G
  rm -rf "$root" "$out/image"
  mv "$out/image.partial" "$out/image"
}

part() {
  local name="$1" inputs="$2"
  if ! current "$name" "$inputs"; then
    rm -f "$out/$name.stamp"
    "build_$name"
    echo "$inputs" >"$out/$name.stamp"
  fi
}
part qemu "$qemu_digest"
part kubelet "$kubelet_digest"
part image "$image_digest"
say "built in $((SECONDS - begin)) s: target/guest has QEMU, and Debian $suite with kubelet $kubernetes"
