#!/usr/bin/env bash
# Builds the kernels' tests for 64-bit Arm and runs them in an emulator, so that
# the NEON kernels are held against the scalar ones where no Arm machine is at hand.
# With words, only the tests that have them in their names.
. "$(dirname "$0")/common.sh"
cd "$ROOT"
target=aarch64-unknown-linux-gnu
missing=()
command -v qemu-aarch64 >/dev/null || missing+=(qemu-user)
command -v aarch64-linux-gnu-gcc >/dev/null || missing+=(gcc-aarch64-linux-gnu)
command -v aarch64-linux-gnu-g++ >/dev/null || missing+=(g++-aarch64-linux-gnu)
if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || fail "please install: ${missing[*]} (only apt-get is known to this script)"
  say "Installing system packages: ${missing[*]}"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
rustup target list --installed | grep -qx "$target" || rustup target add "$target"
say "Building and running the kernels' tests for $target, emulated"
export CARGO_TARGET_DIR=$CARGO_TARGET_DIR/arm64
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
# an emulated instruction is some tens of real ones: fewer cases say as much
export PROPTEST_CASES=${PROPTEST_CASES:-32}
cargo test --locked --release -p model --target "$target" --lib -- "${@:-kernels}"
