#!/usr/bin/env bash
# Builds the workspace `mistralrs` with its 650 packages, checks it and runs its
# tests: the conformance suite of all engines, and the same answers as the native
# engine's.
. "$(dirname "$0")/common.sh"
cd "$ROOT"
say "Build (the first time takes a quarter of an hour on two cores)"
cargo test --locked --release --manifest-path mistralrs/Cargo.toml --workspace --no-run
say "Tests"
cargo test --locked --release --manifest-path mistralrs/Cargo.toml --workspace
say "Lints"
scripts/features.sh mistralrs
