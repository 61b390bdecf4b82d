#!/usr/bin/env bash
# Checks each optional cargo feature, and tests those that need no other machine.
# CUDA is `make check-cuda`.
. "$(dirname "$0")/common.sh"
cd "$ROOT"
cargo clippy --locked --release -p adapter-store --features s3 --all-targets -- -D warnings
# what runs on GPUs, on the CPU
cargo clippy --locked --release -p engine -p gateway --features engine/candle,gateway/candle --all-targets -- -D warnings
cargo test --locked --release -p engine --features candle candle
touch "$CACHE/features-warm"
