#!/bin/bash
# Finds or installs containerd and the kubelet, and starts them. Usage: install.sh KUBELET_VERSION KUBELET_PATH (like
# 1.33.4 /usr/bin/kubelet). Run by machinist-install.service until it has succeeded once, at later boots too; so every
# step may be repeated.
set -euo pipefail

version="$1"
kubelet="$2"
done_mark=/var/lib/machinist/installed
# Gone at the next boot.
started_mark=/run/machinist/started
minor="$(cut -d. -f1-2 <<<"$version")"
repository="https://pkgs.k8s.io/core:/stable:/v${minor}"
cni_plugins=1.7.1

say() { echo "machinist: $*" >&2; }

retry() {
  local try
  for try in 1 2 3 4 5 6; do
    "$@" && return 0
    say "try $try failed: $*"
    sleep "$((try * 5))"
  done
  return 1
}

# Waits for the image's own unattended upgrades, and keeps the files written at first boot where a package ships its own.
apt_get() {
  export DEBIAN_FRONTEND=noninteractive
  # It restarts services whose libraries are new, and would end this one in its middle.
  if [ -d /etc/needrestart/conf.d ]; then
    echo "\$nrconf{override_rc}{qr(^machinist-install)} = 0;" >/etc/needrestart/conf.d/machinist.conf
  fi
  retry apt-get -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@"
}

apt_install() {
  apt_get update
  apt_get install --yes --no-install-recommends --allow-change-held-packages --allow-downgrades "$@"
}

# Ends this script, which the next boot begins anew. Leave a mark before, or the guest reboots for ever.
reboot() {
  say "rebooting: $*"
  systemctl reboot
  exit 0
}

has_kubelet() {
  [ -x "$kubelet" ] && "$kubelet" --version | grep -qx "Kubernetes v${version}"
}

install_with_apt() {
  if ! command -v containerd >/dev/null; then
    apt_install containerd
    # No update takes it from under running pods.
    apt-mark hold containerd
  fi
  if ! has_kubelet; then
    apt_install ca-certificates curl gpg
    install -d -m 0755 /etc/apt/keyrings
    retry curl -fsSL -o /run/kubernetes.key "${repository}/deb/Release.key"
    gpg --batch --yes --dearmor -o /etc/apt/keyrings/kubernetes.gpg /run/kubernetes.key
    echo "deb [signed-by=/etc/apt/keyrings/kubernetes.gpg] ${repository}/deb/ /" >/etc/apt/sources.list.d/kubernetes.list
    apt_install "kubelet=${version}-*" kubernetes-cni
    apt-mark hold kubelet
  fi
}

install_with_dnf() {
  if ! command -v containerd >/dev/null; then
    retry dnf install -y dnf-plugins-core
    retry dnf config-manager --add-repo https://download.docker.com/linux/centos/docker-ce.repo
    retry dnf install -y containerd.io
    sed -i '/^\[docker-ce-stable\]$/a excludepkgs=containerd.io' /etc/yum.repos.d/docker-ce.repo
  fi
  if ! has_kubelet; then
    cat >/etc/yum.repos.d/kubernetes.repo <<EOF
[kubernetes]
name=Kubernetes
baseurl=${repository}/rpm/
enabled=1
gpgcheck=1
gpgkey=${repository}/rpm/repodata/repomd.xml.key
exclude=kubelet
EOF
    retry dnf install -y --disableexcludes=kubernetes "kubelet-${version}" kubernetes-cni
  fi
}

# Fetches URL to FILE, if its SHA-256 is that in the file at SUM_URL.
fetch() {
  local url="$1" sum_url="$2" file="$3" sum
  retry curl -fsSL -o "${file}.sum" "$sum_url"
  retry curl -fsSL -o "${file}.part" "$url"
  # Some end without a newline, of which `read` would make a failure.
  sum="$(cut -d' ' -f1 "${file}.sum")"
  echo "${sum}  ${file}.part" | sha256sum --check --status || {
    say "the checksum of $url is wrong"
    return 1
  }
  mv -f "${file}.part" "$file"
}

# For an operating system without packages, which comes with containerd.
install_binaries() {
  local arch base folder
  command -v containerd >/dev/null || {
    say "neither apt-get nor dnf is here, and the image has no containerd"
    return 1
  }
  case "$(uname -m)" in
    x86_64) arch=amd64 ;;
    aarch64) arch=arm64 ;;
    *)
      say "there is no kubelet for $(uname -m)"
      return 1
      ;;
  esac
  folder="$(dirname "$kubelet")"
  mkdir -p "$folder" /opt/cni/bin
  if [ ! -x /opt/cni/bin/loopback ]; then
    base="https://github.com/containernetworking/plugins/releases/download/v${cni_plugins}"
    base="${base}/cni-plugins-linux-${arch}-v${cni_plugins}.tgz"
    fetch "$base" "${base}.sha256" /opt/cni/plugins.tgz
    tar -xzf /opt/cni/plugins.tgz -C /opt/cni/bin
  fi
  base="https://dl.k8s.io/release/v${version}/bin/linux/${arch}/kubelet"
  fetch "$base" "${base}.sha256" "${folder}/kubelet.new"
  chmod 0755 "${folder}/kubelet.new"
  mv -f "${folder}/kubelet.new" "$kubelet"
}

# Takes the CAs that the user data brought into the system's bundle.
trust() {
  local certificate
  for certificate in /usr/local/share/ca-certificates/machinist-*.crt \
    /etc/pki/ca-trust/source/anchors/machinist-*.pem /etc/ssl/certs/machinist-*.pem; do
    [ -e "$certificate" ] || continue
    if command -v update-ca-certificates >/dev/null; then
      update-ca-certificates
    else
      update-ca-trust extract
    fi
    return
  done
}

# Gives the interface the static address that the user data brought.
address() {
  if [ ! -e /etc/systemd/network/05-machinist.network ]; then
    return
  fi
  if systemctl is-active --quiet NetworkManager.service; then
    nmcli connection reload
    nmcli connection up machinist
  else
    networkctl reload
  fi
}

# Has sshd trust the CA that the user data may have brought.
trust_ssh_ca() {
  local own=/etc/ssh/sshd_config.d/40-machinist.conf config=/etc/ssh/sshd_config line
  if [ ! -e "$own" ]; then
    return
  fi
  line="$(cat "$own")"
  # The sshd of Enterprise Linux 8 cannot include files. The first line is in no Match block.
  if [ -e "$config" ] && ! grep -Eqi '^[[:space:]]*include[[:space:]].*sshd_config\.d/' "$config" \
    && ! grep -Fqx "$line" "$config"; then
    sed -i "1i ${line}" "$config"
  fi
  # It reads whom it trusts when it starts.
  systemctl try-reload-or-restart sshd.service ssh.service || say "sshd could not be told of its CA"
}

# Registers the guest with Red Hat, if the user data asks for it.
subscribe() {
  local python=/usr/libexec/platform-python
  if [ ! -e /opt/machinist/subscribe.py ]; then
    return
  fi
  # What the system's own programs run with, on Enterprise Linux 8 and 9.
  [ -x "$python" ] || python=python3
  retry "$python" /opt/machinist/subscribe.py
}

# Upgrades all packages once, if the user data asks for it.
upgrade() {
  local mark=/var/lib/machinist/upgraded
  if [ ! -e /opt/machinist/upgrade ] || [ -e "$mark" ]; then
    return
  fi
  if command -v apt-get >/dev/null; then
    apt_get update
    apt_get dist-upgrade --yes
    install -D -m 0644 /dev/null "$mark"
    if [ -e /run/reboot-required ]; then
      reboot "the upgrade asks for it"
    fi
  else
    retry dnf upgrade -y
    # For needs-restarting.
    retry dnf install -y dnf-plugins-core
    install -D -m 0644 /dev/null "$mark"
    dnf needs-restarting --reboothint || reboot "the upgrade asks for it"
  fi
}

# Loads what the kernel needs for pods.
load_modules() {
  local extra=kernel-modules-extra mark=/var/lib/machinist/kernel-replaced
  # A module that is built in is loaded, but not every kernel tells modprobe of it.
  if modprobe --all overlay br_netfilter \
    || { grep -qw overlay /proc/filesystems && [ -e /proc/sys/net/bridge ]; }; then
    return
  fi
  if ! command -v dnf >/dev/null; then
    say "the kernel has no overlay or no br_netfilter"
    return 1
  fi
  # Enterprise Linux 10 has br_netfilter in a package of its own, which images leave out.
  retry dnf makecache
  if ! dnf install -y "${extra}-$(uname -r)" && [ ! -e "$mark" ]; then
    # Repositories forget the kernels of former minor releases. The package brings the kernel that it is for.
    retry dnf install -y "$extra"
    install -D -m 0644 /dev/null "$mark"
    reboot "$extra is there for another kernel only"
  fi
  modprobe --all overlay br_netfilter
}

# Runs a script that the user data may have brought.
hook() {
  if [ -e "$1" ]; then
    bash "$1"
  fi
}

# Everything up to a node that runs.
install_node() {
  address
  trust
  trust_ssh_ca
  if [ -e /opt/machinist/masked-units ]; then
    xargs --no-run-if-empty systemctl mask --now </opt/machinist/masked-units
  fi
  subscribe
  hook /opt/machinist/pre-install.sh
  # With the subscription, the proxy of this service, and the repositories that preInstall may have set up.
  upgrade

  load_modules
  # Only our own settings: what is wrong with the image's stops no node. --ignore skips IPv6 keys where the kernel has none.
  sysctl --ignore --quiet --load=/etc/sysctl.d/99-kubernetes.conf
  swapoff --all
  systemctl mask swap.target

  # What pods get as their resolv.conf: not the stub of systemd-resolved, which listens on the guest's loopback, where no
  # pod reaches it.
  if [ -e /run/systemd/resolve/resolv.conf ]; then
    ln -sfn /run/systemd/resolve/resolv.conf /etc/kubernetes/resolv.conf
  else
    ln -sfn /etc/resolv.conf /etc/kubernetes/resolv.conf
  fi

  # An image may bring its own below /usr.
  if [ ! -e "$kubelet" ] && [ -x /usr/bin/kubelet ]; then
    mkdir -p "$(dirname "$kubelet")"
    ln -sfn /usr/bin/kubelet "$kubelet"
  fi
  if ! command -v containerd >/dev/null || ! has_kubelet; then
    if command -v apt-get >/dev/null; then
      install_with_apt
    elif command -v dnf >/dev/null; then
      install_with_dnf
    else
      install_binaries
    fi
  fi

  systemctl daemon-reload
  systemctl enable containerd.service kubelet.service
  systemctl restart containerd.service kubelet.service
  install -D -m 0644 /dev/null "$started_mark"
}

# What runs is not started anew because a command of postInstall failed.
if [ ! -e "$started_mark" ]; then
  install_node
fi
hook /opt/machinist/post-install.sh
install -D -m 0644 /dev/null "$done_mark"
