#!/usr/bin/env bash
# Compiles requirements/*.txt from pyproject.toml. Versions already locked stay; --upgrade, or
# --upgrade-package NAME, moves them. Install a lock with `pip install --no-deps -r`: it is complete.
set -euo pipefail
cd "$(dirname "$0")/.."

uv=uv
[[ -x .venv/bin/uv ]] && uv=.venv/bin/uv

lock() {
    local name=$1
    shift
    # No package of ours may need a compiler; and no header, so that a lock changes only when a version does.
    "$uv" pip compile pyproject.toml --quiet --universal --python-version 3.11 --only-binary :all: \
        --generate-hashes --no-header --extra "${name%%-*}" -o "requirements/$name.txt" "$@"
}

lock dev --group weights "$@"
# The images get the versions that the tests ran with.
lock local --group weights --constraint requirements/dev.txt "$@"
lock generator --group weights --constraint requirements/dev.txt "$@"
lock retriever --constraint requirements/dev.txt "$@"
lock retriever-lucene --group lucene --constraint requirements/dev.txt "$@"
lock gateway --constraint requirements/dev.txt "$@"
lock trainer --group weights --constraint requirements/dev.txt "$@"
