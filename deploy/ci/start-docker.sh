#!/usr/bin/env bash
# Makes sure that a Docker daemon answers, with Compose v2 and BuildKit. As root on a bare Debian machine, installs and
# starts them.
set -euo pipefail

log=/var/log/dockerd.log

# bookworm has neither plugin. trixie's are single binaries, which run here without the packages they depend on.
install_plugins() {
    local work
    work=$(mktemp -d)
    # shellcheck disable=SC2064 # expands now on purpose
    trap "rm -rf '$work'" RETURN
    mkdir -p "$work/lists/partial" /usr/local/lib/docker/cli-plugins
    echo 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main' \
        >"$work/trixie.list"
    local from_trixie=(-o Dir::Etc::sourcelist="$work/trixie.list" -o Dir::Etc::sourceparts=-
        -o Dir::State::lists="$work/lists" -o APT::Sandbox::User=root)
    apt-get "${from_trixie[@]}" update -qq
    (cd "$work" && apt-get "${from_trixie[@]}" download -qq docker-compose docker-buildx)
    for package in "$work"/*.deb; do dpkg-deb --extract "$package" "$work/root"; done
    cp "$work"/root/usr/libexec/docker/cli-plugins/docker-* /usr/local/lib/docker/cli-plugins/
}

if ! docker info >/dev/null 2>&1; then
    if ! command -v dockerd >/dev/null || ! command -v docker-compose >/dev/null; then
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq
        # With recommended packages: docker.io cannot start containers without some of them. docker-compose is 1.29.2.
        apt-get install -y -qq docker.io docker-compose debootstrap iptables
    fi
    if ! docker info >/dev/null 2>&1; then # the package starts it if there is an init system
        echo "Starting dockerd (log: $log)"
        nohup dockerd >"$log" 2>&1 </dev/null &
    fi
fi
docker compose version >/dev/null 2>&1 && docker buildx version >/dev/null 2>&1 || install_plugins

for _ in $(seq 60); do
    docker info >/dev/null 2>&1 && exit 0
    [[ -n $(jobs -r) ]] || break # it has ended
    sleep 1
done
echo "dockerd does not answer; the end of $log:" >&2
tail -n 30 "$log" >&2
exit 1
