#!/usr/bin/env bash
# Runs the migrations of this tree on private stores, then those of an older build, which must take
# what it does not know. The older binaries are in the folder named by the argument or by
# SWIFT_EATS_OLDER_BIN; without either the last tag is built.
set -euo pipefail
cd "$(dirname "$0")/.."
services=(logistics menu-api order-api)
target=${CARGO_TARGET_DIR:-target}

if [ "${1:-}" != inside ]; then
    older=${1:-${SWIFT_EATS_OLDER_BIN:-}}
    if [ -z "$older" ]; then
        tag=$(git describe --tags --abbrev=0 HEAD^ 2>/dev/null) || {
            echo "upgrade.sh: no tag and no older binaries: nothing to check"
            exit 0
        }
        tree=$(mktemp -d)
        trap 'git worktree remove --force "$tree"' EXIT
        git worktree add --detach "$tree" "$tag"
        (cd "$tree" && CARGO_TARGET_DIR="$tree/target" cargo build --locked "${services[@]/#/--bin=}")
        older=$tree/target/debug
    fi
    for service in "${services[@]}"; do
        [ -x "$older/$service" ] || { echo "upgrade.sh: there is no $older/$service" >&2; exit 1; }
    done
    cargo build --locked --bin=devstack "${services[@]/#/--bin=}"
    "$target/debug/devstack" exec -- "$0" inside "$(realpath "$older")"
    exit
fi

for service in "${services[@]}"; do
    for bin in "$target/debug" "$2"; do
        echo "upgrade.sh: $bin/$service migrate"
        "$bin/$service" migrate
    done
done
echo "upgrade.sh: the older build takes the schema of this one"
