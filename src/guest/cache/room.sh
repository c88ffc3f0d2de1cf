# shellcheck shell=sh
# Room on the disk: what was not used for longest goes first. A part of the script that begins with engine.sh.
# shellcheck disable=SC2154,SC2034 # set and read in the other parts

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
    if [ "$used" -gt "$goal" ]; then
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
