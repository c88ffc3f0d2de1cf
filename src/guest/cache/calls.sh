# shellcheck shell=sh
# The three calls: mount_cache, look and unmount_cache. The last part of the script that begins with engine.sh.
# shellcheck disable=SC2154,SC2034 # set and read in the other parts

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
