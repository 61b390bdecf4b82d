#!/usr/bin/env bash
# Checks each cargo feature, and tests those that are cheap to test. Without an
# argument all of them, and of those that take long to compile (CUDA's kernels, the
# dependencies of mistralrs) what was compiled once before.
. "$(dirname "$0")/common.sh"
cd "$ROOT"

features() {
  cargo clippy --locked --release -p adapter-store --features s3 --all-targets -- -D warnings
  cargo clippy --locked --release -p hub --features hf-hub --all-targets -- -D warnings
  cargo test --locked --release -p hub --features hf-hub
  # what runs on GPUs, on the CPU: the tests that take too long for every run
  cargo clippy --locked --release -p gateway --features candle --all-targets -- -D warnings
  cargo test --locked --release -p engine --test native -- --ignored candle
  [ ! -f "$CACHE/cuda/warm" ] || scripts/check-cuda.sh
  touch "$CACHE/features-warm"
}

mistralrs() {
  cargo clippy --locked --release -p gateway -p engine-mistralrs --features gateway/mistralrs --all-targets -- -D warnings
  touch "$CARGO_TARGET_DIR/mistralrs-warm"
}

case ${1:-} in
  features | mistralrs) "$1" ;;
  "")
    features
    [ ! -f "$CARGO_TARGET_DIR/mistralrs-warm" ] || mistralrs
    ;;
  *) fail "there is no set of features $1: features, mistralrs" ;;
esac
