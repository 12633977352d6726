#!/usr/bin/env bash
# Makes the secrets of docker-compose.yml, each in a file of its own, where there is none:
# secrets.sh [FOLDER]. What is there stays; to change a secret see "Rotation" in docs/OPERATIONS.md.
set -euo pipefail
cd "$(dirname "$0")/.."

dir=${1:-secrets}
# Nobody else on this host gets past the folder; in a container the files are seen by those that
# the compose file names, who run as another user.
mkdir -p "$dir"
chmod 0700 "$dir"
write() { # NAME, VALUE
    if [ ! -s "$dir/$1" ]; then
        (umask 0333 && printf '%s\n' "$2" >"$dir/$1")
        echo "secrets.sh: made $dir/$1" >&2
    fi
}
random() { od -An -vtx1 -N24 /dev/urandom | tr -d ' \n'; }
read_back() { cat "$dir/$1"; }

write postgres_password "$(random)"
for service in logistics menu orders; do
    write "${service}_database_password" "$(random)"
    write "${service}_database_url" \
        "postgres://$service:$(read_back "${service}_database_password")@postgres:5432/$service"
done
write redis_password "$(random)"
for redis in queue live cache; do
    write "redis_${redis}_url" "redis://:$(read_back redis_password)@redis-$redis:6379"
done
# With Stripe: its secret key. The double that comes along takes any word.
write payment_gateway_key "$(random)"
