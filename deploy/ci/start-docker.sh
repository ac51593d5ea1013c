#!/usr/bin/env bash
# Makes sure that a Docker daemon answers. As root on a bare Debian machine, installs and starts one.
set -euo pipefail

log=/var/log/dockerd.log

if ! docker info >/dev/null 2>&1; then
    if ! command -v dockerd >/dev/null || ! command -v docker-compose >/dev/null; then
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq
        # With recommended packages: docker.io cannot start containers without some of them.
        apt-get install -y -qq docker.io docker-compose debootstrap iptables
    fi
    if ! docker info >/dev/null 2>&1; then # the package starts it if there is an init system
        echo "Starting dockerd (log: $log)"
        nohup dockerd >"$log" 2>&1 </dev/null &
    fi
fi

for _ in $(seq 60); do
    docker info >/dev/null 2>&1 && exit 0
    [[ -n $(jobs -r) ]] || break # it has ended
    sleep 1
done
echo "dockerd does not answer; the end of $log:" >&2
tail -n 30 "$log" >&2
exit 1
