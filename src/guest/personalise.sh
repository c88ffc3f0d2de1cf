# shellcheck shell=sh
# Gives this VM its identity and personality. Runs as root in one `sh -s`; any POSIX shell. bundle.rs sends assignments of
# every variable that is read and not set here (an empty one: leave that out), then this text, then the call of `personalise`:
# nothing is done before everything has arrived. Idempotent; goes on to its end when the connection is lost.
# On an emulated CPU each process costs 10 ms or more: what a shell can do is done by the shell.
# shellcheck disable=SC2154 # see above

set -eu
umask 077

fail() {
    echo "personalise: $*" >&2
    exit 1
}

# put FILE TEXT: replaces a file that nobody reads at the same time.
put() {
    printf '%s\n' "$2" >"$1"
}

set_clock() {
    # shellcheck disable=SC3028 # where a shell has it, it saves a process
    apart=$((now - ${EPOCHSECONDS:-$(date +%s)}))
    if [ "$apart" -gt 2 ] || [ "$apart" -lt -2 ]; then date -s "@$now" >/dev/null; fi
}

# Without the image's own watcher: a timer on the calendar, which outlives a restart of the VM.
end_by_timer() {
    put /etc/systemd/system/vm-service-end.service "[Service]
Type=oneshot
ExecStart=/bin/systemctl poweroff"
    put /etc/systemd/system/vm-service-end.timer "[Timer]
OnCalendar=@$end
Persistent=true
AccuracySec=1s
[Install]
WantedBy=timers.target"
    systemctl daemon-reload
    systemctl enable --quiet vm-service-end.timer
    systemctl restart vm-service-end.timer
    shutdown -c 2>/dev/null || true
}

set_end() {
    if [ -x /usr/local/lib/vm-service/end-at ]; then
        /usr/local/lib/vm-service/end-at "$end"
    else
        end_by_timer
    fi
}

# sshd never reads half a key: it is renamed into place, or sshd is held back (see `let_sshd_go`).
set_host_key() {
    key=/etc/ssh/ssh_host_ed25519_key
    umask 022
    put "$key.pub" "$host_public"
    umask 077
    if [ "${sshd_waits:-}" ]; then
        put "$key" "$host_private"
        return
    fi
    put "$key.new" "$host_private"
    mv -f "$key.new" "$key"
    # Open sessions have processes of their own; only the listener starts anew.
    pid='' comm=''
    if { read -r pid </run/sshd.pid && read -r comm <"/proc/$pid/comm"; } 2>/dev/null && [ "$comm" = sshd ]; then
        kill -HUP "$pid"
    else
        systemctl try-reload-or-restart ssh.service 2>/dev/null || systemctl try-reload-or-restart sshd.service ||
            fail "sshd does not take the new host key"
    fi
}

set_login() {
    home=~circleci
    keys=$home/.ssh/authorized_keys
    if [ -f "$keys" ]; then
        put "$keys" "$login_public"
    else
        mkdir -p "$home/.ssh"
        put "$keys" "$login_public"
        chown -R circleci: "$home/.ssh"
    fi
    # cloud-init puts its login keys here too.
    if [ -s /root/.ssh/authorized_keys ]; then : >/root/.ssh/authorized_keys; fi
}

# In a machine that waited for its identity sshd is up, but for its key: it goes on when descriptor 9 is closed (ami/onhost/wait).
let_sshd_go() {
    if [ "${sshd_waits:-}" ]; then exec 9>&-; fi
}

set_docker_tls() {
    [ -e /etc/systemd/system/vm-service-docker-tls.service ] || fail "this image has no vm-service-docker-tls.service"
    [ -d /etc/vm-service/docker-tls ] || (umask 022 && mkdir -p /etc/vm-service/docker-tls)
    put /etc/vm-service/docker-tls/key.pem "$docker_key"
    put /etc/vm-service/docker-tls/cert.pem "$docker_cert"
    put /etc/vm-service/docker-tls/ca.pem "$docker_ca"
    # Whoever sent this asks the engine itself whether it answers.
    systemctl restart --no-block vm-service-docker-tls.service
}

# Lines of /etc/environment that are not ours stay.
set_proxies() {
    umask 022
    kept=
    if [ -e /etc/environment ]; then
        while IFS= read -r line || [ -n "$line" ]; do
            case $line in
                http_proxy=* | https_proxy=* | no_proxy=* | HTTP_PROXY=* | HTTPS_PROXY=* | NO_PROXY=*) ;;
                *) kept="$kept$line
" ;;
            esac
        done </etc/environment
    fi
    put /etc/environment "$kept$environment"
    if [ -d /etc/apt/apt.conf.d ]; then put /etc/apt/apt.conf.d/95vm-service-proxy "$apt_conf"; fi
    mkdir -p /etc/systemd/system/docker.service.d ~circleci/.docker
    put /etc/systemd/system/docker.service.d/vm-service-proxy.conf "$docker_unit"
    put ~circleci/.docker/config.json "$docker_client"
    chown -R circleci: ~circleci/.docker
    umask 077
    systemctl daemon-reload
}

# trust FILE NAME: what update-ca-certificates does for one more certificate, without its minute for all the others on an
# emulated CPU: the bundle that most programs read, and the folder where OpenSSL looks up a hash.
trust() {
    hash=$(openssl x509 -subject_hash -noout -in "$1") || fail "this root certificate cannot be read: $1"
    n=0
    while [ -e "/etc/ssl/certs/$hash.$n" ]; do n=$((n + 1)); done
    cat "$1" >>/etc/ssl/certs/ca-certificates.crt
    ln -s "$1" "/etc/ssl/certs/$2.pem"
    ln -s "$2.pem" "/etc/ssl/certs/$hash.$n"
}

# set_root_certificates PEM…
set_root_certificates() {
    umask 022
    anchors=/usr/local/share/ca-certificates
    how=trust
    if [ ! -d "$anchors" ]; then
        anchors=/etc/pki/ca-trust/source/anchors
        how=update-ca-trust
    elif [ -e "$anchors/vm-service-1.crt" ] || ! command -v openssl >/dev/null || [ -e /etc/ca-certificates/update.d/jks-keystore ]; then
        how=update-ca-certificates
    fi
    i=0
    for pem in "$@"; do
        i=$((i + 1))
        put "$anchors/vm-service-$i.crt" "$pem"
        if [ "$how" = trust ]; then trust "$anchors/vm-service-$i.crt" "vm-service-$i"; fi
    done
    if [ "$how" != trust ]; then "$how" >/dev/null 2>&1 || fail "$how failed"; fi
    umask 077
}

# say_engine: `engine ARCHITECTURE STORE MAJOR`, as the image's build wrote it down; another image's engine is asked.
say_engine() {
    line=
    { read -r line </etc/vm-service/engine; } 2>/dev/null || :
    if [ -z "$line" ] && command -v dockerd >/dev/null; then
        major=$(dockerd --version 2>/dev/null) || return 0
        major=${major#Docker version }
        major=${major%%.*}
        json=
        if [ -r /etc/docker/daemon.json ]; then
            while read -r part || [ -n "$part" ]; do json="$json$part"; done </etc/docker/daemon.json
        fi
        store=classic
        # The engine's own default since 29.
        case $major in *[!0-9]*) ;; *) if [ "${major:-0}" -ge 29 ]; then store=containerd; fi ;; esac
        case $json in *'"containerd-snapshotter"'*)
            json=${json#*'"containerd-snapshotter"'}
            case ${json%%[,\}]*} in *true*) store=containerd ;; *) store=classic ;; esac
            ;;
        esac
        line="$(uname -m) $store $major"
    fi
    if [ -n "$line" ]; then echo "engine $line"; fi
}

# personalise [ROOT CERTIFICATE]…
personalise() {
    trap '' HUP PIPE
    set_host_key
    set_login
    let_sshd_go
    set_clock
    set_end &
    ending=$!
    if [ -n "$environment" ]; then set_proxies; fi
    if [ $# -gt 0 ]; then set_root_certificates "$@"; fi
    if [ -n "$docker_key" ]; then set_docker_tls; fi
    wait "$ending" || fail "the end of this VM cannot be set"
    # It reads its environment when it starts; root certificates only at its first connection, which a job makes.
    if [ -n "$environment" ] && command -v dockerd >/dev/null; then
        systemctl restart docker.service || fail "the engine does not start with these proxies"
    fi
    say_engine
}
