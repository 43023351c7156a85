#!/bin/bash
# Finds or installs containerd and the kubelet, and starts them. Usage: install.sh KUBELET_VERSION (like 1.33.4).
# Every step may be repeated: a guest that was stopped half-way goes on at its next boot.
set -euo pipefail

version="$1"
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

apt_install() {
  export DEBIAN_FRONTEND=noninteractive
  retry apt-get update
  retry apt-get install --yes --no-install-recommends "$@"
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
sysctl --system >/dev/null
swapoff --all

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
