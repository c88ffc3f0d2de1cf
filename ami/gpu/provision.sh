#!/usr/bin/env bash
# Makes an image of Debian 12, Ubuntu 22.04 or 24.04 a GPU image: NVIDIA's driver and CUDA runtime of the chosen versions, the container
# toolkit, Docker's runtime `nvidia`, the persistence daemon, and the readiness check (gpu-ready, vm-service-gpu.service). Idempotent.
# Runs after the scripts of ../provision, and for GPU images only; `provision.sh --install` does no more than repositories and packages
# (to run before those scripts: they change how names are resolved).
# Reads: VM_SERVICE_NVIDIA_DRIVER a branch (580) or one version (580.95.05); VM_SERVICE_NVIDIA_MODULES open (Turing and newer) or
# proprietary; VM_SERVICE_CUDA the CUDA runtime (13-0), or none; VM_SERVICE_NVIDIA_TOOLKIT the container toolkit (1.17.8-1).
# VM_SERVICE_CUDA_REPOSITORY and VM_SERVICE_TOOLKIT_REPOSITORY name mirrors of NVIDIA's; the keys stay NVIDIA's.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../provision/lib.sh
source "$(dirname "$0")/../provision/lib.sh"
# shellcheck disable=SC2034 # read by install_tree
files=$(cd "$(dirname "$0")" && pwd)

driver=${VM_SERVICE_NVIDIA_DRIVER:-580}
modules=${VM_SERVICE_NVIDIA_MODULES:-open}
cuda=${VM_SERVICE_CUDA:-13-0}
toolkit=${VM_SERVICE_NVIDIA_TOOLKIT:-1.17.8-1}
refuse() { echo "gpu/provision.sh: $*" >&2; exit 64; }
[[ ${1:-} == '' || ${1:-} == --install ]] || refuse "usage: provision.sh [--install]"
[[ $driver =~ ^[0-9]{3}(\.[0-9]+)*$ ]] ||
    refuse "VM_SERVICE_NVIDIA_DRIVER is a branch such as 580 or a version such as 580.95.05, not \"$driver\""
[[ $cuda =~ ^([0-9]+-[0-9]+|none)$ ]] || refuse "VM_SERVICE_CUDA is as in 13-0, or none, not \"$cuda\""
[[ $toolkit =~ ^[0-9][0-9.]*-[0-9]+$ ]] || refuse "VM_SERVICE_NVIDIA_TOOLKIT is as in 1.17.8-1, not \"$toolkit\""
case $modules in
    open) package='nvidia-open' ;;
    proprietary) package='cuda-drivers' ;;
    *) refuse "VM_SERVICE_NVIDIA_MODULES is open or proprietary, not \"$modules\"" ;;
esac

# shellcheck source=/dev/null
source /etc/os-release
case $ID-$VERSION_ID in
    debian-12 | ubuntu-22.04 | ubuntu-24.04) repository=$ID${VERSION_ID//./} ;;
    *) refuse "NVIDIA's packages are taken for Debian 12, Ubuntu 22.04 and 24.04; this is ${PRETTY_NAME:-$ID}" ;;
esac
case $(uname -m) in
    x86_64) repository+=/x86_64 ;;
    aarch64) repository+=/sbsa ;;
    *) refuse "no driver for $(uname -m)" ;;
esac
cuda_at=${VM_SERVICE_CUDA_REPOSITORY:-https://developer.download.nvidia.com/compute/cuda/repos}/$repository
toolkit_at=${VM_SERVICE_TOOLKIT_REPOSITORY:-https://nvidia.github.io/libnvidia-container}

# trust NAME URL FINGERPRINT: the key of a repository, which is that one or none at all.
trust() {
    local keyring=/usr/share/keyrings/vm-service-$1.gpg folder found
    folder=$(mktemp -d)
    curl -fsSL --retry 3 --max-time 60 -o "$folder/key" "$2" || { rm -rf "$folder"; refuse "no key at $2"; }
    found=$(gpg --homedir "$folder" --with-colons --import-options show-only --import "$folder/key" 2>/dev/null |
        awk -F: '$1 == "pub" { main = 1 } $1 == "fpr" && main { print $10; main = 0 }')
    if [[ $found != "$3" ]]; then
        rm -rf "$folder"
        refuse "the key at $2 is ${found:-none} and not $3: nothing of this repository is installed"
    fi
    gpg --homedir "$folder" --dearmor <"$folder/key" >"$folder/keyring" 2>/dev/null || cp "$folder/key" "$folder/keyring"
    install -D -m 0644 "$folder/keyring" "$keyring"
    rm -rf "$folder"
}

install_packages ca-certificates curl gpg
# Fingerprints as NVIDIA publishes them for these two repositories.
trust nvidia-cuda "$cuda_at/3bf863cc.pub" EB693B3035CD5710E231E123A4B469963BF863CC
trust nvidia-toolkit "$toolkit_at/gpgkey" C95B321B61E88C1809C4F759DDCAE044F796ECB0
# shellcheck disable=SC2016 # apt knows its architecture
printf 'deb [signed-by=/usr/share/keyrings/%s.gpg] %s /\n' vm-service-nvidia-cuda "$cuda_at" \
    vm-service-nvidia-toolkit "$toolkit_at"'/stable/deb/$(ARCH)' >/etc/apt/sources.list.d/vm-service-nvidia.list
# pins: apt's preferences. The driver is some forty packages that fit each other only at one version, and the distribution has others of
# the same names.
pins() {
    printf 'Package: %s\nPin: version %s\nPin-Priority: 1001\n\n' \
        '/nvidia/ /^cuda-drivers/ /^libcuda1/ /^libxnvctrl/' "/^${driver//./\\.}[-.]/" \
        'nvidia-container-toolkit nvidia-container-toolkit-base libnvidia-container-tools libnvidia-container1' "$toolkit"
}
pins >/etc/apt/preferences.d/vm-service-nvidia

apt-get update -qq
packages=("linux-headers-$(uname -r)" "$package" nvidia-container-toolkit)
if [[ $cuda != none ]]; then packages+=("cuda-libraries-$cuda"); fi
if has_candidate nvidia-persistenced; then packages+=(nvidia-persistenced); fi
for name in "${packages[@]}"; do
    has_candidate "$name" || refuse "no package $name for this release: choose another driver, CUDA or kernel"
done
# chosen PACKAGE VERSION Candidate|Installed: it will be, or is, of that version.
chosen() {
    local have
    have=$(LC_ALL=C apt-cache policy "$1" | sed -n "s/^  $3: //p")
    [[ $have == "$2"[-.]* || $have == "$2" ]] ||
        refuse "$1 is ${have:-not there} and not $2: choose another, or begin with a machine without it"
}
chosen "$package" "$driver" Candidate
chosen nvidia-container-toolkit "$toolkit" Candidate
install_packages "${packages[@]}"
chosen "$package" "$driver" Installed
chosen nvidia-container-toolkit "$toolkit" Installed
# For the kernel that the image boots: a driver for none is found out here and not in the first VM.
modinfo -k "$(uname -r)" nvidia >/dev/null || refuse "the driver's modules were not built for kernel $(uname -r)"
if [[ ${1:-} == --install ]]; then exit 0; fi

install_tree files
nvidia-ctk runtime configure --runtime=docker
systemctl daemon-reload 2>/dev/null || true
systemctl enable --quiet nvidia-persistenced.service vm-service-gpu.service
