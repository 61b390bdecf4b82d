#!/usr/bin/env bash
# Type-checks each optional cargo feature, and tests those that are cheap to test.
. "$(dirname "$0")/common.sh"
cd "$ROOT"
cargo clippy --locked --release -p adapter-store --features s3 --all-targets -- -D warnings
cargo clippy --locked --release -p hub --features hf-hub --all-targets -- -D warnings
cargo test --locked --release -p hub --features hf-hub
touch "$CACHE/features-warm"
