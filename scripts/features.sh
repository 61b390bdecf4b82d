#!/usr/bin/env bash
# Type-checks each optional part, and tests those that are cheap to test: the cargo
# features, and `mistralrs`, a workspace of its own. Without an argument the
# features, and the workspace where `make test-mistralrs` has built its
# dependencies, which takes long.
. "$(dirname "$0")/common.sh"
cd "$ROOT"

features() {
  cargo clippy --locked --release -p adapter-store --features s3 --all-targets -- -D warnings
  cargo clippy --locked --release -p hub --features hf-hub --all-targets -- -D warnings
  cargo test --locked --release -p hub --features hf-hub
  touch "$CACHE/features-warm"
}

mistralrs() {
  cargo clippy --locked --release --manifest-path mistralrs/Cargo.toml --workspace --all-targets -- -D warnings
  touch "$CARGO_TARGET_DIR/mistralrs-warm"
}

case ${1:-} in
  features | mistralrs) "$1" ;;
  "")
    features
    [ ! -f "$CARGO_TARGET_DIR/mistralrs-warm" ] || mistralrs
    ;;
  *) fail "there is no optional part $1: features, mistralrs" ;;
esac
