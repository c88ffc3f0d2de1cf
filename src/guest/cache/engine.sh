# shellcheck shell=sh
# Moves this VM's Docker engine onto a cache disk, and takes the disk off again. Runs as root in one `sh -s`; any POSIX shell, with
# util-linux, e2fsprogs, coreutils, findutils and systemd. linux_cache.rs sends assignments of the variables that are read and not set
# here, then this text, then one call (`mount_cache`, `look` or `unmount_cache`): nothing is done before everything has arrived.
# What is on the disk was written by a job, which had root: nothing there is followed out of it, run, or believed. Goes on to its end
# when the connection is lost; the next call waits for it, and begins where it left off.
# On an emulated CPU each process costs 10 ms or more: what a shell can do is done by the shell.
# shellcheck disable=SC2154,SC2034 # see above; read in the other parts

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
