#!/usr/bin/env bash
# Checks without a container engine what `docker compose up --build` needs: what .dockerignore admits
# is enough to build the binaries of the images, docker-compose.yml fits its schema, and every
# binary, file, setting and name that it and the Dockerfile use exists. Usage: images.sh TOOLS
set -euo pipefail
cd "$(dirname "$0")/.."

tools=$1
target=$(mkdir -p "${CARGO_TARGET_DIR:-target}" && cd "${CARGO_TARGET_DIR:-target}" && pwd)
for script in scripts/*.sh deploy/*.sh; do
    bash -n "$script"
done

# In a folder that stays, so that only what has changed is built again. The packages and profile are
# those of scripts/sqlx.sh: what they depend on is built already, and only they are built twice.
context=$target/image-context
scripts/context.sh "$context"
(cd "$context" && CARGO_TARGET_DIR=$target cargo build --workspace --locked \
    --bin logistics --bin menu-api --bin order-api --bin payment-sim --bin devstack)

python=$tools/images/bin/python
if ! cmp -s scripts/images.txt "$tools/images/installed.txt"; then
    rm -rf "$tools/images"
    python3 -m venv "$tools/images" || {
        echo "images.sh: python3 with its module venv is needed (Debian: apt-get install python3-venv)" >&2
        exit 1
    }
    "$python" -m pip install --quiet --disable-pip-version-check --requirement scripts/images.txt
    cp scripts/images.txt "$tools/images/installed.txt"
fi
"$tools/images/bin/check-jsonschema" --quiet --builtin-schema vendor.compose-spec docker-compose.yml
exec "$python" scripts/images.py "$target/debug"
