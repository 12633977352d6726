#!/usr/bin/env bash
# Writes .sqlx, what the compiler knows about our queries when it has no database; with --check only
# says whether it is up to date. Runs on private stores with this tree's migrations.
#
# The queries of all services are checked against one database that has all their tables: no two of
# them have a table of the same name but `outbox`, which is the same for all (platform/src/outbox.rs).
#
# The binaries that start the stores and make the history's tables contain queries themselves, so
# after a change that .sqlx does not know they cannot be built; those of the last build do as well.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" != inside ]; then
    target=${CARGO_TARGET_DIR:-target}
    if ! cargo build --workspace --locked --bins 2>/dev/null; then
        [ -x "$target/debug/logistics" ] && [ -x "$target/debug/devstack" ] || {
            echo "sqlx.sh: build once with the last committed queries, then change them" >&2
            exit 1
        }
        echo "sqlx.sh: the tree does not build with the query data it has; using the last build" >&2
    fi
    exec "$target/debug/devstack" exec -- "$0" inside "${1:-}" "$target/debug/logistics"
fi

# In one transaction, unless it builds an index beside everything else.
one() { grep -q '^-- no-transaction' "$1" || echo -1; }

check=$2 logistics=$3
psql "$DATABASE_URL" -q -v ON_ERROR_STOP=1 -c 'CREATE DATABASE queries'
queries=${DATABASE_URL/\/postgres/\/queries}
AUTH_ISSUER=swift-eats LOGISTICS_DATABASE_URL=$queries "$logistics" migrate
# Migrations that the last build did not have yet.
known=$(psql "$queries" -Atc 'SELECT max(version) FROM _sqlx_migrations')
for file in {logistics,menu-api,order-api}/migrations/*.sql; do
    version=$((10#$(basename "$file" | cut -d_ -f1)))
    if [[ $file != logistics/* ]] || [ "$version" -gt "$known" ]; then
        again=()
        if grep -q '^CREATE TABLE outbox' "$file"; then
            again=(-c 'DROP TABLE IF EXISTS outbox')
        fi
        PGOPTIONS='-c client_min_messages=warning' \
            psql "$queries" -q -v ON_ERROR_STOP=1 $(one "$file") "${again[@]}" -f "$file"
    fi
done
psql "$queries" -q -c 'CREATE SCHEMA orders'
for file in order-api/migrations/*.sql; do
    PGOPTIONS='-c search_path=orders,public -c client_min_messages=warning' \
        psql "$queries" -q -v ON_ERROR_STOP=1 $(one "$file") -f "$file"
done
queries="$queries&options=-c%20search_path%3Dpublic,orders"

new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT
# The compiler does not know that queries depend on a database: it looks at them again when their
# files are newer than its results.
grep -rlE --include='*.rs' 'sqlx::query(_as|_scalar)?!|query_file' \
    logistics menu-api order-api loadtest | xargs touch
touch {logistics,menu-api,order-api}/src/lib.rs
DATABASE_URL=$queries SQLX_OFFLINE=false SQLX_OFFLINE_DIR=$new \
    cargo check --workspace --locked --all-targets

if [ "$check" = --check ]; then
    diff -rq .sqlx "$new" || {
        echo "sqlx.sh: .sqlx is not up to date; run \`make sqlx\` and commit it" >&2
        exit 1
    }
else
    rm -rf .sqlx
    mkdir .sqlx
    cp "$new"/*.json .sqlx/
    chmod 644 .sqlx/*.json
    echo "sqlx.sh: $(find .sqlx -name '*.json' | wc -l) queries in .sqlx"
fi
