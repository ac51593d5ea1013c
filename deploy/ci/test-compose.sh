#!/usr/bin/env bash
# Builds the images, starts the stack without Grafana, tests it end to end, and takes it down.
set -euo pipefail
cd "$(dirname "$0")/../.."

started=$SECONDS
step() { echo "== $* ($((SECONDS - started)) s)"; }

python=python3
[[ -x .venv/bin/python ]] && python=.venv/bin/python

step "docker"
deploy/ci/start-docker.sh # installs Docker if it is missing
compose=(docker-compose)
command -v docker-compose >/dev/null || compose=(docker compose)
docker buildx version >/dev/null 2>&1 || export DOCKER_BUILDKIT=0 # Debian has no buildx
deploy/ci/base-images.sh

step "build"
"${compose[@]}" build
for layout in deploy/gpu-*.env; do # their images are too large to build here
    "${compose[@]}" --env-file "$layout" -f docker-compose.yml -f deploy/compose.gpu.yml --profile train config >/dev/null
done

step "images"
size() { docker image inspect --format '{{.Size}}' "$1"; }
base=$(size "$(sed -n 's/^FROM //p' deploy/docker/gateway.Dockerfile)")
for service in gateway retriever searcher generator trainer; do
    image=search-agent/$service
    added=$((($(size "$image") - base) / 1000000))
    echo "$image adds $added MB to its base"
    if [[ $service == gateway && $added -gt 120 ]]; then
        echo "the gateway may add 120 MB" >&2
        exit 1
    fi
    docker run --rm --entrypoint python3 "$image" \
        -c 'import importlib.util as u, sys; sys.exit("torch is installed" if u.find_spec("torch") else 0)'
done

read -r gateway_port prometheus_port < <("$python" -c '
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(s.getsockname()[1] for s in sockets))')
export COMPOSE_PROJECT_NAME=search-agent-test
export GATEWAY_PUBLISH=127.0.0.1:$gateway_port PROMETHEUS_PUBLISH=127.0.0.1:$prometheus_port
gateway=http://127.0.0.1:$gateway_port prometheus=http://127.0.0.1:$prometheus_port

finish() {
    local status=$?
    trap - EXIT
    if ((status != 0)); then
        "${compose[@]}" ps || true
        "${compose[@]}" logs --no-color --tail 40 || true
    fi
    step "down"
    "${compose[@]}" down --volumes --remove-orphans --timeout 15
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

step "up"
mapfile -t services < <("${compose[@]}" config --services | grep -vx -e grafana -e candidate) # grafana has no stand-in, candidate is idle
timeout 300 "${compose[@]}" up -d "${services[@]}"

step "wait for $gateway/readyz"
for _ in $(seq 60); do
    ready=$(curl -fsS --max-time 5 "$gateway/readyz" 2>&1) && break
    sleep 2
done
echo "$ready"
grep -q '"cache":"ok"' <<<"$ready" # the gateway is ready without its cache too
"${compose[@]}" ps

step "test"
SEARCH_AGENT_URL=$gateway timeout 600 "$python" -m pytest tests/e2e/test_rest.py

step "Prometheus"
timeout 120 "$python" deploy/ci/check_prometheus.py "$prometheus"
