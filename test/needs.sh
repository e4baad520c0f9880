#!/usr/bin/env bash
# Installs the Debian packages that the tests and the demo use, or prints the
# line to type. Nothing of this is needed to build an ISO.
set -euo pipefail
want=(qemu-system-x86 qemu-system-arm qemu-utils ovmf qemu-efi-aarch64 qemu-user-static ipxe-qemu
	gcc libc6-dev                                                    # the race detector
	e2fsprogs xfsprogs dosfstools fdisk                               # data disks and state volumes
	iproute2 dnsmasq-base busybox isc-dhcp-client dhcpcd-base tftp-hpa atftp curl wget # networks and real clients
	chromium fonts-dejavu-core tmux)                                  # the page and the table as people see them
[ "${1:-}" = bench ] && want+=(mmdebstrap xorriso erofs-utils tftpd-hpa nginx-light bmap-tools) # the peers
missing=()
for p in "${want[@]}"; do
	dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || missing+=("$p")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ]; then
	echo "needed to run virtual machines; type:" >&2
	echo "  sudo apt-get install --no-install-recommends ${missing[*]}" >&2
	exit 1
fi
echo "installing ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
policy=/usr/sbin/policy-rc.d # a peer is measured, and not to be started by its package
if [ ! -e $policy ]; then
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod +x $policy
	trap 'rm -f $policy' EXIT
fi
if ! { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
	cat "$log" >&2
	exit 1
fi
rm -f "$log"
