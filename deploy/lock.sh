#!/usr/bin/env bash
# Compiles requirements/*.txt from pyproject.toml. Versions already locked stay; --upgrade, or
# --upgrade-package NAME, moves them. Install a lock with `pip install --no-deps -r`: it is complete.
set -euo pipefail
cd "$(dirname "$0")/.."

uv=uv
[[ -x .venv/bin/uv ]] && uv=.venv/bin/uv

platform=--universal
lock() {
    local name=$1
    shift
    # No package may need a compiler. No header, so that a lock changes only when a version does.
    "$uv" pip compile pyproject.toml --quiet "$platform" --python-version 3.11 --only-binary :all: \
        --generate-hashes --no-header -o "requirements/$name.txt" "$@"
}

lock dev --extra dev --group weights "$@"
# The images get the versions that the tests run with.
lock local --extra local --group weights --constraint requirements/dev.txt "$@"
lock generator --extra generator --group weights --constraint requirements/dev.txt "$@"
lock retriever --extra retriever --constraint requirements/dev.txt "$@"
lock retriever-lucene --extra retriever --group lucene --constraint requirements/dev.txt "$@"
lock gateway --extra gateway --constraint requirements/dev.txt "$@"
lock trainer --extra trainer --group weights --constraint requirements/dev.txt "$@"
# The GPU images: Debian 12 only, and without the constraint, because vllm and faiss-gpu have their own pins.
platform=--python-platform=x86_64-manylinux_2_36
lock retriever-gpu --extra retriever-gpu "$@"
lock generator-gpu --extra generator-gpu --group weights "$@"
# hydra needs antlr4's runtime, which has no wheel; its source is Python and needs no compiler.
lock trainer-gpu --extra trainer-gpu --group weights --no-binary antlr4-python3-runtime "$@"
