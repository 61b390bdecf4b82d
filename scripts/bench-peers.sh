#!/usr/bin/env bash
# Measures our engine beside llama.cpp, which is built here from its Python
# package for this CPU (some ten minutes, once).
. "$(dirname "$0")/common.sh"
cd "$ROOT"
PACKAGE=llama-cpp-python==0.3.36
venv=$CACHE/peers-venv
if [ ! -f "$venv/$PACKAGE" ]; then
  say "Building llama.cpp for this CPU (Python package $PACKAGE; some ten minutes, once)"
  python3 -m venv "$venv" || fail "python3-venv is needed: apt-get install python3-venv"
  CMAKE_ARGS=-DGGML_NATIVE=ON "$venv/bin/pip" install -q --no-binary llama-cpp-python "$PACKAGE" ||
    fail "$PACKAGE could not be built; is there a C++ compiler?"
  touch "$venv/$PACKAGE"
fi
exec "$venv/bin/python" tests/scripts/bench_peers.py "$CARGO_TARGET_DIR/release/flywheel" "$MODEL" "${ROUNDS:-5}" "${THREADS:-2}"
