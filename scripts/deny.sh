#!/usr/bin/env bash
# cargo-deny with the given arguments; built into the folder TOOLS when it is not installed.
# Usage: deny.sh TOOLS check licenses ...
set -euo pipefail

tools=$1
shift
if ! command -v cargo-deny >/dev/null 2>&1; then
    PATH=$(mkdir -p "$tools/bin" && cd "$tools/bin" && pwd):$PATH
    if ! command -v cargo-deny >/dev/null 2>&1; then
        echo "cargo-deny is missing; building it into $tools (some minutes, once)" >&2
        # Unoptimised: it runs for a second, and this takes a third of the time.
        cargo install --locked --debug --root "$tools" cargo-deny
    fi
fi
exec cargo deny --all-features --locked "$@"
