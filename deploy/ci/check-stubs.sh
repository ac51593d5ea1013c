#!/bin/sh
# Fails if a committed stub is not what its proto gives.
set -eu
cd "$(dirname "$0")/../.."
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
.venv/bin/python -m grpc_tools.protoc -I. --python_out="$fresh" --pyi_out="$fresh" --grpc_python_out="$fresh" contracts/v1/*.proto
for stub in "$fresh"/contracts/v1/*; do
    diff -u "contracts/v1/$(basename "$stub")" "$stub" || { echo "error: stale stub; run make protos" >&2; exit 1; }
done
