#!/usr/bin/env bash
# Holds training on the default model against TRL's and PEFT's: for every loss that
# both have, the first step's loss, metrics and gradients and twenty steps of the
# optimizer. TRL gets the model dequantized, in f32, and takes some minutes.
. "$(dirname "$0")/common.sh"
cd "$ROOT"
python=$(scripts/peers-training.sh)/bin/python
FLYWHEEL_TRL_GOLDEN=$(mktemp -d)
export FLYWHEEL_TRL_GOLDEN
trap 'rm -rf "$FLYWHEEL_TRL_GOLDEN"' EXIT
say "TRL trains on the default model"
"$python" tests/scripts/make_trl_golden.py "$MODEL" "$FLYWHEEL_TRL_GOLDEN"
say "Ours does, and is compared"
cargo test --locked --release --workspace --lib -- --ignored --nocapture trls_on_the_default_model
