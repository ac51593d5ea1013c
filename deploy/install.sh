#!/bin/sh
# Creates .venv and installs a lock of requirements/ and the project: deploy/install.sh local|dev
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
fail() { echo "error: $*" >&2; exit 1; }

command -v "$python" >/dev/null || fail "$python is not installed (Debian: apt-get install python3)"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$($python --version) is too old, 3.11 is needed"
if [ ! -x .venv/bin/pip ]; then
    "$python" -m venv .venv >/dev/null || { rm -rf .venv; fail "no virtual environment (Debian: apt-get install python3-venv)"; }
fi
echo "installing requirements/$1.txt into .venv"
# --no-deps: the lock is complete
.venv/bin/pip install --quiet --disable-pip-version-check --no-deps -r "requirements/$1.txt" ||
    fail "the download or installation failed; see above, and run the command again to go on"
.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
