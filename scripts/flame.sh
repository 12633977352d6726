#!/usr/bin/env bash
# Flame graphs of the services under rows of `make bench-system`: benches/flame/NAME.svg.
# Usage: flame.sh NAME ..., with names of `bench-system --list`; the usual ones without any.
#
# perf samples the services 199 times a second and core for eight seconds of the row's first run. The
# release build has no frame pointers, so perf keeps 16 KB of each stack and unwinds it afterwards.
# Who is not root needs, until the next boot:
#   sysctl kernel.perf_event_paranoid=1   to see the kernel's part; 2 still shows the services'
#   sysctl kernel.kptr_restrict=0         to see the kernel's names
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
tools=$target/tools
work=$target/flame
names=("$@")
[ $# -gt 0 ] || names=(single ws batch push menu-hits orders-peak)

command -v perf >/dev/null || {
    echo "perf is missing: apt-get install linux-perf (Debian), linux-tools-generic (Ubuntu)" >&2
    exit 1
}
PATH=$(mkdir -p "$tools/bin" && cd "$tools/bin" && pwd):$PATH
if ! command -v inferno-flamegraph >/dev/null; then
    echo "inferno is missing; building it into $tools (some minutes, once)" >&2
    # Unoptimised: it runs for seconds, and this takes a third of the time.
    cargo install --locked --debug --root "$tools" inferno
fi

mkdir -p "$work" benches/flame
for name in "${names[@]}"; do
    rm -f "$work"/*.perf
    # Ten thousand orders and sockets come before their load.
    case $name in push | device-socket | sockets) after=50 ;; *) after=8 ;; esac
    "$target/release/bench-system" --only "^$name\$" --perf "$work" --perf-after "$after" \
        --out "$work/$name.md" ${PROGRAMS:+--programs "$PROGRAMS"}
    perf script --no-inline -i "$work/$name-1.perf" 2>"$work/$name.log" |
        inferno-collapse-perf >"$work/$name.folded" 2>>"$work/$name.log"
    # What is narrower than some percent is not drawn, which keeps the file below 300 KB.
    for percent in 0.15 0.25 0.4 0.6; do
        inferno-flamegraph --minwidth $percent --title "$name, $(git rev-parse --short HEAD)" \
            --subtitle "$(grep -m1 -o 'devstack exec.*' "$work/$name.md")" \
            "$work/$name.folded" >"benches/flame/$name.svg" 2>>"$work/$name.log"
        [ "$(stat -c %s "benches/flame/$name.svg")" -gt 300000 ] || break
    done
    echo "benches/flame/$name.svg: $(($(stat -c %s "benches/flame/$name.svg") / 1024)) KB"
done
