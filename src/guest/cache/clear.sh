# shellcheck shell=sh
# What an earlier job left on the disk, besides images and build cache, and whether the store is whole. A part of the script that begins
# with engine.sh.
# shellcheck disable=SC2154,SC2034 # set and read in the other parts

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
