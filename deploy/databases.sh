#!/bin/sh
# A database and a role that owns it for each service, on the server of docker-compose.yml. Run at
# every start: passwords are those of the secrets' files, also after one has changed.
set -eu

secret() { cat "/run/secrets/$1"; }
PGPASSWORD=$(secret postgres_password)
export PGPASSWORD

for name in logistics menu orders; do
    # Standard input, as the password must be in nobody's list of processes; \getenv keeps it out of
    # the server's log too.
    OWN_PASSWORD=$(secret "${name}_database_password")
    export OWN_PASSWORD
    psql -X -q -v ON_ERROR_STOP=1 -v name="$name" -d postgres <<'SQL'
\getenv password OWN_PASSWORD
SET log_statement = 'none';
SET log_min_error_statement = 'panic';
SELECT format('CREATE ROLE %I', :'name')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'name') \gexec
ALTER ROLE :"name" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'password';
SELECT format('CREATE DATABASE %I', :'name')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \gexec
SQL
    unset OWN_PASSWORD
done

own() { # NAME, what only a superuser may make
    # Each in a session of its own: TimescaleDB may end the one that has made it.
    psql -X -q -v ON_ERROR_STOP=1 -d "$1" -c "$2"
    psql -X -q -v ON_ERROR_STOP=1 -d "$1" -c "SET swift.owner = '$1'" -f "${OWN_SQL:-/deploy/own.sql}"
}
own logistics "${LOGISTICS_EXTENSION-CREATE EXTENSION IF NOT EXISTS timescaledb}"
own menu 'CREATE EXTENSION IF NOT EXISTS pg_trgm'
own orders 'SELECT 1' >/dev/null
