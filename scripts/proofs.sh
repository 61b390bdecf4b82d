#!/usr/bin/env bash
# Shows on the default model that thumbs and corrections make better adapters and
# that bad votes make none; each through a store, a run and a gate of its own.
#   ONLY="thumbs corrections planted"   which
#   SEEDS=20 SEED=0                     planted datasets, from which seed on
#   OUT=FOLDER                          where stores, runs and reports stay
. "$(dirname "$0")/common.sh"
cd "$ROOT"
out=${OUT:-$(mktemp -d)}
say "Stores, runs and reports are kept in $out"
status=0
for proof in ${ONLY:-thumbs corrections planted}; do
  say "Proof: $proof"
  "$CARGO_TARGET_DIR/release/flywheel-trainer" prove "$proof" --model "$MODEL" --scratch "$out" \
    --general gateway/src/demo/data/general.jsonl --replay gateway/src/demo/data/replay.jsonl \
    --seed "${SEED:-0}" --seeds "${SEEDS:-20}" || status=$?
done
exit "$status"
