#!/bin/sh
# redis-server with the given settings and the password of the secret's file, which is in nobody's
# list of processes: it is read as configuration from standard input.
set -eu

exec docker-entrypoint.sh redis-server - "$@" <<CONFIG
requirepass $(cat /run/secrets/redis_password)
CONFIG
