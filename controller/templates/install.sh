#!/bin/bash
# Finds or installs containerd and the kubelet, and starts them. Usage: install.sh KUBELET_VERSION (like 1.33.4).
# Run by machinist-install.service until it has succeeded once, at later boots too; so every step may be repeated.
set -euo pipefail

version="$1"
done_mark=/var/lib/machinist/installed
minor="$(cut -d. -f1-2 <<<"$version")"
repository="https://pkgs.k8s.io/core:/stable:/v${minor}"

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
apt_install() {
  export DEBIAN_FRONTEND=noninteractive
  retry apt-get -o DPkg::Lock::Timeout=300 update
  retry apt-get -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold \
    install --yes --no-install-recommends --allow-change-held-packages --allow-downgrades "$@"
}

has_kubelet() {
  [ -x /usr/bin/kubelet ] && /usr/bin/kubelet --version | grep -qx "Kubernetes v${version}"
}

install_with_apt() {
  command -v containerd >/dev/null || apt_install containerd
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

modprobe --all overlay br_netfilter
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

if ! command -v containerd >/dev/null || ! has_kubelet; then
  if command -v apt-get >/dev/null; then
    install_with_apt
  elif command -v dnf >/dev/null; then
    install_with_dnf
  else
    say "neither apt-get nor dnf is here, and the image has no containerd with kubelet ${version}"
    exit 1
  fi
fi

systemctl daemon-reload
systemctl enable containerd.service kubelet.service
systemctl restart containerd.service kubelet.service
install -D -m 0644 /dev/null "$done_mark"
