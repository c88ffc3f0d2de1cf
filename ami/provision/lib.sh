# Shared by the provisioning scripts: installs packages and files so that a second run changes nothing.
# Sourced, not run. Guarantees: no network use but apt, and none at all when every package is there.
# shellcheck shell=bash

export DEBIAN_FRONTEND=noninteractive
files="$(cd "$(dirname "${BASH_SOURCE[0]}")/../files" && pwd)"

# has_candidate PACKAGE: the distribution offers it.
has_candidate() {
    local candidate
    candidate=$(LC_ALL=C apt-cache policy "$1" 2>/dev/null | sed -n 's/^  Candidate: //p')
    [[ -n $candidate && $candidate != "(none)" ]]
}

# install_packages PACKAGE…: installs what is missing, without recommendations.
install_packages() {
    local package missing=()
    for package in "$@"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    apt-get update -qq
    apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
}

# install_tree NAME: lays ami/files/NAME over /; owner root, modes from the executable bit.
install_tree() {
    local file mode
    # A pipe and not <(…): in a chroot without /proc there is no /dev/fd.
    (cd "$files/$1" && find . -type f -printf '%P\n') | while IFS= read -r file; do
        mode=0644
        [[ -x $files/$1/$file ]] && mode=0755
        [[ $file == etc/sudoers.d/* ]] && mode=0440
        install -D -o root -g root -m "$mode" "$files/$1/$file" "/$file"
    done
}

# off UNIT…: makes sure that nothing starts these units, whether they exist here or not.
off() {
    local unit
    for unit in "$@"; do ln -sfn /dev/null "/etc/systemd/system/$unit"; done
}
