#!/usr/bin/env bash
# Provides the images that ours build on and run beside. Pulls them if a registry is reachable, and otherwise builds
# stand-ins with the same names from Debian's packages. Grafana has no Debian package and so no stand-in.
set -euo pipefail
cd "$(dirname "$0")/../.."

python=$(sed -n 's/^FROM //p' deploy/docker/gateway.Dockerfile)
redis=$(sed -n 's/^ *image: \(redis:.*\)/\1/p' docker-compose.yml)
prometheus=$(sed -n 's/^ *image: \(prom\/prometheus:.*\)/\1/p' docker-compose.yml)

have() {
    docker image inspect "$1" >/dev/null 2>&1 || timeout 120 docker pull --quiet "$1" 2>/dev/null ||
        { echo "$1: cannot be pulled, making a stand-in"; return 1; }
}

# Debian's Python, with this machine's own certificate authorities, so that builds reach what this machine reaches.
make_python() {
    local root
    root=$(mktemp -d)
    # shellcheck disable=SC2064 # expands now on purpose
    trap "rm -rf '$root'" EXIT
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip bookworm "$root" >"$root.log" ||
        { tail -n 20 "$root.log" >&2; exit 1; }
    rm -rf "$root.log" "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
    find /usr/local/share/ca-certificates -name '*.crt' \
        -exec cp {} "$root/usr/local/share/ca-certificates/" \; 2>/dev/null || true
    chroot "$root" update-ca-certificates >/dev/null
    printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >"$root/etc/pip.conf"
    # As in Docker's Debian images: apt leaves no caches behind in a layer.
    printf '%s\n' 'Dir::Cache::pkgcache "";' 'Dir::Cache::srcpkgcache "";' \
        'APT::Update::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb"; };' \
        'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb"; };' >"$root/etc/apt/apt.conf.d/docker-clean"
    tar -C "$root" -c . | docker import -c 'ENV LANG=C.UTF-8' -c 'CMD ["python3"]' - "$1"
}

make_redis() {
    docker build --quiet -t "$1" - <<EOF
FROM $python
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends redis-server && \
    rm -rf /var/lib/apt/lists/* && install -d -o redis /data
WORKDIR /data
CMD ["redis-server"]
EOF
}

make_prometheus() {
    docker build --quiet -t "$1" - <<EOF
FROM $python
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus && \
    rm -rf /var/lib/apt/lists/* && install -d -o nobody /prometheus
USER nobody
WORKDIR /prometheus
ENTRYPOINT ["prometheus"]
EOF
}

have "$python" || make_python "$python"
have "$redis" || make_redis "$redis"
have "$prometheus" || make_prometheus "$prometheus"
