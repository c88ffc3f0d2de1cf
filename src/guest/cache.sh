# shellcheck shell=sh
# Moves this VM's Docker engine onto a cache disk, and takes the disk off again. Runs as root in one `sh -s`; any POSIX shell, with
# util-linux, e2fsprogs, coreutils, findutils and systemd. linux_cache.rs sends assignments of the variables that are read and not set
# here, then this text, then one call (`mount_cache`, `look` or `unmount_cache`): nothing is done before everything has arrived.
# What is on the disk was written by a job, which had root: nothing there is followed out of it, run, or believed. Goes on to its end
# when the connection is lost; the next call waits for it, and begins where it left off.
# On an emulated CPU each process costs 10 ms or more: what a shell can do is done by the shell.
# shellcheck disable=SC2154 # see above

set -eu
umask 077
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL

cache=/var/lib/vm-service/cache
data=$cache/docker
state=/run/vm-service/cache
label=vm-service-cache
disk='' number=none said=
# Not mkfs's defaults: those of a newer distribution may be unreadable for an older one with the same engine.
features=none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum
newline='
'

fail() {
    echo "cache: $*" >&2
    exit 1
}

# say LINE: is printed at the end; a connection that is lost must not end the work.
say() {
    said="$said$*$newline"
}

up() {
    read -r up _ </proc/uptime
    up=${up%%.*}
}

# within SECONDS: what follows should have ended by then.
within() {
    up
    until=$((up + $1))
}

late() {
    up
    [ "$up" -ge "$until" ]
}

# left MOST: sets `left`, the seconds of the time that remains, from 1 to MOST.
left() {
    up
    left=$((until - up))
    if [ "$left" -gt "$1" ]; then left=$1; fi
    if [ "$left" -lt 1 ]; then left=1; fi
}

# begin: one at a time; `seconds` is the time for all of it, a quarter of which is kept for the way back.
begin() {
    trap '' HUP PIPE
    mkdir -p "$state"
    reserve=$((seconds / 4))
    if [ "$reserve" -gt 40 ]; then reserve=40; fi
    within "$((seconds - reserve))"
    exec 9>"$state/lock"
    left 3600
    flock -w "$left" 9 || fail "an earlier call has not ended"
}

# ---- the engine

# ask METHOD PATH: the engine's answer; fails when it has none or refuses.
ask() {
    left "${3:-60}"
    if command -v curl >/dev/null; then
        curl -gsf --max-time "$left" --unix-socket /run/docker.sock -X "$1" "http://docker$2" 9>&-
    else
        python3 - "$1" "$2" "$left" 9>&- <<'PY'
import http.client, socket, sys
class Engine(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(float(sys.argv[3]))
        self.sock.connect("/run/docker.sock")
engine = Engine("docker")
engine.request(sys.argv[1], sys.argv[2])
answer = engine.getresponse()
sys.stdout.buffer.write(answer.read(4 << 20))
sys.exit(answer.status >= 400)
PY
    fi
}

stop_engine() {
    set -- docker.socket docker.service
    if [ "$store" = containerd ]; then set -- "$@" containerd.service; fi
    left 90
    timeout "$left" systemctl stop "$@" >/dev/null 2>&1 9>&- || {
        systemctl kill --signal=KILL docker.service >/dev/null 2>&1 || :
        timeout 10 systemctl stop "$@" >/dev/null 2>&1 || :
    }
}

# start UNIT…: whatever was tried before.
start() {
    systemctl reset-failed docker.socket docker.service containerd.service >/dev/null 2>&1 || :
    left 120
    timeout "$left" systemctl start "$@" >/dev/null 2>&1 9>&-
}

# start_engine: and waits until it answers.
start_engine() {
    start docker.socket docker.service || return 1
    until ask GET /_ping 10 >/dev/null 2>&1; do
        # Without a program to ask with, systemd's word counts: the unit says when it is ready.
        if ! command -v curl >/dev/null && ! command -v python3 >/dev/null; then return 0; fi
        if late; then return 1; fi
        sleep 0.2
    done
}

# ---- the disk

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

# ---- what an earlier job left

# gone PATH…: never follows a link, never leaves the disk.
gone() {
    if [ $# -eq 0 ]; then return 0; fi
    left 600
    timeout "$left" rm -rf --one-file-system -- "$@" 2>/dev/null 9>&-
}

# keep FOLDER NAMES: removes all but real folders of these names (separated by spaces).
keep() {
    folder=$1 names=" $2 "
    set --
    for entry in "$folder"/* "$folder"/.[!.]* "$folder"/..?*; do
        if [ ! -e "$entry" ] && [ ! -L "$entry" ]; then continue; fi
        case ${entry##*/} in
            *' '*) ;;
            *) case $names in *" ${entry##*/} "*) if [ -d "$entry" ] && [ ! -L "$entry" ]; then continue; fi ;; esac ;;
        esac
        set -- "$@" "$entry"
    done
    gone "$@"
}

# count ONE MANY PATH…: adds the number of folders to `removed`.
count() {
    one=$1 many=$2 n=0
    shift 2
    for entry in "$@"; do if [ -d "$entry" ]; then n=$((n + 1)); fi; done
    case $n in
        0) ;;
        1) removed="$removed, 1 $one" ;;
        *) removed="$removed, $n $many" ;;
    esac
}

# an_id TEXT [SUFFIX]: 64 hexadecimal digits.
an_id() {
    [ ${#1} -eq 64 ] || return 1
    case $1 in *[!0-9a-f]*) return 1 ;; esac
}

# clear: all but images and build cache. Sets `removed`, and `containers`: their ids.
clear() {
    removed='' containers=
    for entry in "$data"/containers/*; do
        if an_id "${entry##*/}"; then containers="$containers ${entry##*/}"; fi
    done
    count container containers "$data"/containers/*
    count volume volumes "$data"/volumes/*
    count plugin plugins "$data"/plugins/????????????????????????????????????????????????????????????????
    if [ -e "$data/swarm/docker-state.json" ]; then removed="$removed, the swarm state"; fi
    if [ "$store" = containerd ]; then
        keep "$data" 'image buildkit' || return 1
        keep "$cache/containerd" \
            'io.containerd.content.v1.content io.containerd.metadata.v1.bolt io.containerd.snapshotter.v1.overlayfs' || return 1
    else
        keep "$data" 'image overlay2 buildkit' || return 1
        clear_mounts || return 1
    fi
    if [ -d "$data/buildkit/executor" ]; then keep "$data/buildkit/executor" '' || return 1; fi
}

# clear_mounts: the writable layers of containers and of builds that were broken off.
clear_mounts() {
    for folder in "$data/image" "$data/image/overlay2" "$data/image/overlay2/layerdb" "$data/image/overlay2/layerdb/mounts" \
        "$data/overlay2" "$data/overlay2/l"; do
        if [ -L "$folder" ]; then return 1; fi
    done
    set --
    for entry in "$data"/image/overlay2/layerdb/mounts/*; do
        if [ ! -e "$entry" ] && [ ! -L "$entry" ]; then continue; fi
        if late; then return 1; fi
        set -- "$@" "$entry"
        for file in "$entry/mount-id" "$entry/init-id"; do
            if [ -L "$entry" ] || [ -L "$file" ] || [ ! -f "$file" ]; then continue; fi
            id=
            read -r id <"$file" || :
            if an_id "${id%-init}"; then set -- "$@" "$data/overlay2/$id"; fi
        done
    done
    if [ $# -eq 0 ]; then return 0; fi
    gone "$@" || return 1
    set --
    for entry in "$data"/overlay2/l/*; do
        if [ -L "$entry" ] && [ ! -e "$entry" ]; then set -- "$@" "$entry"; fi
    done
    gone "$@"
}

# tell_removed: "Removed 2 containers, 1 plugin and the swarm state that an earlier job left."
tell_removed() {
    removed=${removed#, }
    case $removed in
        '') return 0 ;;
        *', '*) removed="${removed%, *} and ${removed##*, }" ;;
    esac
    say "note Removed $removed that an earlier job left."
}

# forget: what containerd itself knows of containers, in any name space; it runs, and the engine does not yet.
forget() {
    command -v ctr >/dev/null || return 0
    left 20
    spaces=$(timeout "$left" ctr namespaces ls -q 2>/dev/null 9>&-) || return 0
    for space in $spaces; do
        case $space in *[!A-Za-z0-9_.-]*) continue ;; esac
        for id in $(timeout "$left" ctr -n "$space" containers ls -q 2>/dev/null 9>&-); do
            timeout "$left" ctr -n "$space" containers rm -- "$id" >/dev/null 2>&1 9>&- || :
        done
    done
    # An engine's container is a lease and a snapshot of its id; the other one is what it began with.
    for id in $containers; do
        timeout "$left" ctr -n moby snapshots rm "$id" >/dev/null 2>&1 9>&- || :
        timeout "$left" ctr -n moby snapshots rm "$id-init" >/dev/null 2>&1 9>&- || :
        timeout "$left" ctr -n moby leases rm "$id" >/dev/null 2>&1 9>&- || :
    done
}

# whole: each layer that the engine knows is there. Sets `warm`.
whole() {
    warm=0
    if [ "$store" = containerd ]; then
        for entry in "$cache"/containerd/io.containerd.content.v1.content/blobs/sha256/*; do
            if [ -f "$entry" ]; then warm=1; fi
            break
        done
        return 0
    fi
    for entry in "$data"/overlay2/*; do
        if [ "${entry##*/}" != l ] && [ -d "$entry/diff" ]; then warm=1 && break; fi
    done
    images=$data/image/overlay2
    if [ ! -d "$images/layerdb/sha256" ]; then return 0; fi
    for entry in "$images"/layerdb/sha256/*; do
        if [ ! -e "$entry" ] && [ ! -L "$entry" ]; then continue; fi
        if late; then return 1; fi
        id='' bytes=
        for file in "$entry/cache-id" "$entry/size"; do
            if [ -L "$file" ] || [ ! -f "$file" ]; then refuse damaged "A layer has no ${file##*/}."; fi
        done
        read -r id <"$entry/cache-id" || :
        read -r bytes <"$entry/size" || :
        case $id in '' | *[!0-9a-z]*) refuse damaged "A layer has an unreadable cache-id." ;; esac
        case $bytes in '' | *[!0-9]*) refuse damaged "A layer has an unreadable size." ;; esac
        if [ ! -d "$data/overlay2/$id/diff" ]; then refuse damaged "The files of a layer are missing."; fi
    done
    file=$images/repositories.json
    if [ -L "$file" ] || [ ! -s "$file" ] || [ ! -f "$file" ]; then refuse damaged "The list of images is missing."; fi
    first=$(head -c 1 "$file") last=$(tail -c 2 "$file")
    case $first$last in '{'*'}') ;; *) refuse damaged "The list of images is unreadable." ;; esac
}

# ---- room

# delete KIND ID…: each by a call of its own; what cannot be removed stays.
delete() {
    kind=$1
    shift
    for id in "$@"; do
        if late; then return 0; fi
        ask DELETE "/$kind/$id?force=true&v=true" >/dev/null 2>&1 || :
    done
}

image_ids() {
    ask GET /images/json 2>/dev/null | grep -o '"Id":"sha256:[0-9a-f]*"' | cut -d'"' -f4 || :
}

# by_use: image ids, least recently used first; one that was never seen used is the first.
by_use() {
    here=$newline$(image_ids)$newline
    old=
    if [ -f "$cache/.vm-service-used" ] && [ ! -L "$cache/.vm-service-used" ]; then old=$(head -c 1000000 "$cache/.vm-service-used"); fi
    {
        printf '%s\n' "$old" | while read -r at id; do
            case $at in '' | *[!0-9]*) continue ;; esac
            case $here in *"$newline$id$newline"*) printf '%s %s\n' "$at" "$id" ;; esac
        done
        printf '%s' "$here" | while read -r id; do
            case $newline$old$newline in *" $id$newline"*) ;; *) if [ -n "$id" ]; then printf '0 %s\n' "$id"; fi ;; esac
        done
    } | sort -n
}

# prune PERCENT: removes what was not used for longest, build cache first, until the disk is no fuller than that.
prune() {
    room
    was=$full before=$used goal=$((size * $1 / 100)) n=0
    total=0
    for bytes in $(ask GET '/system/df?type=build-cache' 2>/dev/null | grep -o '"Shared":false,"Size":[0-9]*' | cut -d: -f3); do
        total=$((total + bytes))
    done
    if [ "$total" -gt 0 ]; then
        kept=$((total - (used - goal)))
        # Its name since API 1.48; nothing to keep is said by leaving it out.
        query="&keep-storage=$kept&reserved-space=$kept"
        if [ "$kept" -le 0 ]; then query=; fi
        ask POST "/build/prune?all=true$query" 300 >/dev/null 2>&1 || :
    fi
    settled
    if [ "$used" -gt "$goal" ]; then
        ask POST '/images/prune?filters=%7B%22dangling%22%3A%5B%22true%22%5D%7D' 300 >/dev/null 2>&1 || :
        settled
        for id in $(by_use | cut -d' ' -f2); do
            if [ "$used" -le "$goal" ] || late; then break; fi
            ask DELETE "/images/$id?force=true" >/dev/null 2>&1 || continue
            n=$((n + 1))
            settled
        done
    fi
    # What is pruned last may have been used by an image.
    if [ "$used" -gt "$goal" ] && [ "$total" -gt 0 ]; then
        ask POST '/build/prune?all=true' 300 >/dev/null 2>&1 || :
        settled
    fi
    say "note The disk was $was % full: removed $(((before - used) / 1048576)) MiB of build cache and $n images, those not used for longest."
}

# settled: the space of what was removed is free; containerd does that a little later.
settled() {
    if [ "$store" = containerd ]; then sleep 1; fi
    room
}

# ---- the calls

ready() {
    printf '%sready warm=%s used=%s size=%s\n' "$said" "$warm" "$used" "$size"
}

mount_cache() {
    begin
    if { read -r got warm <"$state/ready"; } 2>/dev/null && [ "$got" = "$serial" ] && find_disk; then
        mount_points
        case $newline$points in
            *"$newline$cache$newline"*) if ask GET /_ping 10 >/dev/null 2>&1; then room && ready && return 0; fi ;;
        esac
    fi
    rm -f "$state/ready"
    stop_engine &
    await_disk || refuse not_there "No disk with the serial $serial came."
    printf '%s\n' "$disk" >"$state/disk"
    mount_points
    if [ -n "$points" ]; then
        wait
        take_off || fail "what an earlier try mounted cannot be taken off"
    fi
    mount_disk
    marker
    clear || refuse damaged "What an earlier job left cannot be removed."
    tell_removed
    whole || refuse damaged "The check of the layers did not end in time."
    wait
    mkdir -p /var/lib/docker /var/lib/containerd
    mount --bind "$data" /var/lib/docker || refuse damaged "The disk cannot be mounted for the engine."
    if [ "$store" = containerd ]; then
        mount --bind "$cache/containerd" /var/lib/containerd || refuse damaged "The disk cannot be mounted for containerd."
        if start containerd.service; then forget; fi
    fi
    start_engine || refuse damaged "The engine does not start on the disk: $(last_words)"
    room
    if [ "$full" -gt 90 ]; then
        prune 80
        if [ "$full" -gt 95 ]; then refuse full "The disk is $full % full, and nothing can be removed."; fi
    fi
    # Layers newer than this file are the job's.
    date +%s >"$state/since"
    printf '%s %s\n' "$serial" "$warm" >"$state/ready"
    ready
}

# the_disk: finds what was mounted, whatever has become of it; fails when nothing is.
the_disk() {
    { read -r disk <"$state/disk"; } 2>/dev/null || disk=
    case $disk in '' | *[!a-z0-9]*) disk= && return 1 ;; esac
    { read -r number <"/sys/block/$disk/dev"; } 2>/dev/null || number=none
    mount_points
    [ -n "$points" ] || [ -e "/sys/fs/ext4/$disk" ]
}

# document NAME PATH BYTES: one answer of the engine, without what is more than so many bytes.
document() {
    printf '=== %s\n' "$1"
    { ask GET "$2" 2>/dev/null || :; } | head -c "$3"
    printf '\n'
}

# look: says what the job used, while the engine lives.
look() {
    begin
    the_disk || return 0
    since=
    { read -r since <"$state/since"; } 2>/dev/null || :
    case $since in '' | *[!0-9]*) since=0 ;; esac
    printf '=== since\n%s\n' "$since"
    document images /images/json 800000
    document containers '/containers/json?all=true' 800000
    document events "/events?since=$since&until=$(date +%s)&filters=%7B%22type%22%3A%5B%22image%22%2C%22container%22%5D%7D" 1500000
}

# tidy: containers with their volumes, then what can hold on to the disk or bring them back.
tidy() {
    ask POST '/swarm/leave?force=true' 20 >/dev/null 2>&1 || :
    # shellcheck disable=SC2046 # ids
    delete containers $(ask GET '/containers/json?all=true' 2>/dev/null | grep -o '"Id":"[0-9a-f]*"' | cut -d'"' -f4)
    # shellcheck disable=SC2046
    delete plugins $(ask GET /plugins 2>/dev/null | grep -o '"Id":"[0-9a-f]*"' | cut -d'"' -f4)
    # shellcheck disable=SC2046
    delete volumes $(ask GET /volumes 2>/dev/null | grep -o '"Name":"[A-Za-z0-9_.-]*"' | cut -d'"' -f4)
}

# remember: when each image was used last.
remember() {
    at=$(date +%s)
    list=$(by_use)
    gone "$cache/.vm-service-used"
    {
        printf '%s\n' "$list" | while read -r last id; do
            # One that was never seen is this job's.
            if [ "$last" = 0 ]; then last=$at; fi
            case " $used_images " in *" $id "*) ;; *) if [ -n "$id" ]; then printf '%s %s\n' "$last" "$id"; fi ;; esac
        done
        for id in $used_images; do printf '%s %s\n' "$at" "$id"; done
    } >"$cache/.vm-service-used"
}

# reached: what the manifests of the used images name, two levels deep (an index, and its manifests).
reached() {
    printf '=== reached\n'
    for image in $used_images; do
        for id in "$image" $(names "$image"); do
            printf '%s\n' "$id"
            names "$id"
        done
    done
}

# names DIGEST: the digests in a blob that is a small document.
names() {
    file=$blobs/${1#sha256:}
    if [ -L "$file" ] || [ ! -f "$file" ] || [ "$(head -c 1 "$file" | tr '\0' x)" != '{' ]; then return 0; fi
    head -c 65536 "$file" | grep -o 'sha256:[0-9a-f]*' || :
}

# layers: each one that is on the disk, its size, and whether it is newer than the mount.
layers() {
    printf '=== layers\n'
    [ -f "$state/since" ] || : >"$state/since"
    if [ "$store" = containerd ]; then
        blobs=$cache/containerd/io.containerd.content.v1.content/blobs/sha256
        find "$blobs" -maxdepth 1 -type f \
            \( -newer "$state/since" -printf 'sha256:%f %s 1\n' -o -printf 'sha256:%f %s 0\n' \) 2>/dev/null || :
        reached
        return 0
    fi
    for entry in "$data"/image/overlay2/layerdb/sha256/*; do
        file=$entry/size bytes=
        if [ -L "$file" ] || [ ! -f "$file" ]; then continue; fi
        read -r bytes <"$file" || :
        new=0
        # shellcheck disable=SC3013 # dash, bash and busybox have it
        if [ "$entry" -nt "$state/since" ]; then new=1; fi
        printf 'sha256:%s %s %s\n' "${entry##*/}" "$bytes" "$new"
    done
}

unmount_cache() {
    begin
    if ! the_disk; then
        printf 'unmounted used=0\n'
        return 0
    fi
    # A try that failed may have left it mounted for the engine only.
    case $newline$points in
        *"$newline$cache$newline"*) ;;
        *) mount -t ext4 -o noatime,noinit_itable,errors=remount-ro "/dev/$disk" "$cache" 2>/dev/null 9>&- ||
            fail "the disk is mounted no more, and something holds it" ;;
    esac
    store=classic
    if [ -d "$cache/containerd" ]; then store=containerd; fi
    if ask GET /_ping 10 >/dev/null 2>&1; then
        tidy
        remember || :
        room
        if [ "$full" -gt 80 ]; then prune 70; fi
        said=$said$(
            for id in $used_images; do document "image $id" "/images/$id/json" 200000; done
            document build '/system/df?type=build-cache' 1500000
        )$newline
    fi
    stop_engine
    clear || :
    said=$said$(layers)$newline
    # It writes everything out first.
    left 30
    timeout "$left" fstrim "$cache" >/dev/null 2>&1 9>&- || :
    room
    errors=0
    { read -r errors <"/sys/fs/ext4/$disk/errors_count"; } 2>/dev/null || :
    within "$reserve"
    take_off || fail "the disk cannot be unmounted: something in this machine holds it"
    sync
    blockdev --flushbufs "/dev/$disk" 9>&- || fail "the disk is gone"
    rm -f "$state/ready" "$state/disk" "$state/since"
    if [ "$errors" != 0 ]; then fail "the kernel found $errors errors in the file system"; fi
    printf 'unmounted used=%s\n%s' "$used" "$said"
}
