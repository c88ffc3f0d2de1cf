# shellcheck shell=bash
# What the four scripts share: where the service is, and one call to it. Source it.
#
# Reads: /etc/vm-service/gitlab (or the file that VM_SERVICE_GITLAB names) with VM_SERVICE_URL and VM_SERVICE_TOKEN_FILE; the job's folder
# VM_SERVICE_JOB, which `config` makes and hands to the others: `task` (its id), `ssh` (user, address, port), `key`, `known_hosts`,
# `answer` (the last one).

# shellcheck source=/dev/null
source "${VM_SERVICE_GITLAB:-/etc/vm-service/gitlab}"
: "${VM_SERVICE_URL:?set it in /etc/vm-service/gitlab}" "${VM_SERVICE_TOKEN_FILE:?set it in /etc/vm-service/gitlab}"

# failed SENTENCE: ends as a failure of the runner's system; GitLab may try the job again.
failed() {
    echo "vm-service: $1" >&2
    exit "${SYSTEM_FAILURE_EXIT_CODE:-2}"
}

# call METHOD PATH [BODY]: prints the answer; fails with the service's own sentence on standard error. The token is on no command line.
call() {
    local answer=$VM_SERVICE_JOB/answer status
    status=$(curl --silent --show-error --max-time 90 --retry 5 --retry-connrefused --retry-max-time 120 \
        --config <(printf 'header = "Authorization: Bearer %s"\n' "$(<"$VM_SERVICE_TOKEN_FILE")") \
        --request "$1" --header 'Content-Type: application/json' ${3:+--data "$3"} \
        --output "$answer" --write-out '%{http_code}' "$VM_SERVICE_URL/api/v1/$2") || return
    if [[ $status != 2* ]]; then
        echo "vm-service: $(jq -r '.detail' "$answer" 2>/dev/null || echo "status $status")" >&2
        return 1
    fi
    cat "$answer"
}

# in_vm COMMAND…: runs it in the job's VM, whose host key is pinned.
in_vm() {
    local user address port
    read -r user address port <"$VM_SERVICE_JOB/ssh"
    ssh -i "$VM_SERVICE_JOB/key" -o UserKnownHostsFile="$VM_SERVICE_JOB/known_hosts" -o StrictHostKeyChecking=yes \
        -o IdentitiesOnly=yes -o BatchMode=yes -o ServerAliveInterval=15 -o ServerAliveCountMax=8 \
        -p "$port" "$user@$address" "$@"
}
