#!/usr/bin/env bash
# Measures our engine beside llama.cpp, library and server, and our trainer beside TRL
# and PEFT. ONLY=engine or ONLY=training leaves the other out.
. "$(dirname "$0")/common.sh"
cd "$ROOT"
if [ "${ONLY:-training}" = training ]; then
  training=$(scripts/peers-training.sh)
  "$training/bin/python" tests/scripts/bench_training.py "$CARGO_TARGET_DIR/release/flywheel-trainer" \
    "$MODEL" "${ROUNDS:-3}" "${THREADS:-2}"
  if [ "${ONLY:-}" = training ]; then exit; fi
fi
peers=$(scripts/peers-llama.sh)
export LLAMA_CPP_LIB_PATH=$peers/build/bin
exec "$peers/venv/bin/python" tests/scripts/bench_peers.py "$CARGO_TARGET_DIR/release/flywheel" \
  "$peers/build/bin/llama-server" "$MODEL" "${ROUNDS:-5}" "${THREADS:-2}"
