#!/usr/bin/env bash
# Installs TRL, PEFT and transformers where they are not yet, and prints their folder.
. "$(dirname "$0")/common.sh"
training=$CACHE/peers-training
if [ ! -f "$training/installed" ]; then
  say "Installing TRL and PEFT into $training (some 6 GB, with what torch brings)" >&2
  python3 -m venv "$training" || fail "python3-venv is needed: apt-get install python3-venv"
  "$training/bin/python" -m pip --disable-pip-version-check install -q torch==2.15.0 \
    transformers==5.24.0 peft==0.21.2 trl==1.16.0 datasets==5.2.0 accelerate==1.15.0 gguf==0.19.0 >&2
  touch "$training/installed"
fi
echo "$training"
