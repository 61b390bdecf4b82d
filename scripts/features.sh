#!/usr/bin/env bash
# Checks each optional cargo feature, and tests those that are cheap to test.
. "$(dirname "$0")/common.sh"
cd "$ROOT"
cargo clippy --locked --release -p adapter-store --features s3 --all-targets -- -D warnings
cargo clippy --locked --release -p hub --features hf-hub --all-targets -- -D warnings
cargo test --locked --release -p hub --features hf-hub
# what runs on GPUs, on the CPU: the tests that take too long for every run
cargo clippy --locked --release -p gateway --features candle --all-targets -- -D warnings
cargo test --locked --release -p engine --test native -- --ignored candle
# its kernels take long: only where they were compiled once
if [ -f "$CACHE/cuda/warm" ]; then
  scripts/check-cuda.sh
fi
touch "$CACHE/features-warm"
