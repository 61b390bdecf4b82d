#!/usr/bin/env bash
# Installs the system packages that building and testing need. With the
# argument `build`, only those for building; with `test`, those for the tests
# too (a real redis-server, strace for the durability proof).
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
fi
[ ${#missing[@]} = 0 ] && exit 0

command -v apt-get >/dev/null || fail "please install: ${missing[*]} (only apt-get is known to this script)"
say "Installing system packages: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
as_root apt-get update -qq
# The package's own service would listen on the default port; the tests start
# servers of their own.
as_root env RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
