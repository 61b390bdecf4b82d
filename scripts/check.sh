#!/usr/bin/env bash
# Everything that CI runs: format, lints, documentation, deployment files, tests.
. "$(dirname "$0")/common.sh"
cd "$ROOT"
started=$SECONDS
step() { say "[$((SECONDS - started)) s] $*"; }

step "Format"
cargo fmt --all --check
step "Build (the first time takes some ten minutes on two cores)"
cargo test --locked --release --workspace --no-run
step "Lints"
cargo clippy --locked --release --workspace --all-targets -- -D warnings
step "Documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --release --workspace --no-deps --quiet
step "Deployment files"
scripts/lint-deploy.sh
# Optional parts are checked where their dependencies were already built once
# (`make check-features` and `make test-mistralrs` do that), so that a cold CI stays
# short.
if [ -f "$CACHE/features-warm" ]; then
  step "Optional features"
  scripts/features.sh features
fi
if [ -f "$CARGO_TARGET_DIR/mistralrs-warm" ]; then
  step "The engine mistralrs"
  scripts/features.sh mistralrs
fi
step "Tests"
# a test program that the cache has from another checkout would look there for what
# was reviewed
export INSTA_WORKSPACE_ROOT=$ROOT
cargo test --locked --release --workspace
step "OpenAI's clients"
scripts/clients.sh
step "All checks passed"
