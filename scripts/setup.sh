#!/usr/bin/env bash
# Makes sure that what the build and the stores need is there. Installs Redis, PostgreSQL, Python
# and a C compiler on Debian and Ubuntu as root or with passwordless sudo; elsewhere it says what to
# install. Takes a few milliseconds when everything is there.
set -euo pipefail

has() { command -v "$1" >/dev/null 2>&1; }

# The same places that devstack looks at.
has_any() {
    local path
    for path in "$@"; do
        if [ -x "$path" ]; then return 0; fi
    done
    return 1
}
has_redis() {
    has redis-server || has valkey-server ||
        has_any /usr/{bin,sbin}/{redis,valkey}-server {/opt/homebrew,/usr/local,/home/linuxbrew/.linuxbrew}/bin/{redis,valkey}-server
}
has_venv() { python3 -c "import ensurepip, sys; sys.exit(sys.version_info < (3, 10))" 2>/dev/null; }
has_postgres() {
    has initdb ||
        has_any /usr/lib/postgresql/*/bin/initdb /usr/pgsql-*/bin/initdb {/opt/homebrew,/usr/local,/home/linuxbrew/.linuxbrew}/{bin,opt/postgresql@*/bin}/initdb
}

apt=() dnf=() brew=()
need() { # NAME, then the packages of apt, dnf, Homebrew
    echo "setup: $1 is missing" >&2
    if [ -n "$2" ]; then apt+=("$2"); fi
    if [ -n "$3" ]; then dnf+=("$3"); fi
    if [ -n "$4" ]; then brew+=("$4"); fi
}
look() {
    apt=() dnf=() brew=()
    has_redis || need "Redis 7 or newer (or Valkey)" redis-server valkey redis
    has_postgres || need "PostgreSQL 14 or newer" postgresql postgresql-server postgresql@17
    has_venv || need "Python 3.10 or newer with venv" python3-venv python3 python3
    has cc || has gcc || has clang || need "a C compiler" build-essential gcc ""
}

look
if [ ${#apt[@]} -gt 0 ]; then
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then as_root=(sudo -n); fi
    if has apt-get && { [ "$(id -u)" -eq 0 ] || { has sudo && sudo -n true 2>/dev/null; }; }; then
        echo "setup: apt-get install ${apt[*]}" >&2
        export DEBIAN_FRONTEND=noninteractive
        # An unreachable extra source must not hide packages that are known already.
        "${as_root[@]}" apt-get update -qq || echo "setup: apt-get update failed, trying without" >&2
        "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${apt[@]}" >&2
        look
    fi
    if [ ${#apt[@]} -gt 0 ]; then
        {
            echo "setup: install what is missing, then start again:"
            echo "  Debian, Ubuntu   sudo apt-get install ${apt[*]}"
            echo "  Fedora, RHEL     sudo dnf install ${dnf[*]}"
            if [ ${#brew[@]} -gt 0 ]; then echo "  Homebrew         brew install ${brew[*]}"; fi
            if [ "$(uname)" = Darwin ]; then echo "  C compiler       xcode-select --install"; fi
            echo "TimescaleDB for PostgreSQL is used when it is installed, and not needed."
        } >&2
        exit 1
    fi
fi

if ! has cargo && [ ! -x "$HOME/.cargo/bin/cargo" ]; then
    {
        echo "setup: there is no Rust toolchain. Install rustup, which then fetches the version in rust-toolchain.toml:"
        echo "  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
    } >&2
    exit 1
fi
