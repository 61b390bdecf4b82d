#!/usr/bin/env bash
# Type-checks each optional part: `s3`, a cargo feature, and `mistralrs`, a
# workspace of its own. Without an argument the first, and the second where
# `make test-mistralrs` has built its dependencies, which takes a quarter of an hour.
. "$(dirname "$0")/common.sh"
cd "$ROOT"

s3() {
  cargo clippy --locked --release -p adapter-store --features s3 --all-targets -- -D warnings
  touch "$CACHE/features-warm"
}

mistralrs() {
  cargo clippy --locked --release --manifest-path mistralrs/Cargo.toml --workspace --all-targets -- -D warnings
  touch "$CARGO_TARGET_DIR/mistralrs-warm"
}

case ${1:-} in
  s3 | mistralrs) "$1" ;;
  "")
    s3
    [ ! -f "$CARGO_TARGET_DIR/mistralrs-warm" ] || mistralrs
    ;;
  *) fail "there is no optional part $1: s3, mistralrs" ;;
esac
