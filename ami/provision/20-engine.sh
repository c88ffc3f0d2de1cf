#!/usr/bin/env bash
# Installs the Docker engine, started at boot on its unix socket (after sshd, never before), and the TLS front
# `vm-service-docker-tls.service`, which is not enabled: the service starts it once it has written the certificates.
# Idempotent. `20-engine.sh --packages` prints the packages it needs, one a line, and does nothing.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "$0")/lib.sh"

packages=(docker.io iptables stunnel4)
# The client, the builder and compose are packages of their own on newer distributions.
for package in docker-cli docker-buildx; do
    if has_candidate "$package"; then packages+=("$package"); fi
done
if has_candidate docker-compose-v2; then
    packages+=(docker-compose-v2)
elif has_candidate docker-compose; then
    packages+=(docker-compose)
fi
if [[ ${1:-} == --packages ]]; then
    printf '%s\n' "${packages[@]}"
    exit 0
fi
install_packages "${packages[@]}"
install_tree engine

# The package's own stunnel units would start a second, unconfigured front.
off stunnel4.service stunnel.target
systemctl enable --quiet docker.socket docker.service containerd.service

# VM_SERVICE_STORE=containerd: the layers are containerd's.
if [[ ${VM_SERVICE_STORE:-} == containerd ]]; then sed -i 's/false/true/' /etc/docker/daemon.json; fi
store=classic
if grep -q '"containerd-snapshotter": *true' /etc/docker/daemon.json; then store=containerd; fi
# What a layer cache has to fit: architecture, store, major version.
dockerd --version | sed -n "s/^Docker version \([0-9]*\)\..*/$(uname -m) $store \1/p" >/etc/vm-service/engine
