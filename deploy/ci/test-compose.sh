#!/usr/bin/env bash
# Builds the images, starts the stack without Grafana, tests it end to end, and takes it down.
set -euo pipefail
cd "$(dirname "$0")/../.."

started=$SECONDS
step() { echo "== $* ($((SECONDS - started)) s)"; }

step "docker"
deploy/ci/start-docker.sh # installs Docker if it is missing
deploy/ci/base-images.sh

step "build"
docker compose build --quiet

step "images"
size() { docker image inspect --format '{{.Size}}' "$1"; }
base=$(size "$(sed -n 's/^FROM //p' deploy/docker/gateway.Dockerfile)")
for service in gateway retriever generator trainer; do
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

read -r gateway_port prometheus_port < <(.venv/bin/python -c '
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(s.getsockname()[1] for s in sockets))')
export COMPOSE_PROJECT_NAME=search-agent-test COMPOSE_FILE=docker-compose.yml:deploy/ci/compose.test.yml
export GATEWAY_PUBLISH=127.0.0.1:$gateway_port PROMETHEUS_PUBLISH=127.0.0.1:$prometheus_port

finish() {
    local status=$?
    trap - EXIT
    if ((status != 0)); then
        docker compose ps || true
        docker compose logs --no-color --tail 40 || true
    fi
    step "down"
    docker compose down --volumes --remove-orphans --timeout 15
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

step "up"
timeout 300 docker compose up --detach --wait --wait-timeout 240
docker compose ps

step "test"
# First what Prometheus is to have seen; the other tests restart services.
watched=tests/compose/test_prometheus.py
SEARCH_AGENT_URL=http://$GATEWAY_PUBLISH timeout 1200 .venv/bin/python -m pytest tests/e2e/test_rest.py $watched
timeout 600 .venv/bin/python -m pytest tests/compose --ignore $watched
