#!/usr/bin/env bash
# The loads of the GPS path, of the menus and of orders on private stores, one after the other;
# writes benches/RESULTS.md.
# With --soak also half an hour at 2,000/s, and ten minutes of orders instead of one. TRACE=FILE replays a recorded day of taxis, too.
# ONLY=REGEX runs those whose name it matches.
set -uo pipefail
cd "$(dirname "$0")/.."

bin=${CARGO_TARGET_DIR:-target}/release
out=benches/RESULTS.md
raw=${CARGO_TARGET_DIR:-target}/bench-system
mkdir -p "$raw"
failed=0

# Largest resident memory of the service and most sockets while the command runs.
watch_service() {
    local memory=0 sockets=0 value
    while sleep 1; do
        value=$(curl -sf "$LOGISTICS_URL/metrics") || continue
        memory=$(awk -v m="$memory" '/^process_resident_memory_bytes/ && $2 > m { m = $2 } END { print m }' <<<"$value")
        sockets=$(awk -v s="$sockets" '/^tracking_sockets/ && $2 > s { s = $2 } END { print s }' <<<"$value")
        echo "  service memory        at most $((memory / 1000000)) MB, with at most $sockets tracking sockets" >"$1"
    done
}

if [ "${1:-}" = inside ]; then
    shift
    name=$1 && shift
    # The start is over when the service has settled.
    before=$(curl -sf "$LOGISTICS_URL/metrics" | awk '/^process_resident_memory_bytes/ { print int($2 / 1000000) }')
    watch_service "$raw/$name.memory" &
    watcher=$!
    "$bin/loadtest" "$@" --summary "$raw/$name.json"
    code=$?
    kill "$watcher"
    cat "$raw/$name.memory"
    echo "  memory before         $before MB"
    exit $code
fi

# Restaurants in, so many nodes up, then the load.
if [ "${1:-}" = inside-menu ]; then
    shift
    name=$1 nodes=$2 restaurants=$3 items=$4 && shift 4
    file=$raw/restaurants-$restaurants-$items.jsonl
    [ -f "$file" ] || "$bin/menu-api" generate --restaurants "$restaurants" --items "$items" --out "$file"
    "$bin/menu-api" import "$file" || exit 1
    urls=() pids=()
    for node in $(seq "$nodes"); do
        # Where there are two cores, one node has one of them to itself.
        pin=() && [ "$nodes" = 1 ] && command -v taskset >/dev/null && pin=(taskset -c 0)
        MENU_LISTEN=127.0.0.1:$((18100 + node)) "${pin[@]}" "$bin/menu-api" serve 2>"$raw/$name-$node.log" &
        pids+=($!)
        urls+=(--url "http://127.0.0.1:$((18100 + node))")
    done
    trap 'kill "${pids[@]}"' EXIT
    for node in $(seq "$nodes"); do
        until curl -sf "http://127.0.0.1:$((18100 + node))/readyz" >/dev/null; do sleep 0.1; done
    done
    # Menus are written down and hours looked through after an import.
    until [ "$(psql "$MENU_DATABASE_URL" -Atc 'SELECT count(*) FROM restaurants
        WHERE menu_document_version IS NULL OR hours_due <= now()')" = 0 ]; do sleep 0.5; done
    export DEVSTACK_PROCESSES="service=$(IFS=,; echo "${pids[*]}");$DEVSTACK_PROCESSES"
    "$bin/loadtest" menu "${urls[@]}" --restaurants "$restaurants" "$@" --summary "$raw/$name.json"
    exit
fi

{
    echo "# Results of \`make bench-system\`"
    echo
    echo "$(date -u +%Y-%m-%d), commit $(git rev-parse --short HEAD)$(git diff --quiet HEAD || echo ' with changes'),"
    echo "$(nproc) cores ($(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1)), $(free -g | awk '/^Mem/ { print $2 }') GB,"
    echo "$(redis-server --version | sed 's/ sha.*//'), generator on the same machine."
    echo "Load average before: $(cut -d' ' -f1 /proc/loadavg)."
} >"$out"

wanted() { [[ $1 =~ ${ONLY:-.} ]]; }

run() {
    local name=$1 && shift
    wanted "$name" || return 0
    echo "== $name: loadtest $*"
    {
        echo
        echo "## $name"
        echo
        echo '```'
        echo "devstack exec --services -- loadtest $*"
    } >>"$out"
    "$bin/devstack" exec --services -- "$0" inside "$name" "$@" 2>"$raw/$name.log" | tee -a "$out"
    [ "${PIPESTATUS[0]}" = 0 ] || { failed=1; echo "  FAILED" | tee -a "$out"; }
    echo '```' >>"$out"
}

run even gps --rate 2000 --drivers 10000 --duration 120s --watchers 500 \
    --threshold 'accept_p99_ms<20' --threshold 'history_lag_p99_ms<1000' --threshold 'push_p99_ms<50'
run single gps --rate 20000 --drivers 10000 --duration 30s --warm-up 5s --threshold 'drain_s<10'
run single-at-most gps --rate 30000 --drivers 10000 --duration 30s --warm-up 5s --threshold 'drain_s<10'
run batch gps --rate 60000 --batch 100 --drivers 10000 --duration 30s --warm-up 5s --threshold 'drain_s<10'
run batch-at-most gps --rate 120000 --batch 100 --drivers 10000 --duration 30s --warm-up 5s --threshold 'drain_s<10'
run sockets gps --rate 2000 --drivers 10000 --duration 60s --watchers 10000 --slow-watchers 1% \
    --threshold 'push_p99_ms<250'

# Nodes, restaurants and items of each, then what loadtest is told.
run_menu() {
    local name=$1 && shift
    wanted "$name" || return 0
    echo "== $name: loadtest menu ${*:4}"
    {
        echo
        echo "## $name"
        echo
        echo '```'
        echo "$2 restaurants with $3 items, $1 menu-api, loadtest menu ${*:4}"
    } >>"$out"
    AUTH_ISSUER=swift-eats "$bin/devstack" exec -- "$0" inside-menu "$name" "$@" 2>"$raw/$name.log" | tee -a "$out"
    [ "${PIPESTATUS[0]}" = 0 ] || { failed=1; echo "  FAILED" | tee -a "$out"; }
    echo '```' >>"$out"
}
run_menu menu-hits 1 5000 60 --what menu --rate 10000 --duration 30s --warm-up 10s --threshold 'latency_p99_ms<5'
run_menu menu-hits-at-most 1 5000 60 --what menu --rate 40000 --duration 20s --warm-up 10s
run_menu menu-cold 1 5000 60 --what menu --cold --readers 1000 --rate 1000 --duration 20s --warm-up 5s --threshold 'latency_p99_ms<50'
run_menu menu-mixed 2 5000 60 --rate 8000 --duration 135s --warm-up 10s --writes 1% --encoding gzip
run_menu menu-lists-cold 1 50000 8 --what list --cold --rate 50 --duration 20s --warm-up 5s --threshold 'latency_p99_ms<50'
run_menu menu-lists 1 50000 8 --what list --rate 1000 --duration 30s --warm-up 20s

orders_for=60s
[ "${1:-}" = --soak ] && orders_for=600s
run orders orders --rate 100 --duration "$orders_for" --threshold 'latency_p99_ms<50' --threshold 'paid_p99_ms<2000'
run orders-peak orders --rate 1500 --duration 30s

if [ -n "${TRACE:-}" ]; then
    run replay-600x replay --trace "$TRACE" --speed 600x --batch 100
    run replay-drivers replay --trace "$TRACE" --drivers 10000 --rate 2000 --duration 60s
fi
if [ "${1:-}" = --soak ]; then
    run soak gps --rate 2000 --drivers 10000 --duration 1800s
fi
exit $failed
