#!/usr/bin/env bash
# Checks the OpenAPI documents against the running services: `make api-check`. Other arguments go to
# scripts/api-check/main.py, such as `--max-examples 200 --seed 7` for an hour, `--service`, `--role`.
#   scripts/api-check.sh DEVSTACK DIRECTORY [ARGUMENTS]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)/api-check
devstack=$(realpath "$1") directory=$(mkdir -p "$2" && realpath "$2")
shift 2

venv=$directory/venv
if ! cmp -s "$here/requirements.txt" "$venv/requirements.txt"; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/requirements.txt"
    cp "$here/requirements.txt" "$venv/requirements.txt"
fi
rm -rf "$directory/out"
API_CHECK_DEVSTACK=$devstack API_CHECK_OUT=$directory/out \
    "$devstack" exec --services -- "$venv/bin/python" "$here/main.py" "$@"
