# shellcheck shell=sh
# The cache disk: found by its serial, checked, mounted, and taken off whoever holds it. A part of the script that begins with engine.sh.
# shellcheck disable=SC2154,SC2034 # set and read in the other parts

# find_disk: sets `disk`, the kernel's name of the disk that has this serial, and `number`.
find_disk() {
    for file in /sys/block/*/serial /sys/block/nvme*/device/serial; do
        [ -r "$file" ] || continue
        got=
        # Virtio's ends without a line end, NVMe's with spaces.
        { read -r got <"$file" || :; } 2>/dev/null
        [ "$got" = "$serial" ] || continue
        disk=${file#/sys/block/}
        disk=${disk%%/*}
        { read -r number <"/sys/block/$disk/dev" && [ -b "/dev/$disk" ]; } 2>/dev/null && return 0
    done
    disk='' number=none
    return 1
}

await_disk() {
    up
    patience=$((up + 30))
    until find_disk; do
        if late || [ "$up" -ge "$patience" ]; then return 1; fi
        sleep 0.1
    done
}

# mount_points: sets `points`: where the disk is mounted, or something below the cache's and the engine's folders; newest first.
mount_points() {
    points=
    while read -r _ _ of _ at _; do
        case $at in
            "$cache" | "$cache"/* | /var/lib/docker/* | /var/lib/containerd/*) ;;
            *) [ "$of" = "$number" ] || continue ;;
        esac
        points="$at$newline$points"
    done </proc/self/mountinfo
}

# kill_holders: processes of containers, and those that have files of the disk open.
kill_holders() {
    systemctl kill --signal=KILL 'docker-*.scope' >/dev/null 2>&1 || :
    for file in /proc/[0-9]*/comm; do
        comm=
        { read -r comm <"$file" || continue; } 2>/dev/null
        file=${file#/proc/}
        case $comm in containerd-shim*) kill -KILL "${file%%/*}" 2>/dev/null || : ;; esac
    done
    left 20
    timeout "$left" find /proc/[0-9]*/fd /proc/[0-9]*/cwd /proc/[0-9]*/root /proc/[0-9]*/exe \
        \( -lname "$cache" -o -lname "$cache/*" -o -lname '/var/lib/docker/*' -o -lname '/var/lib/docker' \
        -o -lname '/var/lib/containerd/*' \) -print 2>/dev/null | kill_paths
    # Once it is unmounted here it is unmounted in the name spaces of services too: what still has it is what a job left.
    mount_points
    if [ -z "$points" ]; then
        grep -lsE " $number |/var/lib/docker/|/var/lib/containerd/|$cache/" /proc/[0-9]*/mountinfo | kill_paths || :
    fi
}

# kill_paths: paths below /proc come on standard input.
kill_paths() {
    while IFS=/ read -r _ _ pid _; do
        case $pid in 1 | "$$") ;; *) kill -KILL "$pid" 2>/dev/null || : ;; esac
    done
}

# take_off: unmounts the disk everywhere; the kernel's own record says whether anybody still has it.
take_off() {
    tries=0
    while :; do
        mount_points
        set -f
        IFS=$newline
        for point in $points; do timeout 30 umount -- "$(printf '%b' "$point")" 2>/dev/null 9>&- || :; done
        unset IFS
        set +f
        mount_points
        if [ -z "$points" ] && { [ -z "$disk" ] || [ ! -e "/sys/fs/ext4/$disk" ]; }; then return 0; fi
        tries=$((tries + 1))
        if [ "$tries" -gt 3 ] && late; then return 1; fi
        kill_holders
        sleep 0.2
    done
}

# go_back: the engine works on its own disk again, or this VM is of no use.
go_back() {
    within "$reserve"
    rm -f "$state/ready"
    wait
    mount_points
    if [ -n "$points" ]; then
        stop_engine
        take_off || fail "the cache disk cannot be taken off"
    fi
    start_engine || fail "the engine does not start on its own disk: $(last_words)"
}

last_words() {
    journalctl --no-pager -q -u docker.service -n 5 -o cat 2>/dev/null | tr '\n' ' '
}

# refuse TROUBLE SENTENCE: ends the mounting.
refuse() {
    go_back
    printf 'refused %s\n' "$*"
    exit 0
}

# room: sets `size`, `used` (bytes) and `full` (percent).
room() {
    # shellcheck disable=SC2046 # three numbers
    set -- $(stat -f -c '%S %b %f' "$cache")
    size=$(($1 * $2))
    used=$(($1 * ($2 - $3)))
    full=100
    if [ "$size" -gt 0 ]; then full=$((used * 100 / size)); fi
}

# check: the file system is as it was left. A journal that has to be replayed is no damage; anything that is repaired is.
check() {
    left 600
    code=0
    heard=$(timeout "$left" e2fsck -p "/dev/$disk" 2>&1 9>&-) || code=$?
    case $code in
        0 | 1) ;;
        124) refuse damaged "The check of the file system did not end within $left s." ;;
        *) refuse damaged "The file system is damaged: $(complaint)" ;;
    esac
    while IFS= read -r line; do
        case $line in
            '' | *': recovering journal' | *': clean, '* | *'learing orphaned inode'* | *'rphan file'*) ;;
            *) refuse damaged "The file system had to be repaired: $line" ;;
        esac
    done <<END
$heard
END
    if [ "$content" != unchecked ]; then return 0; fi
    left 600
    code=0
    heard=$(timeout "$left" e2fsck -f -n "/dev/$disk" 2>&1 9>&-) || code=$?
    case $code in
        0) ;;
        124) refuse damaged "The check of the file system did not end within $left s." ;;
        *) refuse damaged "The file system is damaged: $(complaint)" ;;
    esac
}

# complaint: the first line of `heard` that is not of course.
complaint() {
    while IFS= read -r line; do
        case $line in
            '' | 'e2fsck '* | 'Pass '* | *': recovering journal' | *'check forced'*) ;;
            *) printf '%s' "$line" && return 0 ;;
        esac
    done <<END
$heard
END
    printf 'e2fsck says %s' "$code"
}

# mount_disk: formats it where there is nothing, else checks it; mounts it.
mount_disk() {
    command -v mkfs.ext4 >/dev/null || refuse not_there "This machine has no e2fsprogs."
    left 30
    found=$(timeout "$left" blkid -p -o export "/dev/$disk" 2>/dev/null 9>&-) || found=
    case $newline$found$newline in
        *"${newline}TYPE=ext4$newline"*) kind=other ;;
        *) kind=none ;;
    esac
    case $newline$found$newline in *"${newline}LABEL=$label$newline"*) if [ "$kind" = other ]; then kind=ours; fi ;; esac
    case $content/$kind in
        nothing/ours | good/ours | good/other | unchecked/ours | unchecked/other) check ;;
        nothing/*)
            left 120
            heard=$(timeout "$left" mkfs.ext4 -q -F -L "$label" -m 0 -i 8192 -O "$features" \
                -E lazy_itable_init=1,lazy_journal_init=1,nodiscard "/dev/$disk" 2>&1 </dev/null 9>&-) ||
                refuse damaged "The disk cannot be formatted: $heard"
            kind=new
            ;;
        *) refuse damaged "No file system is on the disk." ;;
    esac
    mkdir -p "$cache"
    # noinit_itable: zeroing what was never used would only make the disk and each of its copies bigger.
    heard=$(mount -t ext4 -o noatime,noinit_itable,errors=remount-ro "/dev/$disk" "$cache" 2>&1 9>&-) ||
        refuse damaged "The disk cannot be mounted: $heard"
    if [ "$kind" != new ]; then
        left 60
        timeout "$left" resize2fs "/dev/$disk" >/dev/null 2>&1 9>&- || say "note The file system could not be grown to the disk's size."
    fi
}

# marker: the disk was written by this engine. One that was never used says nothing yet.
marker() {
    mark="1 $architecture $store $major"
    for file in "$cache/.vm-service" "$data" "$cache/containerd"; do
        if [ -L "$file" ]; then refuse damaged "${file##*/} on the disk is a link."; fi
    done
    if [ -f "$cache/.vm-service" ]; then
        got=
        read -r got <"$cache/.vm-service" || :
        if [ "$got" != "$mark" ]; then refuse wrong_engine "The disk was written by \"$got\", and the engine here is \"$mark\"."; fi
    elif [ -e "$cache/.vm-service" ] || [ -e "$data" ] || [ -e "$cache/containerd" ]; then
        refuse damaged "The disk does not say which engine wrote it."
    else
        printf '%s\n' "$mark" >"$cache/.vm-service"
    fi
    set -- "$data"
    if [ "$store" = containerd ]; then set -- "$@" "$cache/containerd"; fi
    for folder in "$@"; do
        [ -d "$folder" ] || mkdir -m 0711 "$folder" 2>/dev/null || refuse damaged "The disk cannot be written."
    done
}
