#!/usr/bin/env bash
# Builds the gateway and its second engine with the feature `mistralrs` (650
# packages), and runs their tests: the conformance suite of all engines, the same
# answers as the native engine's, and a gateway that serves with it.
. "$(dirname "$0")/common.sh"
cd "$ROOT"
# One set of crates and features, so that what they share is compiled once.
with=(--locked --release -p gateway -p engine-mistralrs --features gateway/mistralrs)
say "Build (the first time takes a quarter of an hour on two cores)"
cargo test "${with[@]}" --no-run
say "Tests"
cargo test "${with[@]}"
say "Lints"
scripts/features.sh mistralrs
