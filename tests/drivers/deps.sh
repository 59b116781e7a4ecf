#!/usr/bin/env bash
# Installs what tests/drivers needs and what is not there yet: Debian's packages, and the drivers of Python, Node.js and Rust
# below target/drivers. `make deps` runs it; when all is there it takes less than a second.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=$(dirname "$(dirname "$here")")/target/drivers
mkdir -p "$target"

missing=()
# PACKAGE COMMAND…: the package is missing if the command fails.
need() {
    local package=$1
    shift
    "$@" >/dev/null 2>&1 </dev/null || missing+=("$package")
}
need default-jdk-headless which javac
need libpostgresql-jdbc-java test -e /usr/share/java/postgresql.jar
need php-cli which php
need php-pgsql php -r 'exit(extension_loaded("pdo_pgsql") ? 0 : 1);'
need ruby which ruby
need ruby-pg ruby -e 'require "pg"'
need libdbd-pg-perl perl -MDBD::Pg -e 1
need python3-venv python3 -c 'import ensurepip, venv'
need nodejs which node
need npm which npm
if ((${#missing[@]})); then
    echo "Installing for the driver tests: ${missing[*]}"
    as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    "${as_root[@]}" apt-get update -q
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 \
        install -qy --no-install-recommends "${missing[@]}"
fi

# DIRECTORY TEXT: whether the directory was made from this text. What was not is removed.
is_made_from() {
    [ "$(cat "$1/.made-from" 2>/dev/null)" = "$2" ] && return
    rm -rf "$1"
    false
}

python_drivers="$(python3 --version) $(sha256sum <"$here/requirements.txt")"
if ! is_made_from "$target/python" "$python_drivers"; then
    echo 'Installing the Python drivers into target/drivers/python'
    python3 -m venv "$target/python"
    "$target/python/bin/pip" install -q --disable-pip-version-check --no-input --no-deps -r "$here/requirements.txt"
    echo "$python_drivers" >"$target/python/.made-from"
fi

node_drivers="$(node --version) $(cat "$here"/{package.json,package-lock.json,.npmrc} | sha256sum)"
if ! is_made_from "$target/node" "$node_drivers"; then
    echo 'Installing the Node.js drivers into target/drivers/node'
    mkdir "$target/node"
    cp "$here"/{package.json,package-lock.json,.npmrc} "$target/node/"
    (cd "$target/node" && npm ci --silent)
    echo "$node_drivers" >"$target/node/.made-from"
fi

# A package apart from the proxy's, so that the proxy's tests do not compile it. Cargo itself sees what is made already.
cargo build --quiet --locked --manifest-path "$here/sqlx/Cargo.toml" --target-dir "$target/rust"
