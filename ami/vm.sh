# shellcheck shell=bash
# What is needed to boot an on-host image by hand, as the service boots it: a seed with keys of its own, and a port. Sourced.

# make_seed FOLDER NAME: FOLDER/{host,login}(.pub) and FOLDER/known_hosts, and FOLDER/seed with the user data that gives them to the VM NAME,
# which ends itself after two hours. QEMU shows that folder as the disk CIDATA (seed_drive).
make_seed() {
    local folder=$1 name=$2 key
    mkdir -p "$folder/seed"
    for key in host login; do ssh-keygen -q -t ed25519 -N '' -C '' -f "$folder/$key"; done
    printf '%s %s\n' "$name" "$(<"$folder/host.pub")" >"$folder/known_hosts"
    # JSON in the form that the image's own reader knows.
    printf '#cloud-config\n{"ssh_keys": {"ed25519_private": "%s", "ed25519_public": "%s"}, "ssh_authorized_keys": ["%s"], %s}\n' \
        "$(awk '{ printf "%s\\n", $0 }' "$folder/host")" "$(<"$folder/host.pub")" "$(<"$folder/login.pub")" \
        '"bootcmd": [["/usr/local/lib/vm-service/end-after", "--unless-set", "7200"]]' >"$folder/seed/user-data"
    printf 'instance-id: %s-%s\nlocal-hostname: %s\n' "$name" "$$" "$name" >"$folder/seed/meta-data"
}
# seed_drive FOLDER: QEMU's block device `seed`, a small FAT volume.
seed_drive() { echo "driver=vvfat,node-name=seed,dir=${1//,/,,}/seed,floppy=on,label=CIDATA,read-only=on"; }
# free_port: one of the loopback that nobody listens on now.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM))
        [[ $(ss -Hltn "sport = :$port") ]] || break
    done
    echo "$port"
}
