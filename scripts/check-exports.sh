#!/usr/bin/env bash
# Holds exports of an adapter against PEFT and llama.cpp: 50 answers, token by token.
#   ADAPTER=FOLDER  a PEFT folder; by default one is trained on 200 corrections first
. "$(dirname "$0")/common.sh"
cd "$ROOT"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
adapter=${ADAPTER:-}
if [ -z "$adapter" ]; then
  ONLY=corrections OUT=$out scripts/proofs.sh
  adapter=$(find "$out" -name adapter_model.safetensors -path '*/done/*' -printf '%h\n' | head -1)
  [ -n "$adapter" ] || fail "the proof left no adapter in $out"
fi
training=$(scripts/peers-training.sh)
peers=$(scripts/peers-llama.sh)
say "PEFT answers with the exported adapter"
"$training/bin/python" tests/scripts/check_exports.py peft "$CARGO_TARGET_DIR/release/flywheel-trainer" \
  "$MODEL" "$adapter" "$out/exports"
say "llama.cpp does, with the exported files"
LLAMA_CPP_LIB_PATH=$peers/build/bin "$peers/venv/bin/python" tests/scripts/check_exports.py llama "$out/exports"
