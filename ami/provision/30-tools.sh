#!/usr/bin/env bash
# Installs the tools of tools.list (or of the file in VM_SERVICE_TOOLS). Idempotent.
# `30-tools.sh --packages` prints them, one a line, and does nothing.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "$0")/lib.sh"

list=$(sed 's/#.*//; s/[[:space:]]//g; /^$/d' "${VM_SERVICE_TOOLS:-$(dirname "$0")/tools.list}")
mapfile -t packages <<<"$list"
if [[ ${1:-} == --packages ]]; then
    printf '%s\n' "${packages[@]}"
    exit 0
fi
install_packages "${packages[@]}"
