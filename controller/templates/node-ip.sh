#!/bin/bash
# Writes the addresses of the interface with the default route, one of each family, for the kubelet's --node-ip. Fails,
# and is tried again with the kubelet, until there are both: a Node's families cannot be changed later. Usage: node-ip.sh -4
# or node-ip.sh -6, the family that comes first.
set -euo pipefail

interface="$(ip -o route show default | awk '{ for (i = 1; i < NF; i++) if ($i == "dev") { print $(i + 1); exit } }')"
[ -n "$interface" ] || interface="$(ip -o -6 route show default | awk '{ for (i = 1; i < NF; i++) if ($i == "dev") { print $(i + 1); exit } }')"
if [ -z "$interface" ]; then
  echo "machinist: no interface has a default route yet" >&2
  exit 1
fi

address() {
  ip -o "$1" addr show dev "$interface" scope global | awk '!/temporary|deprecated|tentative/ { split($4, part, "/"); print part[1]; exit }'
}

v4="$(address -4)"
v6="$(address -6)"
if [ -z "$v4" ] || [ -z "$v6" ]; then
  echo "machinist: $interface has the addresses '$v4' and '$v6', but one of each family is wanted" >&2
  exit 1
fi
mkdir -p /run/machinist
case "$1" in
  -6) echo "NODE_IP=$v6,$v4" ;;
  *) echo "NODE_IP=$v4,$v6" ;;
esac >/run/machinist/node-ip
