#!/usr/bin/env bash
# Type-checks each optional cargo feature.
. "$(dirname "$0")/common.sh"
cd "$ROOT"
cargo clippy --locked --release -p adapter-store --features s3 --all-targets -- -D warnings
touch "$CACHE/features-warm"
