# shellcheck shell=bash disable=SC2034 # what is set here is used by the scripts that source this
# What the scripts share: folders outside the clone, and lines with times. Source it; it changes into the repository.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/vm-service
# Builds share one target folder, whatever clone they are made in.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$CACHE/target}
export SQLX_OFFLINE=true
# A failed test says why in one line; a backtrace through the async runtimes hides it.
export RUST_BACKTRACE=0
export PATH=$PATH:$CACHE/bin:/usr/sbin:/sbin
# Root's home may be closed to the service's user, so what that user reads stands elsewhere.
if ((EUID == 0)); then
    IMAGES=/var/cache/vm-service/images
    STATE=/var/lib
else
    IMAGES=$CACHE/images
    STATE=${XDG_DATA_HOME:-$HOME/.local/share}
fi
export VM_SERVICE_IMAGES=$IMAGES/current
# Without the AWS crates, which take minutes to compile: all that VMs on this host need.
BUILD=(cargo build --locked --no-default-features)
BINARY=$CARGO_TARGET_DIR/debug/vm-service
TOKEN_NAME=operator.token

BEGAN=$EPOCHREALTIME
# say WORDS…: a line with the seconds since the script began.
say() { awk -v a="$BEGAN" -v b="$EPOCHREALTIME" -v t="$*" 'BEGIN { printf "[%6.1f s] %s\n", b - a, t }'; }
# phase NAME COMMAND…: says when it begins and how long it took.
phase() {
    local name=$1 from=$EPOCHREALTIME
    shift
    say "$name …"
    "$@" || { say "$name FAILED"; return 1; }
    say "$name: $(awk -v a="$from" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }') s"
}
# phase with its output in a file, shown only when it fails.
quiet_phase() {
    local name=$1 log
    shift
    log=$(mktemp)
    phase "$name" "$@" >"$log.said" 2>"$log" &
    local pid=$!
    tail --pid="$pid" -qf "$log.said" 2>/dev/null
    if ! wait "$pid"; then
        tail -n 40 "$log" >&2
        return 1
    fi
    rm -f "$log" "$log.said"
}
need_rust() {
    command -v cargo >/dev/null && return
    echo "Rust is missing: install rustup (https://rustup.rs) with Rust 1.94.1 or newer, then call again." >&2
    exit 69
}
build_image() { ami/build-onhost --output "$IMAGES"; }
# start_service DATA ARGUMENTS…: in the background; sets SERVICE (its process) and URL.
start_service() {
    local data=$1 log=$1.log
    shift
    mkdir -p "$(dirname "$data")"
    setsid "$BINARY" up --data "$data" "$@" >"$log" 2>&1 </dev/null &
    SERVICE=$!
    for _ in $(seq 600); do
        URL=$(sed -n 's/.* up api=\([^ ]*\).*/\1/p' "$log" | head -n 1)
        if [[ -n $URL ]] && curl -fsS -m 2 -o /dev/null "$URL/status" 2>/dev/null; then return; fi
        kill -0 "$SERVICE" 2>/dev/null || break
        sleep 0.1
    done
    echo "the service did not start:" >&2
    tail -n 20 "$log" >&2
    return 1
}
# Ends the service that start_service started, and waits.
stop_service() {
    kill "$SERVICE" 2>/dev/null || return 0
    wait "$SERVICE" 2>/dev/null || true
}
# is_up DATA: whether the process that `make up` noted is still the service of that folder (its number may be another's by now).
is_up() {
    [[ -e $1.pid ]] && tr '\0' ' ' <"/proc/$(<"$1.pid")/cmdline" 2>/dev/null | grep -qF -- "up --data $1 "
}
